//! K-9 and Thunderbird for Android, iOS Mail, and what is known of the Gmail app and Samsung's.

use super::site::Listener::{Implicit, StartTls};
use super::site::{
    CLEAR, PASSWORD, REASON, SECURE, SECURE_LIST, SITE, connect, play, play_with_mail, proxy,
    token_server,
};
use super::support::backend::Backend;
use super::support::client::Client;
use super::support::conversation::Step::{self, Among, Encode, End, Line, Send, Tls, Without};

/// PLAIN without an initial response, refused; then LOGIN on the same connection.
const K9: &[Step] = &[
    CLEAR,
    Send(b"1 STARTTLS\r\n"),
    Line("1 OK"),
    Tls,
    Send(b"2 CAPABILITY\r\n"),
    Line(SECURE_LIST),
    Line("2 OK"),
    Without("STARTTLS"),
    Without("LOGINDISABLED"),
    Send(b"3 AUTHENTICATE PLAIN\r\n"),
    Line("+ "),
    Encode("", "\0k9\0wrong"),
    Line("3 NO [AUTHENTICATIONFAILED] "),
    Send(b"4 LOGIN \"k9\" \"secret\"\r\n"),
    // It asked before, and would not read the list in the code.
    Line("* CAPABILITY IMAP4rev1 "),
    Line("4 OK [CAPABILITY IMAP4rev1 "),
    // It would compress first of all.
    Without("COMPRESS"),
    Send(b"5 ID (\"name\" \"K-9 Mail\" \"version\" \"6.804\")\r\n"),
    Among(&["* ID (\"name\" \"Dovecot\"", "5 OK"]),
    Send(b"6 ENABLE CONDSTORE\r\n"),
    Among(&["* ENABLED CONDSTORE", "6 OK"]),
    Send(b"7 NAMESPACE\r\n"),
    Among(&["* NAMESPACE ((\"\" \"/\"))", "7 OK"]),
    Send(b"8 SELECT \"INBOX\"\r\n"),
    Among(&["* 1 EXISTS", "8 OK [READ-WRITE]"]),
    Send(b"9 IDLE\r\nDONE\r\n"),
    Among(&["+ ", "9 OK"]),
    Send(b"10 IDLE\r\n"),
    Among(&["+ "]),
];

const K9_WAKES: &[Step] = &[
    Among(&["* 2 EXISTS"]),
    Send(b"DONE\r\n"),
    Among(&["10 OK"]),
    Send(b"11 UID SEARCH 1:* NOT DELETED\r\n"),
    Among(&["* SEARCH ", "11 OK"]),
    Send(b"12 LOGOUT\r\n"),
    Line("* BYE "),
    Line("12 OK"),
    End,
];

/// A user sees no question for the password, and the mail that comes.
#[test]
fn k9_goes_on_with_login_after_plain_was_refused_and_waits_in_idle() {
    play_with_mail(StartTls, "k9", [K9, K9_WAKES]);
}

/// Each push folder is a connection in IDLE, which it renews every 24 minutes.
#[test]
fn k9_holds_ten_folders_in_idle_at_once() {
    SITE.fill("k9-push");
    let mut folders: Vec<Client> = (0..10).map(|_| connect(&SITE.proxy, Implicit)).collect();
    for folder in &mut folders {
        folder.expect("* OK [CAPABILITY ");
        folder.login("k9-push", PASSWORD);
        folder.send("1 SELECT \"INBOX\"\r\n");
        folder.expect_in_order(&["1 OK"]);
        folder.send("2 IDLE\r\n");
        folder.expect_in_order(&["+ "]);
        folder.send("DONE\r\n3 IDLE\r\n");
        folder.expect_in_order(&["2 OK", "+ "]);
    }
    SITE.deliver("k9-push");
    for folder in &mut folders {
        folder.expect_in_order(&["* 2 EXISTS"]);
        folder.send("DONE\r\n");
        folder.expect_in_order(&["3 OK"]);
    }
}

const K9_TOKENS: &[Step] = &[
    Line(
        "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=OAUTHBEARER AUTH=XOAUTH2 AUTH=PLAIN] ",
    ),
    Encode("1 AUTHENTICATE OAUTHBEARER ", "n,a=anna,\x01auth=Bearer old\x01\x01"),
    Line(REASON),
    Send(b"\r\n"),
    Line("1 NO [AUTHENTICATIONFAILED] "),
    Encode("2 AUTHENTICATE OAUTHBEARER ", "n,a=anna,\x01auth=Bearer new\x01\x01"),
    Line("2 OK [CAPABILITY IMAP4rev1 ID IDLE] "),
    Send(b"3 ID (\"name\" \"K-9 Mail\")\r\n"),
    Among(&["* ID (", "3 OK"]),
];

/// It prefers OAUTHBEARER, answers the reason with an empty line, fetches a new token and
/// tries again on the same connection.
#[test]
fn k9_renews_its_token_on_the_same_connection() {
    let backend = token_server("OAUTHBEARER");
    let proxy = proxy(&backend, "OAUTHBEARER, XOAUTH2, PLAIN", "");
    play(&proxy, Implicit, K9_TOKENS);
    let one = ["n,a=anna,\x01auth=Bearer old\x01\x01", "", "n,a=anna,\x01auth=Bearer new\x01\x01"];
    assert_eq!(backend.users(), [one, one].concat());
    backend.assert_no_faults();
}

