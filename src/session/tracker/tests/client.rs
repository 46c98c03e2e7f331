//! The client's side: lines, literals, and what ends the session.

use crate::session::tracker::TIMED_MAX;

use super::super::{ClientError, Event, Settings};
use super::Pair;
use crate::protocol::command_kind::CommandKind;

/// A sink for what goes by without being held back.
struct One(Vec<std::ops::Range<usize>>);

impl super::Sink for One {
    fn pass(&mut self, range: std::ops::Range<usize>) {
        self.0.push(range);
    }
    fn insert(&mut self, _: &[u8]) {
        panic!("nothing is held back");
    }
    fn event(&mut self, _: Event) {}
}

fn fails(bytes: &[u8]) -> Option<ClientError> {
    Pair::new().c(bytes).error
}

#[test]
fn whole_commands_pass_in_one_range() {
    let mut pair = Pair::new();
    let wire: &[u8] =
        b"a1 NOOP\r\na2 UID FETCH 1:* (FLAGS)\r\na3 APPEND x {5+}\r\nhello\r\nDONE\r\n\r\n";
    let mut one = One(Vec::new());
    assert_eq!(pair.tracker.client(wire, 0, &mut one), Ok(wire.len()));
    assert_eq!((one.0.len(), one.0.first()), (1, Some(&(0..wire.len()))));
    let answer: &[u8] = b"a1 OK\r\n* 1 FETCH (BODY {3}\r\nabc)\r\na2 OK\r\na3 OK x\r\n";
    let mut one = One(Vec::new());
    pair.tracker.server(answer, 0, &super::Offered, &mut one);
    assert_eq!((one.0.len(), one.0.first()), (1, Some(&(0..answer.len()))));
}

#[test]
fn a_head_is_held_until_its_word_is_complete() {
    let mut pair = Pair::new();
    pair.c("a1 NO");
    assert_eq!(pair.up_text(), "");
    assert!(pair.tracker.client_mid_command());
    assert!(pair.tracker.at_command_border(), "upstream has seen nothing of it");
    pair.c("OP");
    assert_eq!(pair.up_text(), "");
    pair.c("\r");
    assert_eq!(pair.up_text(), "a1 NOOP\r");
    assert!(!pair.tracker.at_command_border());
    pair.c("\n");
    assert_eq!(pair.up_text(), "a1 NOOP\r\n");
    assert_eq!(pair.tracker.in_flight(), 1);
}

#[test]
fn a_synchronising_literal_blocks_until_the_plus() {
    for literal in ["{5}", "~{5}", "{0005}"] {
        let mut pair = Pair::new();
        pair.c(format!("a1 APPEND INBOX {literal}\r\nhello\r\na2 NOOP\r\n"));
        assert_eq!(pair.up_text(), format!("a1 APPEND INBOX {literal}\r\n"));
        assert!(pair.tracker.client_blocked());
        pair.s("* 4 EXISTS\r\n");
        assert!(pair.tracker.client_blocked());
        pair.s("+ go\r\n");
        assert!(!pair.tracker.client_blocked());
        assert_eq!(pair.up_text(), format!("a1 APPEND INBOX {literal}\r\nhello\r\na2 NOOP\r\n"));
        assert_eq!(pair.tracker.in_flight(), 2);
    }
}

#[test]
fn a_plus_without_a_blank_counts() {
    let mut pair = Pair::new();
    pair.c("a1 APPEND INBOX {5}\r\n").s("+\r\n");
    assert!(!pair.tracker.client_blocked());
}

