//! The operator's commands on a running proxy: what they print, what they change, what they
//! refuse, and what survives a restart.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic, and times are real"
)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use support::backend::{Backend, Opening};
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::{Places, Pointsman, run_binary};
use support::tls::Authority;
use support::{PATIENCE, Stopwatch, wait_until};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Two shards: `north` with `n1` and `n2` in file order, where users live, and `south`.
struct Site {
    n1: Backend,
    n2: Backend,
    s1: Backend,
    proxy: Pointsman,
}

fn shards(n1: &Backend, n2: &Backend, s1: &Backend) -> String {
    let backend = |name: &str, backend: &Backend| {
        let port = backend.port();
        format!("{{ name: {name}, address: \"127.0.0.1:{port}\", tls: none }}")
    };
    format!(
        "shards:\n  north: {{ kind: primary, backends: [ {}, {} ] }}\n  south: {{ kind: primary, \
         backends: [ {} ] }}\nrouting: {{ lookups: [ {{ shard: north }} ] }}\n",
        backend("n1", n1),
        backend("n2", n2),
        backend("s1", s1)
    )
}

/// The body of a call that drains a backend.
const DRAIN: &str = r#"{"state": "drain"}"#;

impl Site {
    fn start() -> Self {
        Self::start_with(Places::head)
    }

    fn start_with(head: impl FnOnce(&Places) -> String) -> Self {
        let (n1, n2, s1) = (Backend::ordinary(), Backend::ordinary(), Backend::ordinary());
        let proxy = Pointsman::start(&AUTHORITY, |places| head(places) + &shards(&n1, &n2, &s1));
        Self { n1, n2, s1, proxy }
    }

    /// Logs a user in and gives the names of the backends that have him then, by his logins.
    fn logs_in_on(&self, user: &str) -> &'static str {
        let before = [&self.n1, &self.n2, &self.s1].map(|backend| backend.users().len());
        self.proxy.logged_in(user, "secret").logout();
        let after = [&self.n1, &self.n2, &self.s1].map(|backend| backend.users().len());
        let place = (0..3).find(|place| after[*place] > before[*place]).unwrap();
        ["n1", "n2", "s1"][place]
    }

    fn wait_for_sessions(&self, count: f64) {
        self.proxy.wait_for_metrics("so many sessions", |now| {
            now.sum("pointsman_backend_sessions", &[]) == count
        });
    }
}

fn idling(proxy: &Pointsman, user: &str) -> Client {
    let mut client = proxy.logged_in(user, "secret");
    client.send("i IDLE\r\n");
    client.expect("+ ");
    client
}

#[test]
fn status_and_backends_show_what_there_is() {
    let site = Site::start();
    let _anna = idling(&site.proxy, "anna");
    let _again = idling(&site.proxy, "anna");
    let status = site.proxy.operate_json(&["status"]);
    assert_eq!((&status["sessions"], &status["users"]), (&json!(2), &json!(1)));
    assert_eq!((&status["phase"], &status["generation"]), (&json!("running"), &json!(1)));
    assert_eq!(status["shards"][0], json!({"name":"north","backends":2,"usable":2,"sessions":2}));
    let text = site.proxy.operate_ok(&["status"]);
    assert!(text.contains("2 sessions of 1 users") && text.contains("SHARD"), "{text}");

    let backends = site.proxy.operate_json(&["backends"]);
    let n1 = &backends["backends"][0];
    assert_eq!(
        (&n1["name"], &n1["state"], &n1["sessions"]),
        (&json!("n1"), &json!("up"), &json!(2))
    );
    assert_eq!(n1["state_from"], "configuration");
    let text = site.proxy.operate_ok(&["backends"]);
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["BACKEND", "SHARD", "ADDRESS"]);
    assert_eq!((rows[1][0], rows[1][3], rows[1][6]), ("n1", "up", "2"));
    assert_eq!(rows.len(), 4);
}

#[test]
fn states_are_changed_at_run_time_win_over_the_file_and_survive_a_restart() {
    let site = Site::start();
    assert_eq!(site.logs_in_on("anna"), "n1");
    let said = site.proxy.operate_ok(&["drain", "n1"]);
    assert!(said.contains("backend n1 of shard north is drain"), "{said}");
    assert_eq!(site.logs_in_on("anna"), "n2", "memory does not bring her back");
    let said = site.proxy.operate_ok(&["drain", "n1"]);
    assert!(said.contains("was already drain"), "{said}");

    // The file says `up` still.
    site.proxy.reload();
    assert_eq!(site.logs_in_on("bert"), "n2");
    let backend = &site.proxy.operate_json(&["backends"])["backends"][0];
    assert_eq!((&backend["state"], &backend["state_from"]), (&json!("drain"), &json!("run-time")));

    let Site { n1, n2, s1, mut proxy } = site;
    proxy.restart();
    let site = Site { n1, n2, s1, proxy };
    assert_eq!(site.logs_in_on("carl"), "n2");
    let drain = [("backend", "n1"), ("state", "drain")];
    site.proxy.wait_for_metrics("the state shows", |now| {
        now.sum("pointsman_backend_state", &drain) == 1.0
    });
    site.proxy.operate_ok(&["resume", "n1"]);
    assert_eq!(site.logs_in_on("dora"), "n1");
    let backend = &site.proxy.operate_json(&["backends"])["backends"][0];
    assert_eq!(backend["state_from"], "configuration");
    site.proxy.operate_ok(&["standby", "n1"]);
    assert_eq!(site.logs_in_on("emma"), "n2");
}

