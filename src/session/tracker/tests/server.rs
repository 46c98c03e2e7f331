//! The server's side: literals, borders, capability lists, opaque.

use super::super::{BlockReason, Event, OpaqueReason};
use super::Pair;

#[test]
fn only_untagged_data_announces_literals() {
    for line in [
        "* OK text {5}",
        "* NO text {5}",
        "* BAD text {5}",
        "* BYE text {5}",
        "* OK [ALERT] {5}",
        "* CAPABILITY IMAP4rev1 {5}",
        "+ text {5}",
        "a1 OK text {5}",
        "a1 NO text {5}",
        "a1 BAD {5}",
        "* LIST () \"/\" \"x {5}\"",
        "* 1 FETCH (X {5} y)",
        "* 1 FETCH {}",
    ] {
        let mut pair = Pair::new();
        pair.c("a1 NOOP\r\n").s(format!("{line}\r\n"));
        assert!(pair.tracker.at_response_border(), "{line}");
        assert!(!pair.tracker.opaque(), "{line}");
    }
    for line in [
        "* 1 FETCH (BODY[] {5}",
        "* 1 FETCH (BINARY[1] ~{5}",
        "* LIST () \"/\" {5}",
        "* X{5}",
        "* {5}",
    ] {
        let mut pair = Pair::new();
        pair.s(format!("{line}\r\n"));
        assert!(!pair.tracker.at_response_border(), "{line}");
        pair.s("a OK ").s(")\r\n");
        assert!(pair.tracker.at_response_border(), "{line}");
        assert!(!pair.tracker.opaque(), "{line}");
    }
}

#[test]
fn several_literals_a_response_are_followed() {
    let mut pair = Pair::new();
    pair.c("a FETCH 1 ALL\r\n");
    pair.s("* 1 FETCH (A {0}\r\n B {4}\r\n)\r\nx C ~{2}\r\n\r\n D NIL)\r\na OK done\r\n");
    assert!(pair.tracker.at_command_border());
    assert!(!pair.tracker.opaque());
}

#[test]
fn a_bare_lf_ends_a_line_of_the_server() {
    let mut pair = Pair::new();
    pair.c("a NOOP\n").s("* 1 EXISTS\n* 2 \rEXISTS\r\r\na OK\n");
    assert!(pair.tracker.at_command_border());
}

#[test]
fn broken_framing_turns_the_server_side_opaque() {
    let cases: [(&str, OpaqueReason); 13] = [
        ("garbage\r\n", OpaqueReason::UnreadableLine),
        ("\r\n", OpaqueReason::UnreadableLine),
        (" * OK\r\n", OpaqueReason::UnreadableLine),
        ("*\r\n", OpaqueReason::UnreadableLine),
        ("a(b OK\r\n", OpaqueReason::UnreadableLine),
        ("a1 FETCH x\r\n", OpaqueReason::UnreadableLine),
        ("a1  OK\r\n", OpaqueReason::UnreadableLine),
        ("zzz OK\r\n", OpaqueReason::UnknownTag),
        ("A1 OK\r\n", OpaqueReason::UnknownTag),
        ("* 1 FETCH {99999999999999999999}\r\n", OpaqueReason::BadLiteral),
        ("* 1 FETCH {5+}\r\n", OpaqueReason::BadLiteral),
        ("* 1 FETCH {5}\n", OpaqueReason::BadLiteral),
        (
            "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt OK\r\n",
            OpaqueReason::UnreadableLine,
        ),
    ];
    for (line, reason) in cases {
        let mut pair = Pair::new();
        pair.c("a1 NOOP\r\n")
            .s(line)
            .s("\0any thing {5}\r\n* OK [CAPABILITY COMPRESS=DEFLATE]\r\n");
        assert_eq!(pair.events, [Event::TurnedOpaque { reason, answer_lost: false }], "{line}");
        assert!(pair.tracker.opaque());
        assert!(!pair.tracker.at_response_border());
        assert!(!pair.tracker.at_command_border());
        assert_eq!(pair.tracker.blocked(), Some(BlockReason::Opaque));
        assert!(pair.down_text().ends_with("COMPRESS=DEFLATE]\r\n"), "untouched from here on");
        assert!(pair.down_text().starts_with(line));
    }
}

#[test]
fn nothing_hangs_when_the_server_turns_opaque() {
    let mut pair = Pair::new();
    pair.c("i IDLE\r\n").s("+ idling\r\n").c("DONE\r\nb IDLE\r\n").s("i OK\r\n+ idling\r\n");
    pair.c("DONE\r\na APPEND x {5}\r\nhello\r\nc NOOP\r\n");
    assert!(pair.tracker.client_blocked());
    pair.s("what\r\n");
    assert!(!pair.tracker.client_blocked());
    pair.c("d APPEND x {2}\r\nhi\r\ne IDLE\r\n");
    assert!(pair.up_text().ends_with("hello\r\nc NOOP\r\nd APPEND x {2}\r\nhi\r\ne IDLE\r\n"));
    assert_eq!(pair.error, None);
}

#[test]
fn an_idle_ends_when_the_server_turns_opaque() {
    let mut pair = Pair::new();
    pair.c("i IDLE\r\n").s("+ idling\r\nwhat\r\n");
    let reason = OpaqueReason::UnreadableLine;
    let opaque = Event::TurnedOpaque { reason, answer_lost: false };
    assert_eq!(pair.events, [Event::IdleStarted, Event::IdleEnded, opaque]);
    assert!(!pair.tracker.idle());
}

#[test]
fn an_own_answer_that_finds_no_border_is_told() {
    let mut pair = Pair::new();
    pair.s("* 1 FETCH (").c("a LOGIN x y\r\n").s("{99999999999999999999}\r\n");
    let reason = OpaqueReason::BadLiteral;
    assert_eq!(pair.events[1..], [Event::TurnedOpaque { reason, answer_lost: true }]);
    assert!(!pair.tracker.answers_wait());
}

