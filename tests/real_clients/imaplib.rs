//! Python's imaplib, which the standard library has.

use super::service::{assert_same_lines, on_each_shard, resident};

/// Every command that a mail program uses, as Python's imaplib sends and reads it; what
/// cannot be equal on two accounts (times, UIDVALIDITY) is cut out.
const SCRIPT: &str = include_str!("imaplib_session.py");

#[test]
fn imaplib_gets_the_same_answers_directly_and_over_both_kinds_of_tls() {
    on_each_shard(|shard| {
        let direct = resident(shard, "script-direct").direct().python(SCRIPT);
        assert!(direct.contains("idle saw") && direct.lines().count() > 40, "{direct}");
        let implicit = resident(shard, "script-implicit").implicit().python(SCRIPT);
        let starttls = resident(shard, "script-starttls").starttls().python(SCRIPT);
        assert_same_lines(&direct, &implicit);
        assert_same_lines(&direct, &starttls);
    });
}