#[test]
fn the_last_backend_of_a_shard_is_not_taken_without_force() {
    let site = Site::start();
    let _anna = idling(&site.proxy, "anna");
    site.proxy.operate_ok(&["drain", "n2"]);
    for call in ["drain", "disable"] {
        let (code, said) = site.proxy.operate(&[call, "n1"]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("last of the 2 backends of shard \"north\""), "{said}");
        assert!(said.contains("1 draining") && said.contains("1 sessions"), "{said}");
        assert!(said.contains("--force"), "{said}");
    }
    assert_eq!(site.logs_in_on("bert"), "n1");
    site.proxy.operate_ok(&["drain", "n1", "--force"]);
    let told = site.proxy.client().try_login("bert", "secret").status;
    assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
    let (code, said) = site.proxy.operate(&["drain", "n9"]);
    assert_eq!(code, 1);
    assert!(said.contains("there is no backend \"n9\""), "{said}");
}

#[test]
fn of_two_calls_at_once_one_is_refused_the_last_backend_of_a_shard() {
    let site = Site::start();
    let drain =
        &|name: &str| site.proxy.admin_post(&format!("backends/{name}/state"), DRAIN).status;
    for _ in 0..20 {
        let mut said: Vec<u16> = std::thread::scope(|scope| {
            let calls = ["n1", "n2"].map(|name| scope.spawn(move || drain(name)));
            calls.map(|call| call.join().unwrap()).to_vec()
        });
        said.sort_unstable();
        assert_eq!(said, [200, 409]);
        for name in ["n1", "n2"] {
            site.proxy.operate_ok(&["resume", name]);
        }
    }
}

