//! The proxy's answers in words and tables.

use super::table::{table, time};
use crate::admin::client::report::{
    BackendReport, Backends, Blocked, KickReport, PinReport, Pins, PresentReport, Reloaded,
    RouteAnswer, RouteReport, Sessions, StateReport, Status, UserReport,
};

/// `pointsman status`.
pub(super) fn status(status: &Status) -> String {
    let Status { version, pid, phase, configuration, generation, .. } = status;
    let facts = [
        format!("pointsman {version}, process {pid}, {phase} for {}", time(status.uptime_seconds)),
        format!("configuration {configuration}, generation {generation}"),
        format!(
            "{} connections, {} sessions of {} users; {} more users are remembered",
            status.connections, status.sessions, status.users, status.remembered
        ),
        format!(
            "{} pins, {} blocked users, store revision {}",
            status.pins, status.blocked, status.store_revision
        ),
    ];
    let listeners: Vec<Vec<String>> = status
        .listeners
        .iter()
        .map(|listener| vec![listener.name.clone(), listener.address.clone()])
        .collect();
    let shards: Vec<Vec<String>> = status
        .shards
        .iter()
        .map(|shard| {
            let usable = format!("{} of {}", shard.usable, shard.backends);
            vec![shard.name.clone(), usable, shard.sessions.to_string()]
        })
        .collect();
    format!(
        "{}\n\n{}\n\n{}",
        facts.join("\n"),
        table(&["LISTENER", "ADDRESS"], &listeners),
        table(&["SHARD", "USABLE BACKENDS", "SESSIONS"], &shards)
    )
}

/// `pointsman backends`.
pub(super) fn backends(backends: &Backends) -> String {
    let row = |backend: &BackendReport| {
        let gone = if backend.configured { "" } else { " (not configured any more)" };
        vec![
            backend.name.clone(),
            backend.shard.clone(),
            backend.address.clone(),
            format!("{}{gone}", backend.state),
            backend.state_from.clone(),
            yes_no(backend.reachable),
            backend.sessions.to_string(),
            backend.connecting.to_string(),
            backend.unseen_ends.to_string(),
        ]
    };
    let rows: Vec<_> = backends.backends.iter().map(row).collect();
    let head = [
        "BACKEND",
        "SHARD",
        "ADDRESS",
        "STATE",
        "SET BY",
        "REACHABLE",
        "SESSIONS",
        "CONNECTING",
        "UNSEEN ENDS",
    ];
    table(&head, &rows)
}

/// `pointsman drain` and its like.
pub(super) fn state(report: &StateReport) -> String {
    let StateReport { backend, shard, state, sessions, .. } = report;
    let news = if report.changed { "is" } else { "was already" };
    let sessions = match (report.end_within_seconds, report.fenced) {
        (_, true) => format!("its {sessions} sessions are over"),
        (Some(seconds), _) => format!("its {sessions} sessions end within {}", time(seconds)),
        (None, false) => format!("{sessions} sessions are on it"),
    };
    format!("backend {backend} of shard {shard} {news} {state}; {sessions}")
}

/// `pointsman route`.
pub(super) fn route(report: &RouteReport) -> String {
    let mut parts = vec![format!("user {}{}", report.user, if_so(report.blocked, " (blocked)"))];
    let lookups: Vec<Vec<String>> = report
        .lookups
        .iter()
        .map(|lookup| {
            let place = lookup.place.map_or_else(|| "-".to_owned(), |place| place.to_string());
            let time = format!("{} us", lookup.microseconds);
            vec![place, lookup.lookup.clone(), lookup.result.clone(), time]
        })
        .collect();
    parts.push(table(&["PLACE", "LOOKUP", "RESULT", "TIME"], &lookups));
    parts.extend(report.route.as_ref().map(answer));
    let candidates: Vec<Vec<String>> = report
        .candidates
        .iter()
        .map(|candidate| {
            vec![
                candidate.turn.map_or_else(|| "-".to_owned(), |turn| turn.to_string()),
                candidate.backend.clone(),
                candidate.state.clone(),
                yes_no(candidate.reachable),
                candidate.sessions.to_string(),
            ]
        })
        .collect();
    if !candidates.is_empty() {
        let head = ["TURN", "BACKEND", "STATE", "REACHABLE", "SESSIONS"];
        parts.push(table(&head, &candidates));
    }
    parts.extend(report.present.as_ref().map(present));
    let pending = if_so(report.route_pending, "; the route names another shard than the sessions'");
    let reason = &report.reason;
    parts.push(match &report.backend {
        Some(backend) => format!("the next login goes to {backend} ({reason}){pending}"),
        None => format!("the next login goes nowhere: {reason}{pending}"),
    });
    parts.join("\n\n")
}