const K9_OUTAGE: &[Step] = &[
    SECURE,
    Send(b"1 AUTHENTICATE PLAIN\r\n"),
    Line("+ "),
    Encode("", "\0anna\0secret"),
    Line("1 NO [UNAVAILABLE] "),
    Send(b"2 LOGIN \"anna\" \"secret\"\r\n"),
    Line("2 NO [UNAVAILABLE] "),
    Send(b"3 LOGOUT\r\n"),
    Line("* BYE "),
    Line("3 OK"),
    End,
];

/// To it a NO without a code, or with AUTHENTICATIONFAILED, is a wrong password: it asks the
/// user, and does not push for an hour.
#[test]
fn k9_takes_an_outage_for_one_whichever_login_it_tries() {
    let mut backend = Backend::ordinary();
    backend.stop();
    let proxy = proxy(&backend, "PLAIN", "");
    play(&proxy, Implicit, K9_OUTAGE);
}

/// STARTTLS comes first, unasked; the list in the login's OK is the one that it goes by.
const IOS: &[Step] = &[
    CLEAR,
    Send(b"A1 STARTTLS\r\n"),
    Line("A1 OK"),
    Tls,
    Encode("1 AUTHENTICATE PLAIN ", "\0ios\0secret"),
    Line("1 OK [CAPABILITY IMAP4rev1 "),
    Without("STARTTLS"),
    Without("LOGINDISABLED"),
    Without("AUTH="),
    Without("COMPRESS"),
    Send(
        b"2 ID (\"name\" \"iPhone Mail\" \"version\" \"22A3354\" \"os\" \"iOS\" \
          \"os-version\" \"18.0 (22A3354)\")\r\n",
    ),
    Among(&["* ID (", "2 OK"]),
    Send(b"3 SELECT INBOX (CONDSTORE)\r\n"),
    Among(&["* 1 EXISTS", "3 OK [READ-WRITE]"]),
    Send(b"4 FETCH 1:* (FLAGS UID) (CHANGEDSINCE 0)\r\n"),
    Among(&["* 1 FETCH (", "4 OK"]),
    Send(b"5 IDLE\r\nDONE\r\n"),
    Among(&["+ ", "5 OK"]),
    Send(b"6 NOOP\r\n7 IDLE\r\n"),
    Among(&["6 OK", "+ "]),
];

const IOS_WAKES: &[Step] = &[
    Among(&["* 2 EXISTS"]),
    Send(b"DONE\r\n8 UID FETCH 1:* (UID BODY.PEEK[])\r\n"),
    Among(&["7 OK", "* 1 FETCH (", "* 2 FETCH (", "8 OK"]),
    Send(b"9 IDLE\r\nDONE\r\n10 NOOP\r\n"),
    Among(&["+ ", "9 OK", "10 OK"]),
    Send(b"11 LOGOUT\r\n"),
    Among(&["* BYE ", "11 OK"]),
    End,
];

/// It tries 993 and 143, and goes on where it gets through.
#[test]
fn ios_mail_begins_with_starttls_and_sends_done_right_behind_idle() {
    play_with_mail(StartTls, "ios", [IOS, IOS_WAKES]);
    let behind_starttls = [&[SECURE], &IOS[4..]].concat();
    play_with_mail(Implicit, "ios", [&behind_starttls, IOS_WAKES]);
}

/// Nothing sure is known of these: a token, PLAIN or LOGIN, and an ID behind it.
const ANDROID: [&[Step]; 3] = [
    &[
        Encode("1 AUTHENTICATE XOAUTH2 ", "user=anna\x01auth=Bearer new\x01\x01"),
        Line("1 OK [CAPABILITY "),
        Send(b"2 ID (\"name\" \"com.google.android.gm\")\r\n"),
        Among(&["* ID (", "2 OK"]),
        Send(b"3 LOGOUT\r\n"),
        Line("* BYE "),
        Line("3 OK"),
        End,
    ],
    &[
        Send(b"1 CAPABILITY\r\n"),
        Line("* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=XOAUTH2 AUTH=PLAIN"),
        Line("1 OK"),
        Encode("2 AUTHENTICATE XOAUTH2 ", "user=anna\x01auth=Bearer old\x01\x01"),
        Line(REASON),
        Encode("", ""),
        Line("2 NO [AUTHENTICATIONFAILED] "),
    ],
    &[
        Send(b"1 CAPABILITY\r\n"),
        Line("* CAPABILITY "),
        Line("1 OK"),
        Send(b"2 AUTHENTICATE XOAUTH2\r\n"),
        Line("+ "),
        Encode("", "user=anna\x01auth=Bearer new\x01\x01"),
        Line("* CAPABILITY "),
        Line("2 OK [CAPABILITY "),
    ],
];

#[test]
fn the_gmail_app_and_samsung_mail_sign_in_with_a_token_either_way() {
    let backend = token_server("XOAUTH2");
    let proxy = proxy(&backend, "XOAUTH2, PLAIN", "");
    let greeting = Line("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=XOAUTH2 AUTH=PLAIN] ");
    for steps in ANDROID {
        play(&proxy, Implicit, &[&[greeting], steps].concat());
    }
    backend.assert_no_faults();
}