#[test]
fn a_drained_backend_is_empty_in_time_where_that_is_asked_for() {
    let site = Site::start();
    let mut idle: Vec<Client> = (0..20).map(|n| idling(&site.proxy, &format!("user{n}"))).collect();
    let begun = Stopwatch::start();
    site.proxy.operate_ok(&["drain", "n1", "--end-within", "2s"]);
    for client in &mut idle {
        client.expect_eventually("* BYE [UNAVAILABLE]");
        client.expect_end();
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    site.wait_for_sessions(0.0);
    let closed = [("reason", "backend_drain")];
    site.proxy.wait_for_metrics("they are counted", |now| {
        now.sum("pointsman_sessions_closed_total", &closed) == 20.0
    });
    assert_eq!(site.logs_in_on("user0"), "n2");
}

/// Over what time `n1` was to be emptied, and when that time is over.
const EMPTIED_WITHIN: &str = "12s";
const EMPTIED_BY: Duration = Duration::from_secs(13);

#[test]
fn a_shorter_order_to_empty_a_backend_holds_for_the_sessions_that_have_a_longer_one() {
    for further in ["drain", "disable"] {
        let site = Site::start();
        let mut idle: Vec<_> = (0..5).map(|n| idling(&site.proxy, &format!("user{n}"))).collect();
        site.proxy.operate_ok(&["drain", "n1", "--end-within", "4h"]);
        site.proxy.operate_ok(&[further, "n1", "--end-within", "1s"]);
        for client in &mut idle {
            client.expect_eventually("* BYE [UNAVAILABLE]");
        }
        site.wait_for_sessions(0.0);
    }
}

/// Clients that have not been told to go yet are there still when the backend would have been
/// empty, all but so many.
fn assert_stay(idle: Vec<Client>, told_max: usize) {
    let mut kept: Vec<Client> = Vec::new();
    for mut client in idle {
        // At once where the session's turn has not come.
        client.send("DONE\r\n");
        if !client.read_line().starts_with("* BYE") {
            kept.push(client);
        }
    }
    assert!(!kept.is_empty(), "all were told to go before their backend took users again");
    std::thread::sleep(EMPTIED_BY);
    let told = kept.iter_mut().filter_map(|client| {
        client.send("n NOOP\r\n");
        client.read_line().starts_with("* BYE").then_some(())
    });
    let told = told.count();
    assert!(told <= told_max, "{told} were told to go");
}

#[test]
fn the_sessions_of_a_backend_that_takes_users_again_stay() {
    for again in ["resume", "standby"] {
        let site = Site::start();
        let idle = (0..10).map(|n| idling(&site.proxy, &format!("user{n}"))).collect();
        site.proxy.operate_ok(&["drain", "n1", "--end-within", EMPTIED_WITHIN]);
        site.proxy.operate_ok(&[again, "n1"]);
        assert_stay(idle, 0);
    }
}

#[test]
fn an_order_to_empty_a_backend_ends_for_good_where_it_takes_users_in_between() {
    let site = Site::start();
    let idle = (0..10).map(|n| idling(&site.proxy, &format!("user{n}"))).collect();
    site.proxy.operate_ok(&["drain", "n1", "--end-within", EMPTIED_WITHIN]);
    site.proxy.operate_ok(&["resume", "n1"]);
    site.proxy.operate_ok(&["drain", "n1", "--end-within", "24h"]);
    // The turn of one in thousands comes within seconds.
    assert_stay(idle, 1);
}

#[test]
fn a_backend_that_the_file_lets_take_users_again_is_emptied_no_longer() {
    let site = Site::start();
    let text = |places: &Places, state: &str| {
        let shards = shards(&site.n1, &site.n2, &site.s1);
        places.head() + &shards.replacen("tls: none", &format!("tls: none, state: {state}"), 1)
    };
    let reload = |state: &str| {
        site.proxy.rewrite(|places| text(places, state));
        site.proxy.reload();
    };
    let mut idle: Vec<_> = (0..10).map(|n| idling(&site.proxy, &format!("user{n}"))).collect();
    reload("drain");
    // It is the file's own state, which is not stored.
    site.proxy.operate_ok(&["drain", "n1", "--end-within", EMPTIED_WITHIN]);
    assert_eq!(
        site.proxy.operate_json(&["backends"])["backends"][0]["state_from"],
        "configuration"
    );
    reload("up");
    // By now it has been looked at again.
    std::thread::sleep(Duration::from_secs(3));
    idle.extend((0..5).map(|n| idling(&site.proxy, &format!("later{n}"))));
    assert!(site.n1.users().iter().any(|user| user == "later0"));
    assert_stay(idle, 0);
}

#[test]
fn an_order_to_empty_a_backend_ends_no_session_elsewhere_of_one_whose_login_failed_there() {
    let failing = Ordinary::new()
        .delay("AUTHENTICATE", Duration::from_secs(2))
        .verdict(|_, _| "NO [UNAVAILABLE] not now".to_owned())
        .start();
    let (n2, s1) = (Backend::ordinary(), Backend::ordinary());
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &shards(&failing, &n2, &s1));
    let mut client = proxy.client();
    let tag = client.send_command("LOGIN anna secret");
    wait_until("it is under way", || (failing.connections() == 1).then_some(()));
    proxy.operate_ok(&["drain", "n1", "--end-within", "6s"]);
    let told = client.read_response(&tag).status;
    assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
    client.login("anna", "secret");
    assert_eq!(n2.users(), ["anna"]);
    client.expect_silence(Duration::from_secs(7));
    client.command_ok("NOOP");
}

#[test]
fn users_of_a_fenced_backend_go_elsewhere_at_once_though_it_never_said_goodbye() {
    // It takes logins, and then neither answers nor closes, as a server that hangs.
    let hung = Backend::start(Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
        peer.answer("AUTHENTICATE", "{tag} OK [CAPABILITY IMAP4rev1] in\r\n")?;
        while peer.line().is_ok() {}
        std::thread::sleep(PATIENCE);
        Ok(())
    });
    let (n2, s1) = (Backend::ordinary(), Backend::ordinary());
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &shards(&hung, &n2, &s1));
    let mut kept = proxy.logged_in("anna", "secret");
    drop(proxy.logged_in("bert", "secret"));
    proxy.operate_ok(&["disable", "n1"]);
    for user in ["anna", "bert"] {
        let told = proxy.client().try_login(user, "secret").status;
        assert!(told.starts_with("NO [UNAVAILABLE]"), "{user}: {told}");
    }
    let said = proxy.operate_ok(&["disable", "n1", "--fenced"]);
    assert!(said.contains("sessions are over"), "{said}");
    kept.expect_eventually("* BYE [UNAVAILABLE]");
    for user in ["anna", "bert"] {
        wait_until("the user may go elsewhere", || {
            let told = proxy.client().try_login(user, "secret").status;
            told.starts_with("OK").then_some(())
        });
    }
    assert_eq!(n2.users(), ["anna", "bert"]);
}