/// As Dovecot answers: what stands behind the brace can only be the line's end.
#[test]
fn a_plus_that_overtakes_the_lines_end_counts() {
    for (before, after) in [("{5}", "\r\n"), ("~{5}\r", "\n")] {
        let mut pair = Pair::new();
        pair.c(format!("a1 APPEND x {before}")).s("+ OK\r\n");
        pair.c(format!("{after}hello\r\na2 APPEND y {{2}}\r\nxx\r\n"));
        assert!(pair.tracker.client_blocked(), "the next one waits for its own");
        assert!(pair.up_text().ends_with("hello\r\na2 APPEND y {2}\r\n"));
        pair.s("+ OK\r\n");
        assert!(pair.up_text().ends_with("{2}\r\nxx\r\n"));
    }
    // One that is only counted.
    let mut pair = Pair::new();
    pair.c("x NOOP\r\n".repeat(TIMED_MAX)).c("y NOOP\r\n").s("x OK\r\n".repeat(TIMED_MAX));
    pair.c("a1 APPEND x {5}").s("y OK\r\n+ OK\r\n").c("\r\nhello\r\n");
    assert!(pair.up_text().ends_with("{5}\r\nhello\r\n"));
    // It was for something else where the line goes on.
    let mut pair = Pair::new();
    pair.c("a1 X {5}").s("+ OK\r\n").c("x {5}\r\n");
    assert!(pair.tracker.client_blocked());
    let mut pair = Pair::new();
    pair.c("a1 IDLE\r\na2 APPEND x {5}").s("+ idling\r\n").c("\r\n");
    assert!(pair.tracker.client_blocked(), "IDLE comes first");
}

#[test]
fn a_refused_synchronising_literal_puts_the_client_back_to_a_line() {
    for verdict in ["NO [TRYCREATE] no", "BAD what", "OK odd"] {
        let mut pair = Pair::new();
        pair.c("a1 APPEND nowhere {9}\r\n").s(format!("a1 {verdict}\r\n"));
        pair.c("a2 NOOP\r\n");
        assert_eq!(pair.error, None);
        assert_eq!(pair.tracker.in_flight(), 1, "{verdict}");
        pair.s("a2 OK\r\n");
        assert_eq!(pair.finished().last().map(|last| last.0), Some(CommandKind::Noop));
        assert!(pair.tracker.at_command_border());
    }
}

#[test]
fn another_commands_refusal_does_not_free_a_literal() {
    let mut pair = Pair::new();
    pair.c("a1 NOOP\r\na2 APPEND x {4}\r\n").s("a1 BAD no\r\n");
    assert!(pair.tracker.client_blocked());
    // The same tag twice: the first answer is the first command's.
    let mut pair = Pair::new();
    pair.c("a1 NOOP\r\na1 APPEND x {4}\r\n").s("a1 BAD no\r\n");
    assert!(pair.tracker.client_blocked());
    pair.s("a1 NO no\r\n");
    assert!(!pair.tracker.client_blocked());
}

#[test]
fn several_literals_a_command_are_followed() {
    let mut pair = Pair::new();
    pair.c("a1 SEARCH SUBJECT {3+}\r\nb1 OR ~{2}\r\n");
    assert!(pair.tracker.client_blocked());
    pair.s("+ \r\n").c("xx FROM {0+}\r\n {4+}\r\nLOGI\r\nb NOOP\r\n");
    assert_eq!(pair.error, None);
    assert_eq!(pair.tracker.in_flight(), 2);
    assert_eq!(
        pair.up_text(),
        "a1 SEARCH SUBJECT {3+}\r\nb1 OR ~{2}\r\nxx FROM {0+}\r\n {4+}\r\nLOGI\r\nb NOOP\r\n"
    );
}

#[test]
fn a_literal_stands_only_at_the_end_of_a_line() {
    for line in [
        "a1 X {5} y",
        "a1 X {5+} ",
        "a1 X \"{5}\"",
        "a1 X {5-}",
        "a1 X {a}",
        "a1 X 5}",
        "a1 X {5}}",
    ] {
        let mut pair = Pair::new();
        pair.c(format!("{line}\r\na2 NOOP\r\n"));
        assert_eq!(pair.error, None, "{line}");
        assert_eq!(pair.tracker.in_flight(), 2, "{line}");
    }
}

#[test]
fn a_command_that_ends_in_its_word_may_announce_a_literal() {
    let mut pair = Pair::new();
    pair.c("a1 XYZZY{3+}\r\nabc\r\na2 NOOP\r\n");
    assert_eq!(pair.tracker.in_flight(), 2);
}

#[test]
fn the_plus_of_an_idle_is_not_a_literals() {
    let mut pair = Pair::new();
    pair.c("a1 IDLE\r\nDONE\r\na2 APPEND x {3}\r\n").s("+ idling\r\n");
    assert!(pair.tracker.client_blocked());
    assert!(!pair.tracker.idle(), "its DONE went by before");
    pair.s("a1 OK done\r\n+ go\r\n");
    assert!(!pair.tracker.client_blocked());
    // An IDLE that is refused takes no `+` with it.
    let mut pair = Pair::new();
    pair.c("a1 IDLE\r\na2 APPEND x {3}\r\n").s("a1 BAD no\r\n+ go\r\n");
    assert!(!pair.tracker.client_blocked());
}

