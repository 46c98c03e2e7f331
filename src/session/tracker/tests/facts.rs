//! What a hand-off must know.

use super::super::BlockReason;
use super::Pair;

fn selected(pair: &Pair) -> Option<(String, bool, bool)> {
    let selected = pair.tracker.facts().selected()?;
    let spelling = String::from_utf8_lossy(&selected.spelling).into_owned();
    Some((spelling, selected.read_only, selected.condstore))
}

#[test]
fn the_selected_mailbox_is_kept_as_spelled() {
    let cases = [
        ("SELECT INBOX\r\n", "INBOX", false, false),
        ("select \"a \\\"b\\\\\" (CONDSTORE)\r\n", "\"a \\\"b\\\\\"", false, true),
        ("EXAMINE {5+}\r\na\r\nbc\r\n", "{5+}\r\na\r\nbc", true, false),
        ("SELECT {3+}\r\na{4 (qresync (1 2))\r\n", "{3+}\r\na{4", false, true),
        ("SELECT x(CONDSTORE)\r\n", "x", false, true),
    ];
    for (command, spelling, read_only, condstore) in cases {
        let mut pair = Pair::new();
        pair.c(format!("a {command}"));
        assert_eq!(selected(&pair), None, "not before it is answered");
        pair.s("a OK [READ-WRITE] done\r\n");
        assert_eq!(pair.tracker.blocked(), None);
        assert_eq!(selected(&pair), Some((spelling.to_owned(), read_only, condstore)));
    }
}

#[test]
fn selecting_and_closing_change_the_mailbox_only_when_answered_so() {
    let mut pair = Pair::new();
    pair.c("a SELECT one\r\n").s("a OK\r\n").c("b SELECT two\r\n").s("b BAD\r\n");
    assert_eq!(selected(&pair).unwrap().0, "one");
    pair.c("c CLOSE\r\n").s("c NO\r\n");
    assert_eq!(selected(&pair).unwrap().0, "one");
    pair.c("d UNSELECT\r\n").s("d OK\r\n");
    assert_eq!(selected(&pair), None);
    pair.c("e SELECT one\r\n").s("e OK\r\n").c("f SELECT two\r\n").s("f NO\r\n");
    assert_eq!(selected(&pair), None, "a SELECT that fails leaves nothing selected");
}

#[test]
fn a_name_too_long_to_keep_blocks_until_the_next_select() {
    let mut pair = Pair::new();
    for len in [1024, 1025, 5000] {
        pair.c(format!("a SELECT {}\r\n", "x".repeat(len))).s("a OK\r\n");
        let blocked = (len > 1024).then_some(BlockReason::MailboxName);
        assert_eq!(pair.tracker.blocked(), blocked, "{len}");
    }
    pair.c("a SELECT x\r\n").s("a OK\r\n");
    assert_eq!(pair.tracker.blocked(), None);
}

#[test]
fn enabled_is_what_the_server_confirmed() {
    let mut pair = Pair::new();
    pair.s("* ENABLED UNASKED\r\n").c("a ENABLE CONDSTORE X-NONE\r\nb ENABLE UTF8=ACCEPT\r\n");
    pair.s("* ENABLED CONDSTORE\r\n");
    assert_eq!(pair.tracker.facts().enabled(), b"");
    pair.s("a OK\r\n* ENABLED UTF8=ACCEPT condstore\r\nb OK\r\n");
    assert_eq!(pair.tracker.facts().enabled(), b"CONDSTORE UTF8=ACCEPT");
    pair.c("c ENABLE X\r\n").s("* ENABLED X\r\nc NO\r\n");
    assert_eq!(pair.tracker.facts().enabled(), b"CONDSTORE UTF8=ACCEPT");
    pair.c("d ENABLE X\r\n").s(format!("* ENABLED {}\r\nd OK\r\n", "Y".repeat(200)));
    assert_eq!(pair.tracker.blocked(), Some(BlockReason::Enabled));
}

#[test]
fn notify_blocks_while_it_is_in_force() {
    let mut pair = Pair::new();
    pair.c("a NOTIFY SET (SELECTED (MessageNew))\r\n").s("a NO\r\n");
    assert_eq!(pair.tracker.blocked(), None);
    pair.c("a NOTIFY SET STATUS (SELECTED (MessageNew))\r\n").s("a OK\r\n");
    assert_eq!(pair.tracker.blocked(), Some(BlockReason::Notify));
    assert!(pair.tracker.facts().notify());
    pair.c("a notify none\r\n").s("a OK\r\n");
    assert_eq!(pair.tracker.blocked(), None);
}

#[test]
fn saved_searches_and_updates_last_until_the_mailbox_is_left() {
    for command in ["SEARCH", "UID SEARCH", "uid sort", "UID THREAD"] {
        let mut pair = Pair::new();
        pair.c("s SELECT x\r\n").s("s OK\r\n");
        pair.c(format!("a {command} RETURN (ALL) SAVE UPDATE\r\n")).s("a OK\r\n");
        pair.c(format!("a {command} FROM save\r\n")).s("a OK\r\n");
        assert!(!pair.tracker.facts().saved_search(), "{command}");
        pair.c(format!("a {command} RETURN (MIN SAVE) ALL\r\n")).s("a OK\r\n");
        assert!(pair.tracker.facts().saved_search(), "{command}");
        assert_eq!(pair.tracker.blocked(), None);
        pair.c(format!("a {command} return (update) {}\r\n", "x ".repeat(500))).s("a OK\r\n");
        assert_eq!(pair.tracker.blocked(), Some(BlockReason::SearchUpdates), "{command}");
        let mut left = pair.clone();
        left.c("b CLOSE\r\n").s("b OK\r\n");
        assert_eq!(left.tracker.blocked(), None);
        assert!(!left.tracker.facts().saved_search());
        pair.c("b CANCELUPDATE \"a\"\r\n").s("b OK\r\n");
        assert_eq!(pair.tracker.blocked(), None);
    }
}