#[test]
fn the_clients_of_a_fenced_backend_are_let_go_over_some_time() {
    const SPREAD: Duration = Duration::from_secs(4);
    let site = Site::start_with(|places| {
        places.head_without_limits()
            + "limits: { exempt: [127.0.0.0/8] }\nupstream: { disconnect_spread: 4s }\n"
    });
    let clients: Vec<Client> =
        (0..60).map(|number| idling(&site.proxy, &format!("user{number}"))).collect();
    let watch = Stopwatch::start();
    site.proxy.operate_ok(&["disable", "n1", "--fenced"]);
    let late = std::thread::scope(|scope| {
        let wait = |mut client: Client| {
            client.expect("* BYE [UNAVAILABLE]");
            watch.elapsed() > SPREAD / 4
        };
        let waits: Vec<_> =
            clients.into_iter().map(|client| scope.spawn(move || wait(client))).collect();
        waits.into_iter().map(|wait| wait.join().unwrap()).filter(|late| *late).count()
    });
    // Three of four on the average; at once it would be none.
    assert!(late > 15, "{late} of 60 were let go later");
}

#[test]
fn sessions_are_listed_by_user_and_backend_and_in_pages() {
    let site = Site::start();
    let _held: Vec<Client> =
        (0..7).map(|n| site.proxy.logged_in(&format!("user{n}"), "secret")).collect();
    let again = site.proxy.logged_in("user3", "secret");
    let all = site.proxy.operate_json(&["sessions"]);
    assert_eq!(all["sessions"].as_array().unwrap().len(), 8);
    assert_eq!(all["next"], json!(null));
    // By another spelling of the name.
    let of_user = site.proxy.operate_json(&["sessions", "--user", " USER3 "]);
    let rows = of_user["sessions"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["user"] == "user3" && row["backend"] == "n1"), "{rows:?}");
    let client = again.local_address().to_string();
    assert!(rows.iter().any(|row| row["client"] == client.as_str()), "{rows:?}");
    let id = rows[0]["session"].as_str().unwrap();
    assert!(site.n1.received_text(0).len() > 1 && id.len() == 16, "{id}");
    let none = site.proxy.operate_json(&["sessions", "--backend", "n2"]);
    assert_eq!(none["sessions"], json!([]));

    let (mut seen, mut from) = (Vec::new(), String::new());
    loop {
        let path = format!("GET /api/v1/sessions?max=3{from} HTTP/1.1\r\nHost: l\r\n\r\n");
        let answer = site.proxy.admin_request(path);
        let page: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let rows = page["sessions"].as_array().unwrap();
        assert!(rows.len() <= 3);
        seen.extend(rows.iter().map(|row| row["session"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        from = format!("&from={next}");
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 8);
    let text = site.proxy.operate_ok(&["sessions", "--max", "2"]);
    assert!(text.contains("there are more"), "{text}");
}

/// Three backends of one shared shard behind a users file and hash slots.
fn spread(backends: &[Backend; 3]) -> Pointsman {
    let listed: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(n, backend)| {
            format!("{{ name: b{n}, address: \"127.0.0.1:{}\", tls: none }}", backend.port())
        })
        .collect();
    Pointsman::start(&AUTHORITY, |places| {
        std::fs::write(places.file("users"), "carl t\n").unwrap();
        let users = places.file("users").display().to_string();
        format!(
            "{}shards:\n  s: {{ kind: shared, backends: [ {} ] }}\n  t: {{ kind: shared, backends: [ \
             {{ name: t1, address: \"127.0.0.1:1\", tls: none }} ] }}\nrouting: {{ lookups: [ {{ \
             users: {{ file: \"{users}\" }} }}, {{ hash: {{ shards: [s] }} }} ] }}\n",
            places.head(),
            listed.join(", ")
        )
    })
}

#[test]
fn route_foretells_each_login_and_touches_nothing() {
    let backends = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
    let proxy = spread(&backends);
    proxy.operate_ok(&["drain", "b1"]);
    let mut foretold = std::collections::BTreeMap::new();
    for n in 0..20 {
        let user = format!("user{n}");
        let told = proxy.operate_json(&["route", &user]);
        assert_eq!(told["reason"], "first-candidate", "{told}");
        let backend = told["backend"].as_str().unwrap().to_owned();
        assert_ne!(backend, "b1");
        foretold.insert(user, backend);
    }
    let status = proxy.operate_json(&["status"]);
    assert_eq!((&status["users"], &status["remembered"]), (&json!(0), &json!(0)));
    assert_eq!(proxy.metrics().sum("pointsman_lookup_seconds_count", &[]), 0.0, "no login");
    assert!(backends.iter().all(|backend| backend.users().is_empty()));
    for (user, backend) in &foretold {
        proxy.logged_in(user, "secret").logout();
        let place: usize = backend[1..].parse().unwrap();
        assert!(backends[place].users().contains(user), "{user} on {backend}");
    }
}

#[test]
fn route_says_which_lookup_slot_and_candidates_there_are() {
    let backends = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
    let proxy = spread(&backends);
    proxy.operate_ok(&["drain", "b1"]);
    proxy.operate_ok(&["standby", "b2"]);
    let told = proxy.operate_json(&["route", " ANNA "]);
    assert_eq!(told["user"], "anna");
    let asked: Vec<(&str, &str)> = told["lookups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|asked| (asked["lookup"].as_str().unwrap(), asked["result"].as_str().unwrap()))
        .collect();
    assert_eq!(asked, [("users", "miss"), ("hash", "found")]);
    assert_eq!((&told["route"]["shard"], &told["route"]["lookup"]), (&json!("s"), &json!("hash")));
    assert!(told["route"]["slot"].as_u64().unwrap() < 16_384, "{told}");
    let turns: Vec<_> = told["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["backend"].as_str().unwrap(), one["turn"].as_u64(), &one["state"]))
        .collect();
    let states = [json!("up"), json!("standby"), json!("drain")];
    let expected =
        [("b0", Some(1), &states[0]), ("b2", Some(2), &states[1]), ("b1", None, &states[2])];
    assert_eq!(turns, expected);
    let text = proxy.operate_ok(&["route", "anna"]);
    assert!(text.contains("hash says shard s, slot "), "{text}");
    assert!(text.ends_with("the next login goes to b0 (first-candidate)\n"), "{text}");
}

#[test]
fn route_tells_what_keeps_a_user_where_he_is_or_out() {
    let backends = [Backend::ordinary(), Backend::ordinary(), Backend::ordinary()];
    let proxy = spread(&backends);
    proxy.operate_ok(&["drain", "b1"]);
    proxy.operate_ok(&["standby", "b2"]);
    let route = |user: &str| proxy.operate_json(&["route", user]);
    let session = proxy.logged_in("anna", "secret");
    proxy.operate_ok(&["pin", "anna", "t"]);
    let told = route("anna");
    assert_eq!((&told["backend"], &told["reason"]), (&json!("b0"), &json!("joins-sessions")));
    assert_eq!(told["route_pending"], true, "{told}");
    assert_eq!(told["lookups"][0]["lookup"], "pins");
    assert_eq!((&told["present"]["sessions"], &told["present"]["shard"]), (&json!(1), &json!("s")));
    proxy.operate_ok(&["disable", "b0"]);
    let told = route("anna");
    assert_eq!((&told["backend"], &told["reason"]), (&json!(null), &json!("backend_disabled")));
    proxy.operate_ok(&["resume", "b0"]);
    proxy.operate_ok(&["unpin", "anna"]);
    session.logout();
    let remembered = wait_until("she is remembered", || {
        Some(route("anna")).filter(|told| told["reason"] == "remembered")
    });
    assert_eq!(remembered["backend"], "b0");
    assert!(remembered["present"]["remembered_seconds"].as_u64().unwrap() > 800);
    proxy.operate_ok(&["block", "anna"]);
    let told = route("anna");
    assert_eq!((&told["blocked"], &told["reason"]), (&json!(true), &json!("blocked")));
    assert_eq!(told["backend"], json!(null));
    let (code, said) = proxy.operate(&["route", "an*na"]);
    assert_eq!(code, 1);
    assert!(said.contains("no user can have that name"), "{said}");
}

/// B-68: sessions that are older than a reload can be ended too.
#[test]
fn b68_a_kick_ends_sessions_by_any_spelling_also_after_a_reload() {
    let site = Site::start();
    let mut idle = idling(&site.proxy, "Anna");
    let mut quiet = site.proxy.logged_in("anna", "secret");
    let mut other = site.proxy.logged_in("bert", "secret");
    site.proxy.reload();
    site.proxy.reload();
    let said = site.proxy.operate_ok(&["kick", "  aNNa "]);
    assert!(said.contains("2 sessions of 1 users end"), "{said}");
    for client in [&mut idle, &mut quiet] {
        client.expect("* BYE [UNAVAILABLE] The administrator ended this session.");
        client.expect_end();
    }
    other.command_ok("NOOP");
    site.wait_for_sessions(1.0);
    let closed = [("reason", "kicked")];
    site.proxy.wait_for_metrics("they are counted", |now| {
        now.sum("pointsman_sessions_closed_total", &closed) == 2.0
    });
    // Nobody is kept out by a kick alone.
    assert_eq!(site.logs_in_on("anna"), "n1");
}

/// B-82: never inside a literal.
/// A proxy in front of that one backend, which takes its time.
fn before_a_slow_one(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| {
        let times = "upstream: { connect_timeout: 20s, login_timeout: 30s }\n";
        places.head() + times + &support::backend::shard(backend)
    })
}

fn wait_for(go: &AtomicBool) {
    while !go.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_kick_ends_a_login_that_waits_for_the_backend_before_its_credentials_are_given_away() {
    let go = Arc::new(AtomicBool::new(false));
    let wait = Arc::clone(&go);
    let backend = Backend::start(Opening::clear(), move |peer| {
        wait_for(&wait);
        Ordinary::new().converse(peer)
    });
    let proxy = before_a_slow_one(&backend);
    let (mut anna, mut bert) = (proxy.client(), proxy.client());
    let anna_tag = anna.send_command("LOGIN anna secret");
    let bert_tag = bert.send_command("LOGIN bert secret");
    backend.wait_for_connections(2);
    proxy.operate_ok(&["kick", " ANNA"]);
    go.store(true, Ordering::SeqCst);
    let told = anna.read_response(&anna_tag).status;
    assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
    assert!(bert.read_response(&bert_tag).is_ok(), "nobody else is meant");
    assert_eq!(backend.users(), ["bert"]);
    proxy.wait_for_log("reason=kicked");
    // What begins later is another login.
    anna.login("anna", "secret");
    assert_eq!(backend.users(), ["bert", "anna"]);
    anna.logout();
}

#[test]
fn a_kick_ends_a_session_whose_login_the_backend_takes_later() {
    let go = Arc::new(AtomicBool::new(false));
    let wait = Arc::clone(&go);
    let slow = Ordinary::new().verdict(move |_, _| {
        wait_for(&wait);
        "OK Logged in.".to_owned()
    });
    let backend = slow.start();
    let proxy = before_a_slow_one(&backend);
    let mut anna = proxy.client();
    anna.send_command("LOGIN anna secret");
    wait_until("the backend has the credentials", || (backend.users().len() == 1).then_some(()));
    let said = proxy.operate_json(&["kick", "anna"]);
    assert_eq!(said["sessions"], 1, "{said}");
    go.store(true, Ordering::SeqCst);
    // The OK may come before the end.
    anna.read_to_end();
    let closed = [("reason", "kicked")];
    proxy.wait_for_metrics("it was the kick", |now| {
        now.sum("pointsman_sessions_closed_total", &closed) == 1.0
    });
    backend.wait_until_empty();
    proxy.logged_in("anna", "secret").logout();
}

#[test]
fn b82_a_kick_inside_a_literal_closes_without_another_byte() {
    let (n2, s1) = (Backend::ordinary(), Backend::ordinary());
    let stalls = Backend::start(support::backend::Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
        peer.answer("AUTHENTICATE", "{tag} OK [CAPABILITY IMAP4rev1] in\r\n")?;
        peer.expect("FETCH")?;
        peer.send("* 1 FETCH (BODY[] {100}\r\nhalf of it")?;
        peer.hang()
    });
    let proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &shards(&stalls, &n2, &s1));
    let mut client = proxy.logged_in("anna", "secret");
    client.send("f FETCH 1 BODY[]\r\n");
    client.expect("* 1 FETCH");
    assert_eq!(client.read_exactly(10), b"half of it");
    proxy.operate_ok(&["kick", "anna"]);
    client.expect_end();
}

#[test]
fn a_kick_of_everybody_is_refused_without_force() {
    let site = Site::start();
    let mut all: Vec<Client> = (0..4).map(|n| idling(&site.proxy, &format!("user{n}"))).collect();
    for selection in [["--all", ""], ["--backend", "n1"]] {
        let selection: Vec<&str> = selection.into_iter().filter(|word| !word.is_empty()).collect();
        let (code, said) = site.proxy.operate(&[&["kick"], &selection[..]].concat());
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("all 4 sessions of 4 users") && said.contains("--force"), "{said}");
    }
    site.n1.push("* 9 EXISTS\r\n");
    for client in &mut all {
        client.expect("* 9 EXISTS");
    }
    // One user alone is not everybody.
    let said = site.proxy.operate_ok(&["kick", "user0"]);
    assert!(said.contains("1 sessions"), "{said}");
    all.remove(0).expect("* BYE");
    // It is told before its connection to the backend has ended.
    site.wait_for_sessions(3.0);
    let said = site.proxy.operate_ok(&["kick", "--all", "--force"]);
    assert!(said.contains("3 sessions of 3 users"), "{said}");
}