#[test]
fn what_cannot_be_read_ends_the_session() {
    let long = "x".repeat(96);
    let cases: [(&[u8], ClientError); 26] = [
        (b" a1 NOOP\r\n", ClientError::Unreadable),
        (b"\ta1 NOOP\r\n", ClientError::Unreadable),
        (b"a1  NOOP\r\n", ClientError::Unreadable),
        (b"a1\tNOOP\r\n", ClientError::Unreadable),
        (b"a1 \tNOOP\r\n", ClientError::Unreadable),
        (b"a1 NOOP\t\r\n", ClientError::Unreadable),
        (b"a\x01 NOOP\r\n", ClientError::Unreadable),
        (b"a1 NO\x7fOP\r\n", ClientError::Unreadable),
        (b"a\0 NOOP\r\n", ClientError::Unreadable),
        (long.as_bytes(), ClientError::Unreadable),
        (b"a1 NOOP x\ry\r\n", ClientError::BareCr),
        (b"a1 NOOP\rx", ClientError::BareCr),
        (b"DONE\r\r\n", ClientError::BareCr),
        (b"a1 X \0\r\n", ClientError::Nul),
        (b"a1 X {5}\n", ClientError::LiteralBeforeBareLf),
        (b"a1 X ~{5+}\n", ClientError::LiteralBeforeBareLf),
        (b"a1 X \"abc\r\n", ClientError::OpenQuote),
        (b"a1 X \"abc\\\"\r\n", ClientError::OpenQuote),
        (b"a1 X \"abc {5}\r\n", ClientError::OpenQuote),
        (b"a1 X {3+}\r\nabc \"\r\n", ClientError::OpenQuote),
        (b"a1 X {18446744073709551616}\r\n", ClientError::LiteralTooLarge),
        (b"a1 X {99999999999999999999999999999+}\r\n", ClientError::LiteralTooLarge),
        (b"a1 X {}\r\n", ClientError::LiteralWithoutSize),
        (b"a1 X {+}\r\n", ClientError::LiteralWithoutSize),
        (b"tag{3+}\r\n", ClientError::LiteralWithoutCommand),
        (b"a*b X {3}\r\n", ClientError::LiteralWithOddTag),
    ];
    for (bytes, error) in cases {
        assert_eq!(fails(bytes), Some(error), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn what_is_only_unusual_passes() {
    let tag = "t".repeat(90);
    let cases = [
        "\r\n".to_owned(),
        "\n".to_owned(),
        "DONE\n".to_owned(),
        "a1 NOOP\n".to_owned(),
        "a1 NOOP \r\n".to_owned(),
        "a1 X  two  blanks\ttab \u{e9}\r\n".to_owned(),
        "a1 X \"a\\\"b\\\\\" \"\" \"c\"\r\n".to_owned(),
        "a1 X \"a {5}\" b\r\n".to_owned(),
        format!("{tag} NOOP\r\n"),
        format!("a1 X {}\r\n", "y".repeat(300_000)),
        "* FETCH 1\r\n".to_owned(),
        "a1 X {18446744073709551615+}\r\nabc".to_owned(),
    ];
    for line in cases {
        let mut pair = Pair::new();
        pair.c(&line);
        assert_eq!(pair.error, None, "{line}");
        assert_eq!(pair.up_text(), line);
    }
}

#[test]
fn lines_without_a_second_word_are_no_commands() {
    let mut pair = Pair::new();
    pair.c("\r\nDONE\r\nlone\r\nlone \r\n\"odd\r\n");
    assert_eq!(pair.tracker.in_flight(), 0);
    assert!(pair.tracker.at_command_border());
    assert_eq!(pair.up_text(), "\r\nDONE\r\n");
    let missing = "BAD Command missing.\r\n";
    assert_eq!(pair.down_text(), format!("lone {missing}lone {missing}* {missing}"));
    assert_eq!(pair.events, [Event::NoCommand; 3]);
    // A server may answer the others with BAD.
    pair.s("DONE BAD what\r\n* BAD empty\r\n");
    assert!(!pair.tracker.opaque());
    assert_eq!(pair.finished(), []);
    pair.s("lone BAD again\r\n");
    assert!(pair.tracker.opaque(), "no server got that line");
}

#[test]
fn a_line_of_one_word_passes_where_the_server_is_not_parsed() {
    let mut pair = Pair::new();
    pair.s("garbage\r\n").c("lone\r\n");
    assert_eq!((pair.error, pair.up_text().as_str()), (None, "lone\r\n"));
    // Its head went by before, and nothing of it can be sent or answered any more.
    let mut pair = Pair::new();
    pair.c("lone ").s("garbage\r\n").c("\r\n");
    assert_eq!((pair.error, pair.up_text().as_str()), (None, "lone \r\n"));
    let mut pair = Pair::new();
    pair.c("lone\r").s("garbage\r\n").c("\n");
    assert_eq!(pair.error, Some(ClientError::ForbiddenWhileOpaque));
}

#[test]
fn identity_commands_at_line_starts_inside_literals_end_the_session() {
    let guarded = || Pair::with(Settings { check_literal_lines: true });
    let hostile: [&str; 11] = [
        "a XYZZY {20+}\r\nb COMPRESS DEFLATE\r\n\r\n",
        "a XYZZY {21+}\r\nb compress \tdeflate\r\n\r\n",
        "a XYZZY {21+}\r\nb UNAUTHENTICATE\r\n..\r\n",
        "a XYZZY {40+}\r\nSubject: x\r\nb unauthenticate\r\n........\r\n",
        "a XYZZY {40+}\r\nSubject: x\nb PROXYAUTH someone\r\n......\r\n",
        "a XYZZY {3+}\r\nabc UNAUTHENTICATE\r\n",
        "a XYZZY {7+}\r\nb UNAUTHENTICATE\r\n",
        "a XYZZY {0+}\r\nb UNAUTHENTICATE\r\n",
        "a XYZZY {30+}\r\nb X-UNAUTHENTICATE\r\n...........\r\n",
        "a XYZZY {3+}\r\nabc {20+}\r\nb UNAUTHENTICATE\r\n..\r\n",
        "a XYZZY {23+}\r\nb  UNAUTHENTICATE {3+}\r\n..\r\n",
    ];
    for bytes in hostile {
        let mut pair = guarded();
        pair.c(bytes);
        assert_eq!(pair.error, Some(ClientError::IdentityInLiteral), "{bytes}");
        let sent = pair.up_text().to_ascii_uppercase();
        let word = sent.rfind("AUTH").or(sent.rfind("DEFLATE")).unwrap();
        assert!(!sent[word..].contains('\n'), "the server never sees that line's end");
        assert_eq!(Pair::new().c(bytes).error, None, "not checked where not needed");
    }
    let harmless: [&str; 8] = [
        "a X {30+}\r\nTo compress files\ndeflate them\r\nb NOOP\r\n",
        "a X {3+}\r\nabc\r\nb SEARCH FROM PROXYAUTH x\r\n",
        "a X {32+}\r\nthe unauthenticated user proxyaut\r\nb NOOP\r\n",
        "a X {33+}\r\nwe know b UNAUTHENTICATE here ....\r\nb NOOP\r\n",
        "a X {16+}\r\nUNAUTHENTICATE\r\n\r\nb NOOP\r\n",
        "a X {17+}\r\nb UNAUTHENTICATE_\r\nb NOOP\r\n",
        "a X {8+}\r\nb LOGIN \r\nb NOOP\r\n",
        "a X {3+}\r\nabc d UNAUTHENTICATE\r\n",
    ];
    for bytes in harmless {
        let mut pair = guarded();
        pair.c(bytes);
        assert_eq!(pair.error, None, "{bytes}");
        assert_eq!(pair.up_text(), bytes);
    }
}

#[test]
fn a_literal_announced_after_the_refusal_is_not_waited_for() {
    let mut pair = Pair::new();
    pair.c("a1 X {2+}\r\n").s("a1 BAD no\r\n").c("ab {3}\r\n");
    assert!(!pair.tracker.client_blocked());
    pair.c("a2 NOOP\r\n");
    assert_eq!(pair.tracker.in_flight(), 1);
}
