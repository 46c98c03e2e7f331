//! `JavaMail` and what became of it, and programs whose reader is strict.

use super::site::Listener::{Implicit, StartTls};
use super::site::{
    CLEAR, REASON, SECURE, SECURE_LIST, SITE, play, play_with_mail, proxy, token_server,
};
use super::support::backend::Backend;
use super::support::conversation::Step::{self, Among, Encode, End, Line, Send, Tls, Without};
use super::support::ordinary::Ordinary;

/// PLAIN waits for the server's word, whatever is listed.
const JAVAMAIL: &[Step] = &[
    CLEAR,
    Send(b"A0 CAPABILITY\r\n"),
    // It sends no LOGIN where it reads this.
    Line("* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID STARTTLS LOGINDISABLED"),
    Line("A0 OK"),
    Send(b"A1 STARTTLS\r\n"),
    Line("A1 OK"),
    Tls,
    Send(b"A2 CAPABILITY\r\n"),
    Line(SECURE_LIST),
    Line("A2 OK"),
    Send(b"A3 AUTHENTICATE PLAIN\r\n"),
    Line("+ "),
    Encode("", "\0javamail\0secret"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("A3 OK [CAPABILITY IMAP4rev1 "),
    Send(b"A4 CAPABILITY\r\n"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("A4 OK"),
    Without("COMPRESS"),
    Send(b"A5 SELECT INBOX\r\n"),
    Among(&["* 1 EXISTS", "A5 OK [READ-WRITE]"]),
    Send(b"A6 IDLE\r\n"),
    Among(&["+ "]),
];

const JAVAMAIL_WAKES: &[Step] = &[
    Among(&["* 2 EXISTS"]),
    Send(b"DONE\r\n"),
    Among(&["A6 OK"]),
    Send(b"A7 FETCH 2 (ENVELOPE INTERNALDATE RFC822.SIZE FLAGS BODYSTRUCTURE)\r\n"),
    Among(&["* 2 FETCH (", "A7 OK"]),
    Send(b"A8 CLOSE\r\n"),
    Among(&["A8 OK"]),
    Send(b"A9 LOGOUT\r\n"),
    Among(&["* BYE ", "A9 OK"]),
    End,
];

#[test]
fn javamail_asks_for_every_list_and_waits_for_every_word() {
    play_with_mail(StartTls, "javamail", [JAVAMAIL, JAVAMAIL_WAKES]);
}

/// Offered AUTH=LOGIN and no PLAIN, it takes that.
const JAVAMAIL_LOGIN: &[Step] = &[
    Line("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=LOGIN] "),
    Send(b"A0 CAPABILITY\r\n"),
    Line("* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=LOGIN"),
    Line("A0 OK"),
    Send(b"A1 AUTHENTICATE LOGIN\r\n"),
    Line("+ VXNlcm5hbWU6"),
    Encode("", "anna"),
    Line("+ UGFzc3dvcmQ6"),
    Encode("", "secret"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("A1 OK [CAPABILITY IMAP4rev1 "),
];

#[test]
fn javamail_uses_sasl_login_where_it_is_offered() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend, "LOGIN", "");
    play(&proxy, Implicit, JAVAMAIL_LOGIN);
    assert_eq!(backend.users(), ["anna", "anna"]);
}

/// A token goes with the command, and the reason is answered by an empty line.
const JAVAMAIL_TOKEN: &[Step] = &[
    Line("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=XOAUTH2 AUTH=PLAIN] "),
    Send(b"A0 CAPABILITY\r\n"),
    Line("* CAPABILITY "),
    Line("A0 OK"),
    Encode("A1 AUTHENTICATE XOAUTH2 ", "user=anna\x01auth=Bearer old\x01\x01"),
    Line(REASON),
    Send(b"\r\n"),
    Line("A1 NO [AUTHENTICATIONFAILED] "),
    Encode("A2 AUTHENTICATE XOAUTH2 ", "user=anna\x01auth=Bearer new\x01\x01"),
    Line("* CAPABILITY "),
    Line("A2 OK [CAPABILITY "),
];

#[test]
fn javamail_sends_its_token_at_once_and_hears_why_it_is_refused() {
    let backend = token_server("XOAUTH2");
    let proxy = proxy(&backend, "XOAUTH2, PLAIN", "");
    play(&proxy, Implicit, JAVAMAIL_TOKEN);
    assert_eq!(backend.users().iter().filter(|said| said.is_empty()).count(), 2);
    backend.assert_no_faults();
}

const JAVAMAIL_REFERRED: &[Step] = &[
    SECURE,
    Send(b"A0 LOGIN anna secret\r\n"),
    Line("A0 NO [UNAVAILABLE] "),
    Without("REFERRAL"),
    Without("elsewhere"),
    Send(b"A1 NOOP\r\n"),
    Line("A1 OK"),
];

/// It would follow a referral past the proxy.
#[test]
fn javamail_is_never_shown_a_referral() {
    let backend = Ordinary::new()
        .verdict(|_, _| "NO [REFERRAL imap://elsewhere.example/] Try elsewhere.".to_owned())
        .start();
    let proxy = proxy(&backend, "PLAIN", "");
    play(&proxy, Implicit, JAVAMAIL_REFERRED);
    assert_eq!(backend.logins().len(), 2);
}

/// LOGIN with literals that wait.
const EMAIL_PROXY: &[Step] = &[
    SECURE,
    Send(b"A1 LOGIN {11}\r\n"),
    Line("+ "),
    Send(b"email-proxy {6}\r\n"),
    Line("+ "),
    Send(b"secret\r\n"),
    Line("A1 OK [CAPABILITY IMAP4rev1 "),
    Send(b"A2 SELECT INBOX\r\n"),
    Among(&["* 1 EXISTS", "A2 OK"]),
];

#[test]
fn email_oauth2_proxy_signs_in_with_literals() {
    SITE.fill("email-proxy");
    play(&SITE.proxy, Implicit, EMAIL_PROXY);
}

/// The same, by a reader to whom a `+` without a blank and words behind it is no answer.
const DMARC: &[Step] = &[
    SECURE,
    Send(b"0000 CAPABILITY\r\n"),
    Line(SECURE_LIST),
    Line("0000 OK CAPABILITY completed."),
    Send(b"0001 LOGIN {5}\r\n"),
    Line("+ OK"),
    Send(b"dmarc {6}\r\n"),
    Line("+ OK"),
    Send(b"secret\r\n"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("0001 OK [CAPABILITY IMAP4rev1 "),
    Send(b"0002 SELECT INBOX\r\n"),
    Among(&["* 1 EXISTS", "0002 OK"]),
    Send(b"0003 UID SEARCH UNSEEN\r\n"),
    Among(&["* SEARCH ", "0003 OK"]),
];

#[test]
fn dmarc_metrics_exporter_finds_words_behind_every_plus() {
    SITE.fill("dmarc");
    play(&SITE.proxy, Implicit, DMARC);
}

/// Old releases put a password between quotes as it is; a quote within it is no password.
const OLD_MBSYNC: &[Step] = &[
    SECURE,
    Send(b"1 LOGIN \"mbsync\" \"se\"cret\"\r\n"),
    Line("1 BAD "),
    Send(b"2 LOGIN \"mbsync\" \"secret\"\r\n"),
    Line("2 OK [CAPABILITY IMAP4rev1 "),
    Send(b"3 NAMESPACE\r\n4 SELECT \"INBOX\"\r\n5 UID FETCH 1:* (UID FLAGS)\r\n"),
    Among(&["* NAMESPACE (", "3 OK", "4 OK", "* 1 FETCH (", "5 OK"]),
    Send(b"6 APPEND \"INBOX\" {14+}\r\nSubject: x\r\n\r\n\r\n7 NOOP\r\n"),
    Among(&["6 OK", "7 OK"]),
];

#[test]
fn an_old_mbsync_sends_quotes_as_they_are_and_many_commands_at_once() {
    SITE.fill("mbsync");
    play(&SITE.proxy, Implicit, OLD_MBSYNC);
}