/// Logins at the same moment make the sessions more than were found, and are no reason.
#[test]
fn a_kick_of_everybody_is_refused_without_force_while_users_log_in() {
    let site = Site::start_with(|places| {
        places.head_without_limits() + "limits: { exempt: [127.0.0.0/8] }\n"
    });
    let mut kept = ["anna", "bert"].map(|user| idling(&site.proxy, user));
    let (proxy, done) = (&site.proxy, AtomicBool::new(false));
    let refusals = std::thread::scope(|scope| {
        for number in 0..4 {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    proxy.logged_in(&format!("user{number}"), "secret").logout();
                }
            });
        }
        let bodies = [r#"{"all": true}"#, r#"{"backend": "n1"}"#];
        let calls = bodies.iter().cycle().take(400);
        let answers: Vec<u16> = calls.map(|body| proxy.admin_post("kick", body).status).collect();
        done.store(true, Ordering::SeqCst);
        answers.iter().filter(|status| **status == 409).count()
    });
    assert_eq!(refusals, 400);
    site.n1.push("* 9 EXISTS\r\n");
    for client in &mut kept {
        client.expect("* 9 EXISTS");
    }
}

#[test]
fn a_blocked_user_is_kept_out_like_by_a_wrong_password_until_unblocked() {
    let refusing = Ordinary::new().verdict(|user, _| {
        if user == b"known" { "OK in".to_owned() } else { "NO no such user".to_owned() }
    });
    let (n1, n2, s1) = (refusing.start(), Backend::ordinary(), Backend::ordinary());
    let mut proxy = Pointsman::start(&AUTHORITY, |places| places.head() + &shards(&n1, &n2, &s1));
    let mut session = proxy.logged_in("known", "secret");
    let said = proxy.operate_ok(&["kick", "KNOWN", "--block"]);
    assert!(said.contains("1 sessions of 1 users end; the user is blocked"), "{said}");
    session.expect("* BYE");
    let before = n1.connections();
    let mut client = proxy.client();
    let blocked = client.try_login("Known", "secret").status;
    assert_eq!(n1.connections(), before, "no backend is asked");
    assert_eq!(client.try_login("unknown", "secret").status, blocked);
    assert_eq!(blocked, "NO [AUTHENTICATIONFAILED] Authentication failed.");
    proxy.wait_for_log("reason=blocked");

    proxy.restart();
    assert_eq!(proxy.client().try_login("known", "secret").status, blocked);
    assert_eq!(proxy.operate_json(&["blocked"])["users"], json!(["known"]));
    let said = proxy.operate_ok(&["unblock", "known"]);
    assert!(said.contains("is now not pinned and not blocked"), "{said}");
    proxy.logged_in("known", "secret").logout();
}

