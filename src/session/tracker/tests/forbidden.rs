//! What the proxy answers itself after login.

use super::super::{ClientError, Event};
use super::Pair;

const BAD: &str = "BAD Command not available after login.\r\n";

#[test]
fn nothing_of_a_forbidden_command_is_forwarded() {
    let cases = [
        "a LOGIN joe pw\r\n",
        "a login \"joe\" \"p w\"\r\n",
        "a AUTHENTICATE PLAIN AGEAYg==\r\n",
        "a STARTTLS\r\n",
        "a Compress DEFLATE\r\n",
        "a UNAUTHENTICATE\n",
        "a X-UNAUTHENTICATE\r\n",
        "a PROXYAUTH other\r\n",
        "a LOGIN(joe pw\r\n",
        "a LOGIN {3+}\r\njoe {2+}\r\npw\r\n",
        "a LOGIN {3+}\r\nx \n ~{5+}\r\nq X\r\n\r\n",
        "a LOGIN {3}\r\n",
        "a LOGIN {3+}\r\njoe {2}\r\n",
        "a LOGIN{3}\r\n",
    ];
    for bytes in cases {
        let mut pair = Pair::new();
        pair.c(bytes).c("b NOOP\r\n");
        assert_eq!(pair.error, None, "{bytes}");
        assert_eq!(pair.up_text(), "b NOOP\r\n", "{bytes}");
        assert_eq!(pair.down_text(), format!("a {BAD}"), "{bytes}");
        assert_eq!(pair.events, [Event::Refused], "{bytes}");
        assert_eq!(pair.tracker.in_flight(), 1);
    }
}

#[test]
fn words_that_only_begin_like_forbidden_ones_pass() {
    for word in ["LOGINX", "LOGI", "XLOGIN", "UNAUTHENTICATED", "COMPRESS-2"] {
        let mut pair = Pair::new();
        pair.c(format!("a {word} x\r\n"));
        assert_eq!(pair.up_text(), format!("a {word} x\r\n"));
    }
}

#[test]
fn a_tag_that_is_none_is_not_echoed() {
    for tag in ["*", "+", "a(b", "a\u{e9}", "\"a\""] {
        let mut pair = Pair::new();
        pair.c(format!("{tag} LOGIN x y\r\n"));
        assert_eq!(pair.down_text(), format!("* {BAD}"), "{tag}");
    }
}

#[test]
fn answers_wait_for_a_response_border_and_keep_their_order() {
    let mut pair = Pair::new();
    pair.c("f FETCH 1 BODY[]\r\n").s("* 1 FETCH (BODY[] {6}\r\nabc");
    pair.c("a LOGIN x y\r\nb STARTTLS\r\n");
    assert!(pair.tracker.answers_wait());
    assert!(!pair.tracker.at_response_border());
    pair.s("def FLAGS ()").s(")\r\nf OK done\r\n");
    assert_eq!(
        pair.down_text(),
        format!("* 1 FETCH (BODY[] {{6}}\r\nabcdef FLAGS ())\r\na {BAD}b {BAD}f OK done\r\n")
    );
    assert!(pair.tracker.at_command_border());
}

#[test]
fn a_forbidden_command_during_an_idle_is_answered_at_once() {
    let mut pair = Pair::new();
    pair.c("i IDLE\r\n").s("+ idling\r\n* 3 EXISTS\r\n").c("a COMPRESS DEFLATE\r\n");
    assert_eq!(pair.down_text(), format!("+ idling\r\n* 3 EXISTS\r\na {BAD}"));
    assert!(pair.tracker.idle());
}

#[test]
fn a_flood_of_forbidden_commands_stops_the_client() {
    let mut pair = Pair::new();
    pair.c("f FETCH 1 BODY[]\r\n").s("* 1 FETCH (");
    let flood = "a LOGIN x y\r\n".repeat(1000);
    pair.c(&flood);
    assert!(pair.tracker.client_blocked());
    assert!(pair.rest.len() > flood.len() / 2);
    pair.s(")\r\n");
    assert_eq!(pair.rest, b"");
    assert_eq!(pair.down_text().matches(BAD).count(), 1000);
    assert_eq!(pair.up_text(), "f FETCH 1 BODY[]\r\n");
}

#[test]
fn broken_framing_in_a_forbidden_command_ends_the_session() {
    let mut pair = Pair::new();
    pair.c("a LOGIN \"x\r\n");
    assert_eq!(pair.error, Some(ClientError::OpenQuote));
    assert_eq!(pair.up_text(), "");
}

#[test]
fn a_forbidden_command_while_opaque_closes_without_a_word() {
    let mut pair = Pair::new();
    pair.s("garbage\r\n").c("a NOOP\r\nb LOGIN x y\r\n");
    assert_eq!(pair.error, Some(ClientError::ForbiddenWhileOpaque));
    assert_eq!(pair.up_text(), "a NOOP\r\n");
    assert_eq!(pair.down_text(), "garbage\r\n");
}

/// Else its own answers could be taken for those to a DONE that came too late.
#[test]
fn a_command_with_the_tag_done_is_not_forwarded() {
    for tag in ["DONE", "done"] {
        let mut pair = Pair::new();
        pair.c(format!("{tag} APPEND x {{11}}\r\n"));
        assert_eq!((pair.up_text().as_str(), pair.down_text()), ("", format!("{tag} {BAD}")));
    }
}

/// The server never sees the line, so whose answer a tagged line is stays certain.
#[test]
fn a_line_of_one_word_is_not_mistaken_for_a_command_with_that_tag() {
    let mut pair = Pair::new();
    pair.c("b\r\nb APPEND x {11}\r\n");
    assert_eq!(pair.up_text(), "b APPEND x {11}\r\n");
    assert_eq!(pair.down_text(), "b BAD Command missing.\r\n");
    pair.s("b NO too big\r\n").c("c NOOP\r\n");
    assert_eq!(pair.up_text(), "b APPEND x {11}\r\nc NOOP\r\n");
    assert!(!pair.tracker.opaque());
}
