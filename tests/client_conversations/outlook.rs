//! Outlook, the new one that is a web page and the classic one.

use super::site::Listener::Implicit;
use super::site::{SECURE, SECURE_LIST, SITE, play, proxy};
use super::support::backend::Backend;
use super::support::conversation::Step::{self, Among, Encode, End, Line, Send};

/// ID and LOGIN with literals that nobody is asked for, in one write.
const NEW: &[Step] = &[
    SECURE,
    Send(
        b"1 ID ({4+}\r\nname {17+}\r\nMicrosoft Outlook {7+}\r\nversion {4+}\r\n16.0)\r\n\
          2 LOGIN {7+}\r\noutlook {6+}\r\nsecret\r\n",
    ),
    Line("* ID ("),
    Line("1 OK"),
    Line("2 OK [CAPABILITY IMAP4rev1 "),
    Send(b"3 SELECT INBOX\r\n"),
    Among(&["* 1 EXISTS", "3 OK [READ-WRITE]"]),
    Send(b"4 LOGOUT\r\n"),
    Among(&["* BYE ", "4 OK"]),
    End,
];

/// With `IMAP4rev2` in the greeting it does so; without it the same must still be read.
#[test]
fn new_outlook_sends_id_and_login_in_one_write_without_waiting() {
    SITE.fill("outlook");
    play(&SITE.proxy, Implicit, NEW);
    SITE.dovecot.wait_for_log("name=Microsoft Outlook, version=16.0");
}

/// The literals hold what looks like commands.
const NEW_ODD: &[Step] = &[
    SECURE,
    Send(
        b"1 ID ({4+}\r\nname {11+}\r\nx LOGOUT\r\n\"{9+}\r\nx NOOP\r\n()\r\n\
          2 LOGIN {4+}\r\nanna {6+}\r\nsecret\r\n3 NOOP\r\n",
    ),
    Line("1 BAD "),
    Line("2 OK [CAPABILITY "),
    Line("3 OK"),
];

/// What cannot be read is refused as a whole, and nothing inside it runs.
#[test]
fn new_outlook_breaks_no_literal_open() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend, "PLAIN", "");
    play(&proxy, Implicit, NEW_ODD);
}

/// Tags of four letters at random, no SASL, LOGIN in quotes.
const CLASSIC: &[Step] = &[
    SECURE,
    Send(b"qz7k CAPABILITY\r\n"),
    Line(SECURE_LIST),
    Line("qz7k OK"),
    Send(b"m3pt LOGIN \"classic\" \"secret\"\r\n"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("m3pt OK [CAPABILITY IMAP4rev1 "),
    Send(b"u9fd LIST \"\" \"INBOX\"\r\n"),
    Among(&["* LIST (", "u9fd OK"]),
    Send(b"0x1y SELECT \"INBOX\"\r\n"),
    Among(&["* 1 EXISTS", "0x1y OK [READ-WRITE]"]),
    Send(b"3rtb NOOP\r\n"),
    Among(&["3rtb OK"]),
    Send(b"wwww LOGOUT\r\n"),
    Among(&["* BYE ", "wwww OK"]),
    End,
];

#[test]
fn classic_outlook_needs_login_and_nothing_else() {
    SITE.fill("classic");
    play(&SITE.proxy, Implicit, CLASSIC);
}

/// More errors than a strict server forgives, in an order of its own: none of them counts
/// against the login behind them.
const CLASSIC_ODD: &[Step] = &[
    SECURE,
    Send(b"aaaa LIST \"\" \"INBOX\"\r\n"),
    Line("aaaa BAD "),
    Send(b"bbbb AUTHENTICATE NTLM\r\n"),
    Line("bbbb NO [CANNOT] "),
    Send(b"cccc XLIST \"\" \"*\"\r\n"),
    Line("cccc BAD "),
    Send(b"dddd STARTTLS\r\n"),
    Line("dddd BAD "),
    Send(b"eeee\r\n"),
    Line("eeee BAD "),
    Send(b"ffff NOOP\r\n"),
    Line("ffff OK"),
    Send(b"gggg LOGIN \"anna\"\r\n"),
    Line("gggg BAD "),
    Send(b"hhhh LOGIN \"anna\" \"secret\"\r\n"),
    Line("hhhh OK [CAPABILITY "),
    Encode("iiii AUTHENTICATE PLAIN ", "\0anna\0secret"),
    Line("iiii BAD "),
    Send(b"jjjj SELECT \"INBOX\"\r\n"),
    Among(&["* 2 EXISTS", "jjjj OK"]),
];

#[test]
fn classic_outlook_is_not_sent_away_for_its_errors() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend, "PLAIN", "");
    play(&proxy, Implicit, CLASSIC_ODD);
    assert_eq!(backend.users(), ["anna", "anna"]);
}