#[test]
fn a_pin_goes_before_all_lookups_and_open_sessions_stay_where_they_are() {
    let site = Site::start();
    let anna = site.proxy.logged_in("anna", "secret");
    let said = site.proxy.operate_ok(&["pin", "ANNA", "south"]);
    assert!(said.contains("user anna is now pinned to shard south"), "{said}");
    assert!(said.contains("1 open sessions stay"), "{said}");
    assert_eq!(site.logs_in_on("anna"), "n1", "her open session decides");
    anna.logout();
    site.wait_for_sessions(0.0);
    assert_eq!(site.logs_in_on("anna"), "s1");
    assert_eq!(site.logs_in_on("bert"), "n1");
    let pins = site.proxy.operate_json(&["pins"]);
    assert_eq!(pins["pins"], json!([{"user": "anna", "shard": "south", "configured": true}]));
    let found = [("source", "pins"), ("result", "found")];
    site.proxy.wait_for_metrics("the lookup says so", |now| {
        now.sum("pointsman_lookup_seconds_count", &found) >= 2.0
    });

    let Site { n1, n2, s1, mut proxy } = site;
    proxy.restart();
    let site = Site { n1, n2, s1, proxy };
    assert_eq!(site.logs_in_on("anna"), "s1");
    let (code, said) = site.proxy.operate(&["pin", "bert", "west"]);
    assert_eq!(code, 1);
    assert!(said.contains("there is no shard \"west\""), "{said}");
    site.proxy.operate_ok(&["unpin", "anna"]);
    assert_eq!(site.logs_in_on("anna"), "n1");
}