#[test]
fn removing_the_selected_mailbox_or_a_parent_blocks() {
    for (command, blocks) in [
        ("DELETE a/b", true),
        ("DELETE \"a\"", true),
        ("DELETE {3+}\r\na/b", true),
        ("RENAME a c", true),
        ("DELETE a/b/c", false),
        ("RENAME c a/b", false),
    ] {
        let mut pair = Pair::new();
        pair.c("s SELECT \"a/b\"\r\n").s("s OK\r\n").c(format!("a {command}\r\n")).s("a OK\r\n");
        let reason = blocks.then_some(BlockReason::MailboxRemoved);
        assert_eq!(pair.tracker.blocked(), reason, "{command}");
        pair.c("s SELECT z\r\n").s("s OK\r\n");
        assert_eq!(pair.tracker.blocked(), None);
    }
}

#[test]
fn a_command_that_is_not_known_blocks_once_it_succeeds() {
    for (command, blocks) in [
        ("LANGUAGE de", true),
        ("UID FROBNICATE 1", true),
        ("XYZZY", true),
        ("SUBSCRIBE x", false),
        ("UID EXPUNGE 1", false),
        ("GETQUOTAROOT x", false),
        ("ID NIL", false),
    ] {
        let mut pair = Pair::new();
        pair.c(format!("a {command}\r\n")).s("a BAD no\r\n");
        assert_eq!(pair.tracker.blocked(), None);
        pair.c(format!("a {command}\r\n")).s("a OK\r\n");
        let reason = blocks.then_some(BlockReason::UnknownCommand);
        assert_eq!(pair.tracker.blocked(), reason, "{command}");
    }
}

#[test]
fn an_odd_tag_blocks_for_good() {
    let mut pair = Pair::new();
    pair.c("* NOOP\r\n").s("* OK NOOP done\r\n");
    assert_eq!(pair.tracker.blocked(), Some(BlockReason::OddTag));
    assert!(!pair.tracker.opaque());
}

fn with_many(pair: &mut Pair, command: &str) {
    for number in 0..64 {
        pair.c(format!("t{number} NOOP\r\n"));
    }
    pair.c(format!("u {command}\r\n"));
}

fn answer_many(pair: &mut Pair) {
    for number in 0..64 {
        pair.s(format!("t{number} OK\r\n"));
    }
    pair.s("u OK\r\n");
    assert_eq!(pair.tracker.in_flight(), 0);
}

#[test]
fn an_untimed_change_of_state_blocks_until_a_new_select() {
    for (command, blocks) in [
        ("SELECT y", true),
        ("XYZZY", true),
        ("CLOSE", true),
        ("SEARCH RETURN (SAVE) ALL", true),
        ("NOOP", false),
        ("FETCH 1 FLAGS", false),
    ] {
        let mut pair = Pair::new();
        with_many(&mut pair, command);
        answer_many(&mut pair);
        let reason = blocks.then_some(BlockReason::LostTrack);
        assert_eq!(pair.tracker.blocked(), reason, "{command}");
        pair.c("s SELECT z\r\n").s("s NO\r\n");
        assert_eq!(pair.tracker.blocked(), reason, "{command}");
        pair.c("s SELECT z\r\n").s("s OK\r\n");
        assert_eq!(pair.tracker.blocked(), None, "{command}");
    }
}

#[test]
fn a_select_that_was_on_its_way_does_not_make_it_good() {
    let mut pair = Pair::new();
    pair.c("s SELECT x\r\n");
    with_many(&mut pair, "SELECT y");
    pair.s("s OK\r\n");
    answer_many(&mut pair);
    assert_eq!(pair.tracker.blocked(), Some(BlockReason::LostTrack));
}

#[test]
fn an_untimed_enable_blocks_for_good_and_an_untimed_notify_until_it_is_off() {
    let mut pair = Pair::new();
    with_many(&mut pair, "ENABLE QRESYNC");
    answer_many(&mut pair);
    pair.c("s SELECT z\r\n").s("s OK\r\n");
    assert_eq!(pair.tracker.blocked(), Some(BlockReason::LostTrack));
    let mut pair = Pair::new();
    with_many(&mut pair, "NOTIFY SET (SELECTED NONE)");
    answer_many(&mut pair);
    pair.c("s SELECT z\r\n").s("s OK\r\n");
    assert_eq!(pair.tracker.blocked(), Some(BlockReason::Notify));
    pair.c("n NOTIFY NONE\r\n").s("n OK\r\n");
    assert_eq!(pair.tracker.blocked(), None);
}

#[test]
fn two_commands_with_one_tag_lose_track_of_the_mailbox() {
    let mut pair = Pair::new();
    pair.c("a SELECT x\r\na NOOP\r\n").s("a NO\r\na OK\r\n");
    assert_eq!(pair.tracker.blocked(), Some(BlockReason::LostTrack));
}

#[test]
fn what_is_enabled_is_bounded() {
    let mut pair = Pair::new();
    for letter in ["A", "B", "C"] {
        assert_eq!(pair.tracker.blocked(), None);
        pair.c("a ENABLE X\r\n").s(format!("* ENABLED {}\r\na OK\r\n", letter.repeat(100)));
    }
    assert_eq!(pair.tracker.blocked(), Some(BlockReason::Enabled));
    assert_eq!(pair.tracker.facts().enabled().len(), 201);
}