fn answer(route: &RouteAnswer) -> String {
    let slot = route.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let only = route.only_backend.as_ref().map(|only| format!(", only backend {only}"));
    format!(
        "{} says shard {}{slot}{} (generation {}); identity {}, routing key {}",
        route.lookup,
        route.shard,
        only.unwrap_or_default(),
        route.generation,
        route.identity,
        route.routing_key
    )
}

fn present(present: &PresentReport) -> String {
    let left = present.remembered_seconds;
    let remembered = left.map(|left| format!(", remembered for {}", time(left)));
    format!(
        "now on {} of shard {}: {} sessions, {} logins on their way, {} ends not seen{}",
        present.backend,
        present.shard,
        present.sessions,
        present.connecting,
        present.unseen_ends,
        remembered.unwrap_or_default()
    )
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn if_so(so: bool, text: &str) -> &str {
    if so { text } else { "" }
}

/// `pointsman sessions`.
pub(super) fn sessions(sessions: &Sessions) -> String {
    let rows: Vec<Vec<String>> = sessions
        .sessions
        .iter()
        .map(|session| {
            vec![
                session.session.clone(),
                session.user.clone(),
                session.backend.clone(),
                session.shard.clone(),
                session.listener.clone(),
                session.client.clone(),
                time(session.seconds),
            ]
        })
        .collect();
    let head = ["SESSION", "USER", "BACKEND", "SHARD", "LISTENER", "CLIENT", "SINCE"];
    with_more(table(&head, &rows), rows.len(), sessions.next.is_some())
}

/// `pointsman kick`.
pub(super) fn kick(report: &KickReport) -> String {
    let blocked = if report.blocked { "; the user is blocked" } else { "" };
    format!("{} sessions of {} users end{blocked}", report.sessions, report.users)
}

/// `pointsman pin` and its like.
pub(super) fn user(report: &UserReport) -> String {
    let UserReport { user, sessions, .. } = report;
    let pinned = match &report.pinned {
        Some(shard) => format!("pinned to shard {shard}"),
        None => "not pinned".to_owned(),
    };
    let blocked = if report.blocked { "blocked" } else { "not blocked" };
    let news = if report.changed { "is now" } else { "was already" };
    let stay = match sessions {
        0 => String::new(),
        _ => format!("; {sessions} open sessions stay where they are"),
    };
    format!("user {user} {news} {pinned} and {blocked}{stay}")
}

/// `pointsman pins`.
pub(super) fn pins(pins: &Pins) -> String {
    let row = |pin: &PinReport| {
        let gone = if pin.configured { "" } else { " (not configured)" };
        vec![pin.user.clone(), format!("{}{gone}", pin.shard)]
    };
    let rows: Vec<_> = pins.pins.iter().map(row).collect();
    with_more(table(&["USER", "SHARD"], &rows), rows.len(), pins.next.is_some())
}

/// `pointsman blocked`.
pub(super) fn blocked(blocked: &Blocked) -> String {
    let rows: Vec<_> = blocked.users.iter().map(|user| vec![user.clone()]).collect();
    with_more(table(&["USER"], &rows), rows.len(), blocked.next.is_some())
}

/// `pointsman reload`.
pub(super) fn reload(reloaded: &Reloaded) -> String {
    format!("the configuration is in force, generation {}", reloaded.generation)
}

fn with_more(shown: String, rows: usize, more: bool) -> String {
    if more { format!("{shown}\n(the first {rows}; there are more)") } else { shown }
}