/// Pins, blocks and sessions go by the canonical name: other rules for names would lose them.
#[test]
fn rules_for_names_change_with_a_restart_alone_which_loses_no_block() {
    let site = Site::start();
    site.proxy.operate_ok(&["block", "anna"]);
    site.proxy.operate_ok(&["pin", "bert", "south"]);
    let file = std::fs::read_to_string(site.proxy.configuration_file()).unwrap();
    let changed = file.replace("routing: {", "routing: { default_domain: example.org,");
    site.proxy.rewrite(|_| changed);
    let (code, said) = site.proxy.operate(&["reload"]);
    assert_eq!(code, 1);
    assert!(said.contains("`routing.default_domain` changed, which a reload cannot do"), "{said}");
    assert!(said.contains("default_domain: example.org"), "{said}");
    let told = site.proxy.client().try_login("anna", "secret").status;
    assert!(told.starts_with("NO [AUTHENTICATIONFAILED]"), "{told}");

    let Site { n1, n2, s1, mut proxy } = site;
    proxy.restart();
    let site = Site { n1, n2, s1, proxy };
    let told = site.proxy.client().try_login("anna", "secret").status;
    assert!(told.starts_with("NO [AUTHENTICATIONFAILED]"), "{told}");
    assert_eq!(site.logs_in_on("bert@example.org"), "s1");
    site.proxy.operate_ok(&["unblock", "anna"]);
    site.proxy.operate_ok(&["unpin", "bert"]);
    assert_eq!(site.logs_in_on("anna"), "n1");
    assert_eq!(site.logs_in_on("bert"), "n1");
}

