//! What a scrape shows after given observations.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::protocol::command_kind::CommandKind;

fn sample(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.encode().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn lines_with(metrics: &Metrics, part: &str) -> usize {
    metrics.encode().unwrap().lines().filter(|line| line.contains(part)).count()
}

fn shard_id(name: &str) -> ShardId {
    ShardId::new(name)
}

#[test]
fn an_idle_shard_has_no_series() {
    let metrics = Metrics::register().unwrap();
    let _north = metrics.shard(&shard_id("north"));
    assert_eq!(lines_with(&metrics, "north"), 0);
}

#[test]
fn a_command_is_counted_and_timed_exactly() {
    let metrics = Metrics::register().unwrap();
    let north = metrics.shard(&shard_id("north"));
    north.first_byte(CommandKind::Fetch, Duration::from_micros(700));
    north.command_finished(
        CommandKind::Fetch,
        CommandStatus::Ok,
        Some(Duration::from_micros(1500)),
    );
    north.command_finished(CommandKind::Fetch, CommandStatus::No, None);
    let labels = r#"{command="fetch",shard="north"}"#;
    let series = |name: &str| sample(&metrics, &format!("pointsman_{name}{labels}"));
    assert_eq!(series("command_seconds_count"), Some(1.0));
    assert_eq!(series("command_seconds_sum"), Some(0.0015));
    assert_eq!(series("command_first_byte_seconds_sum"), Some(0.0007));
    let bucket = |le: &str| {
        let labels = format!(r#"{{command="fetch",shard="north",le="{le}"}}"#);
        sample(&metrics, &format!("pointsman_command_seconds_bucket{labels}"))
    };
    assert_eq!((bucket("0.001"), bucket("0.0025")), (Some(0.0), Some(1.0)));
    for status in ["ok", "no"] {
        let labels = format!(r#"{{command="fetch",shard="north",status="{status}"}}"#);
        assert_eq!(sample(&metrics, &format!("pointsman_commands_total{labels}")), Some(1.0));
    }
}

#[test]
fn idle_is_counted_but_never_timed() {
    let metrics = Metrics::register().unwrap();
    let north = metrics.shard(&shard_id("north"));
    let hour = Duration::from_secs(3600);
    north.first_byte(CommandKind::Idle, hour);
    north.command_finished(CommandKind::Idle, CommandStatus::Ok, Some(hour));
    let counted = r#"pointsman_commands_total{command="idle",shard="north",status="ok"}"#;
    assert_eq!(sample(&metrics, counted), Some(1.0));
    assert_eq!(lines_with(&metrics, "_seconds_count{command=\"idle\""), 0);
}

#[test]
fn every_observation_there_is_makes_a_bounded_number_of_series() {
    let metrics = Metrics::register().unwrap();
    let north = metrics.shard(&shard_id("north"));
    for kind in CommandKind::ALL {
        north.first_byte(kind, Duration::ZERO);
        for &status in CommandStatus::ALL {
            north.command_finished(kind, status, Some(Duration::ZERO));
        }
    }
    let timed = CommandKind::ALL.len() - 1;
    let of_family = |name: &str| lines_with(&metrics, &format!("pointsman_{name}{{"));
    assert_eq!(of_family("command_seconds_bucket"), timed * 13, "12 buckets and +Inf");
    assert_eq!(of_family("command_first_byte_seconds_count"), timed);
    assert_eq!(of_family("commands_total"), CommandKind::ALL.len() * 3);
}

#[test]
fn a_name_always_gives_the_same_handles() {
    let metrics = Metrics::register().unwrap();
    let (north, n1) = (shard_id("north"), BackendId::new("n1"));
    assert!(Arc::ptr_eq(&metrics.shard(&north), &metrics.shard(&north)));
    assert!(Arc::ptr_eq(&metrics.backend(&north, &n1), &metrics.backend(&north, &n1)));
    assert!(Arc::ptr_eq(&metrics.listener("imaps"), &metrics.listener("imaps")));
}

fn use_everything_of(shard: &ShardHandles) {
    for kind in [CommandKind::Fetch, CommandKind::Select, CommandKind::Idle] {
        shard.first_byte(kind, Duration::from_millis(1));
        shard.command_finished(kind, CommandStatus::Ok, Some(Duration::from_millis(2)));
    }
    shard.relayed(Direction::ToClient, 10);
    shard.relayed(Direction::ToBackend, 1);
}

#[test]
fn a_removed_shards_series_end_and_its_sessions_bring_none_back() {
    let metrics = Metrics::register().unwrap();
    let (north, south) = (shard_id("north"), shard_id("south"));
    let held = metrics.shard(&north);
    use_everything_of(&held);
    use_everything_of(&metrics.shard(&south));
    metrics.retain_shards(std::slice::from_ref(&south));
    assert_eq!(lines_with(&metrics, "north"), 0);
    assert_ne!(lines_with(&metrics, "south"), 0);

    use_everything_of(&held);
    held.command_finished(CommandKind::Append, CommandStatus::Bad, Some(Duration::ZERO));
    assert_eq!(lines_with(&metrics, "north"), 0, "old sessions are not exported");

    metrics.shard(&north).relayed(Direction::ToClient, 7);
    let bytes = r#"pointsman_bytes_total{direction="to_client",shard="north"}"#;
    assert_eq!(sample(&metrics, bytes), Some(7.0), "a shard that came back starts anew");
}

#[test]
fn observations_racing_with_a_removal_leave_no_series() {
    for _ in 0..200 {
        let metrics = Metrics::register().unwrap();
        let held = metrics.shard(&shard_id("north"));
        let together = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    together.wait();
                    for kind in CommandKind::ALL {
                        held.command_finished(kind, CommandStatus::Ok, Some(Duration::ZERO));
                    }
                });
            }
            together.wait();
            metrics.retain_shards(&[]);
        });
        assert_eq!(lines_with(&metrics, "north"), 0);
    }
}