#[test]
fn borders_are_where_bytes_may_be_inserted() {
    let mut pair = Pair::new();
    let border =
        |pair: &Pair| (pair.tracker.at_response_border(), pair.tracker.at_command_border());
    assert_eq!(border(&pair), (true, true));
    assert_eq!(border(pair.c("a IDLE\r\n")), (true, false));
    assert_eq!(border(pair.s("+ idl")), (false, false));
    assert_eq!(border(pair.s("ing\r\n")), (true, true));
    assert_eq!(border(pair.s("* 1 EXISTS\r")), (false, false));
    assert_eq!(border(pair.s("\n")), (true, true));
    assert_eq!(border(pair.c("DON")), (true, true));
    assert_eq!(border(pair.c("E\r\n")), (true, false));
    assert_eq!(border(pair.s("a OK\r\n")), (true, true));
    assert_eq!(border(pair.c("b APPEND x {3}\r\n")), (true, false));
    assert_eq!(border(pair.s("+ \r\n")), (true, false));
    assert_eq!(border(pair.c("abc\r\n")), (true, false));
    assert_eq!(border(pair.s("b NO\r\n")), (true, true));
    assert_eq!(border(pair.s("*")), (false, false));
}

#[test]
fn a_second_command_in_an_idle_is_no_border() {
    let mut pair = Pair::new();
    pair.c("a IDLE\r\n").s("+ idling\r\n").c("b NOOP\r\n");
    assert!(pair.tracker.idle());
    assert!(!pair.tracker.at_command_border());
    pair.s("a BAD expected DONE\r\n");
    assert!(!pair.tracker.idle());
    assert_eq!(pair.events[1], Event::IdleEnded);
}

#[test]
fn a_bye_of_the_server_is_told() {
    let mut pair = Pair::new();
    pair.s("* BYE shutting down\r\n");
    assert_eq!(pair.events, [Event::ServerBye]);
}

#[test]
fn capabilities_are_taken_out_in_all_three_places() {
    let cases = [
        ("* CAPABILITY IMAP4rev1 COMPRESS=DEFLATE IDLE\r\n", "* CAPABILITY IMAP4rev1 IDLE\r\n"),
        ("* capability UNAUTHENTICATE\r\n", "* capability\r\n"),
        ("* CAPABILITY IDLE UNAUTHENTICATE\n", "* CAPABILITY IDLE\n"),
        ("* CAPABILITY IDLE UNAUTHENTICATE \r\n", "* CAPABILITY IDLE \r\n"),
        ("* CAPABILITY  A  COMPRESS=DEFLATE\r\n", "* CAPABILITY  A \r\n"),
        (
            "* OK [CAPABILITY A compress=deflate B] COMPRESS=DEFLATE here\r\n",
            "* OK [CAPABILITY A B] COMPRESS=DEFLATE here\r\n",
        ),
        ("a OK [CAPABILITY UNAUTHENTICATE] hi\r\n", "a OK [CAPABILITY] hi\r\n"),
        ("a OK [capability UNAUTHENTICATE B\r\n", "a OK [capability B\r\n"),
        ("* OK [CAPABILITY A]B COMPRESS=DEFLATE\r\n", "* OK [CAPABILITY A]B COMPRESS=DEFLATE\r\n"),
    ];
    for (line, shown) in cases {
        let mut pair = Pair::new();
        pair.c("a CAPABILITY\r\n").s(line);
        assert_eq!(pair.down_text(), shown);
        assert!(pair.tracker.at_response_border());
    }
}

#[test]
fn capability_text_elsewhere_stays() {
    let cases = [
        "* 1 FETCH (BODY[] {40}\r\n* CAPABILITY COMPRESS=DEFLATE UNAUTH\r\n\r\n)\r\n",
        "* NO [CAPABILITY COMPRESS=DEFLATE] x\r\n",
        "a NO [CAPABILITY COMPRESS=DEFLATE] x\r\n",
        "* OK  [CAPABILITY COMPRESS=DEFLATE] x\r\n",
        "* OK [CAPABILITYX COMPRESS=DEFLATE] x\r\n",
        "* OK x [CAPABILITY COMPRESS=DEFLATE] x\r\n",
        "* CAPABILITYS COMPRESS=DEFLATE\r\n",
        "* 5 CAPABILITY COMPRESS=DEFLATE\r\n",
        "+ CAPABILITY COMPRESS=DEFLATE\r\n",
    ];
    for line in cases {
        let mut pair = Pair::new();
        pair.c("a NOOP\r\n").s(line);
        assert_eq!(pair.down_text(), line);
        assert!(pair.tracker.at_response_border(), "{line}");
    }
}

#[test]
fn at_most_one_short_atom_is_held() {
    let mut pair = Pair::new();
    pair.s("* CAPABILITY A COMPRESS=DEF");
    assert_eq!(pair.down_text(), "* CAPABILITY A");
    pair.s("LATE B");
    assert_eq!(pair.down_text(), "* CAPABILITY A");
    pair.s("\r\n");
    assert_eq!(pair.down_text(), "* CAPABILITY A B\r\n");
    for len in [126, 127, 128, 129, 500] {
        let atom = "x".repeat(len);
        let mut pair = Pair::new();
        pair.s(format!("* CAPABILITY {atom}"));
        let held = usize::from(len <= 127) * (len + 1);
        assert_eq!(pair.down.len(), 12 + len + 1 - held, "{len}");
        pair.s(" COMPRESS=DEFLATE\r\n");
        assert_eq!(pair.down_text(), format!("* CAPABILITY {atom}\r\n"));
    }
}