#[test]
fn a_new_route_ends_the_sessions_elsewhere_where_that_is_asked_for() {
    let (n1, n2, s1) = (Backend::ordinary(), Backend::ordinary(), Backend::ordinary());
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let shards = shards(&n1, &n2, &s1);
        places.head() + &shards.replace("routing: {", "routing: { on_route_change: end,")
    });
    let mut idle = idling(&proxy, "anna");
    let mut quiet = proxy.logged_in("anna", "secret");
    let mut other = idling(&proxy, "bert");
    proxy.operate_ok(&["pin", "anna", "south"]);
    let login = std::thread::scope(|scope| {
        let login = scope.spawn(|| proxy.logged_in("anna", "secret"));
        for client in [&mut idle, &mut quiet] {
            client.expect("* BYE [UNAVAILABLE] The mailbox has moved");
            client.expect_end();
        }
        login.join().unwrap()
    });
    assert_eq!(s1.users(), ["anna"]);
    n1.push("* 9 EXISTS\r\n");
    other.expect("* 9 EXISTS");
    let _second = proxy.logged_in("anna", "secret");
    assert_eq!(s1.users(), ["anna", "anna"], "those on the right shard stay");
    let closed = [("reason", "route_changed")];
    proxy.wait_for_metrics("they are counted", |now| {
        now.sum("pointsman_sessions_closed_total", &closed) == 2.0
    });
    login.logout();
}

#[test]
fn a_pin_to_a_shard_that_is_gone_makes_the_user_wait_and_nobody_else() {
    let site = Site::start();
    site.proxy.operate_ok(&["pin", "anna", "south"]);
    let n1 = site.n1.port();
    site.proxy.rewrite(|places| {
        format!(
            "{}shards:\n  north: {{ kind: primary, backends: [ {{ name: n1, address: \
             \"127.0.0.1:{n1}\", tls: none }} ] }}\nrouting: {{ lookups: [ {{ shard: north }} ] \
             }}\n",
            places.head()
        )
    });
    let said = site.proxy.operate_ok(&["reload"]);
    assert!(said.contains("generation 2"), "{said}");
    let told = site.proxy.client().try_login("anna", "secret").status;
    assert!(told.starts_with("NO [UNAVAILABLE]"), "{told}");
    assert_eq!(site.logs_in_on("bert"), "n1");
    assert_eq!(site.proxy.operate_json(&["pins"])["pins"][0]["configured"], json!(false));
}

#[test]
fn a_refused_reload_tells_every_fault_and_changes_nothing() {
    let site = Site::start();
    let good = std::fs::read_to_string(site.proxy.configuration_file()).unwrap();
    site.proxy.rewrite(|_| good.replace("kind: primary", "kind: secondary"));
    let (code, said) = site.proxy.operate(&["reload"]);
    assert_eq!(code, 1);
    assert_eq!(said.matches("`kind` cannot be `secondary`").count(), 2, "{said}");
    assert!(said.contains("pointsman.yaml:"), "{said}");
    assert_eq!(site.proxy.operate_json(&["status"])["generation"], json!(1));
    site.proxy.rewrite(|_| good);
    assert_eq!(site.proxy.operate_json(&["reload"])["generation"], json!(2));
}

#[test]
fn the_socket_is_found_by_the_configuration_and_a_proxy_that_is_not_there_is_told() {
    let mut site = Site::start();
    let file = site.proxy.configuration_file().display().to_string();
    let (code, said) = run_binary(&["status", "--config", &file]);
    assert_eq!(code, 0, "{said}");
    let missing = "/nowhere/pointsman.yaml";
    let (code, said) = run_binary(&["status", "--config", missing]);
    assert_eq!(code, 64, "{said}");
    assert!(said.contains(missing) && said.contains("--socket"), "{said}");
    let (code, said) = run_binary(&["kick", "--config", &file]);
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("Usage"), "{said}");

    let socket = site.proxy.socket();
    site.proxy.process().signal(Signal::TERM);
    assert_eq!(site.proxy.wait_for_end(), 0);
    assert!(!socket.exists(), "the socket goes with the process");
    let (code, said) = run_binary(&["status", "--config", &file]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no proxy answers at"), "{said}");
}

#[test]
fn a_socket_left_by_a_killed_process_is_replaced_and_one_in_use_is_not() {
    let mut site = Site::start();
    let socket = site.proxy.socket();
    site.proxy.process().signal(Signal::KILL);
    site.proxy.wait_for_end();
    assert!(socket.exists());
    site.proxy.restart();
    site.proxy.operate_ok(&["status"]);

    // Another proxy with a store of its own, but this one's socket.
    let (code, said) = support::pointsman::run_to_end("serve", &AUTHORITY, |places| {
        let head = places
            .head()
            .replace("admin: {", &format!("admin: {{ socket: \"{}\",", socket.display()));
        head + &shards(&site.n1, &site.n2, &site.s1)
    });
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is in use by another running process"), "{said}");
    site.proxy.operate_ok(&["status"]);
}