#[test]
fn a_removed_backends_series_end_with_its_last_session() {
    let metrics = Metrics::register().unwrap();
    let (north, n1, n2) = (shard_id("north"), BackendId::new("n1"), BackendId::new("n2"));
    for name in [&n1, &n2] {
        let backend = metrics.backend(&north, name);
        backend.set_up(true);
        backend.connected(Duration::from_millis(3));
        backend.failed("timeout");
    }
    let session = metrics.backend(&north, &n1).session();
    metrics.retain_backends(&[]);
    assert_eq!(lines_with(&metrics, "n2"), 0);
    let sessions = r#"pointsman_backend_sessions{backend="n1",shard="north"}"#;
    assert_eq!(sample(&metrics, sessions), Some(1.0));
    drop(session);
    assert_eq!(lines_with(&metrics, "n1"), 0);
}

#[test]
fn a_backend_that_comes_back_in_time_keeps_its_series() {
    let metrics = Metrics::register().unwrap();
    let key = (shard_id("north"), BackendId::new("n1"));
    let session = metrics.backend(&key.0, &key.1).session();
    metrics.retain_backends(&[]);
    metrics.retain_backends(std::slice::from_ref(&key));
    drop(session);
    let sessions = r#"pointsman_backend_sessions{backend="n1",shard="north"}"#;
    assert_eq!(sample(&metrics, sessions), Some(0.0));
}

#[test]
fn a_removed_listeners_series_end_with_its_last_session() {
    let metrics = Metrics::register().unwrap();
    let imaps = metrics.listener("imaps");
    let session = imaps.session();
    imaps.login(LoginMechanism::SaslLogin, LoginResult::Cancelled);
    metrics.retain_listeners(&["imap"]);
    assert_eq!(sample(&metrics, r#"pointsman_client_sessions{listener="imaps"}"#), Some(1.0));
    drop(session);
    assert_eq!(lines_with(&metrics, "imaps"), 0);
}

#[test]
fn what_alerts_compare_is_there_before_the_first_login() {
    let metrics = Metrics::register().unwrap();
    metrics.listener("imaps");
    let labels = r#"{listener="imaps",mechanism="plain",result="unavailable"}"#;
    assert_eq!(sample(&metrics, &format!("pointsman_logins_total{labels}")), Some(0.0));
    assert_eq!(sample(&metrics, r#"pointsman_config_reloads_total{result="refused"}"#), Some(0.0));
}

#[test]
fn a_refused_reload_keeps_the_generation_and_says_so() {
    let metrics = Metrics::register().unwrap();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    metrics.config.started(1, at(100));
    metrics.config.reload_applied(2, at(200));
    metrics.config.reload_refused();
    let now = |name: &str| sample(&metrics, &format!("pointsman_config_{name}"));
    assert_eq!(now("generation"), Some(2.0));
    assert_eq!(now("last_reload_success"), Some(0.0));
    assert_eq!(now("last_reload_success_timestamp_seconds"), Some(200.0));
    assert_eq!(now(r#"reloads_total{result="applied"}"#), Some(1.0));
    assert_eq!(now(r#"reloads_total{result="refused"}"#), Some(1.0));
}

#[test]
fn certificates_that_are_gone_are_no_longer_shown() {
    let metrics = Metrics::register().unwrap();
    metrics.config.set_certificates([("old.pem", 10), ("both.pem", 20)]);
    metrics.config.set_certificates([("both.pem", 21), ("new.pem", 30)]);
    let expiry = |name: &str| {
        let labels = format!("{{name=\"{name}\"}}");
        sample(&metrics, &format!("pointsman_certificate_expiry_timestamp_seconds{labels}"))
    };
    assert_eq!(expiry("old.pem"), None);
    assert_eq!(expiry("both.pem"), Some(21.0));
    assert_eq!(expiry("new.pem"), Some(30.0));
}

#[test]
fn the_process_and_the_build_are_shown() {
    let metrics = Metrics::register().unwrap();
    assert!(sample(&metrics, "process_open_fds").unwrap() > 0.0);
    let build = format!(r#"pointsman_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"));
    assert_eq!(sample(&metrics, &build), Some(1.0));
}

proptest! {
    /// Whatever a configured name holds, a scrape is still one line a series.
    #[test]
    fn no_configured_name_breaks_the_text_format(name in "\\PC*|[\\x00-\\x7f]*") {
        let metrics = Metrics::register().unwrap();
        let before = metrics.encode().unwrap().lines().count();
        metrics.listener(&name);
        let text = metrics.encode().unwrap();
        // Two new families with HELP and TYPE, one gauge, six counters.
        prop_assert_eq!(text.split('\n').count() - 1, before + 4 + 1 + 6);
    }
}
