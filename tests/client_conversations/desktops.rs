//! Thunderbird, Apple Mail, Evolution and aerc.

use super::site::Listener::{Implicit, StartTls};
use super::site::{CLEAR, PASSWORD, SECURE, SECURE_LIST, connect, play, play_with_mail, proxy};
use super::support::backend::{Backend, Opening};
use super::support::client::Client;
use super::support::conversation::Step::{self, Among, Encode, End, Line, Send, Tls, Without};
use super::support::ordinary::Ordinary;

/// It reads the greeting's list and does not ask for another; its commands are in lower case.
const THUNDERBIRD: &[Step] = &[
    SECURE,
    Send(b"1 authenticate PLAIN\r\n"),
    Line("+ "),
    Encode("", "\0thunderbird\0secret"),
    Line("1 OK [CAPABILITY IMAP4rev1 "),
    Without("COMPRESS"),
    Send(b"2 ID (\"name\" \"Thunderbird\" \"version\" \"128.0\")\r\n"),
    Among(&["* ID (", "2 OK"]),
    Send(b"3 enable CONDSTORE\r\n"),
    Among(&["* ENABLED CONDSTORE", "3 OK"]),
    Send(b"4 list (subscribed) \"\" \"*\" return (special-use)\r\n"),
    Among(&["4 OK"]),
    Send(b"5 list \"\" \"INBOX\"\r\n"),
    Among(&["* LIST (", "5 OK"]),
    Send(b"6 select \"INBOX\" (CONDSTORE)\r\n"),
    Among(&["* 1 EXISTS", "6 OK [READ-WRITE]"]),
    Send(b"7 UID fetch 1:* (FLAGS)\r\n"),
    Among(&["* 1 FETCH (", "7 OK"]),
    Send(b"8 IDLE\r\n"),
    Among(&["+ "]),
];

/// IDLE is given up for each command and begun again behind it.
const THUNDERBIRD_WAKES: &[Step] = &[
    Among(&["* 2 EXISTS"]),
    Send(b"DONE\r\n"),
    Among(&["8 OK"]),
    Send(b"9 noop\r\n"),
    Among(&["9 OK"]),
    Send(b"10 UID fetch 1:* (UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (From Subject)])\r\n"),
    Among(&["* 1 FETCH (", "* 2 FETCH (", "10 OK"]),
    Send(b"11 IDLE\r\n"),
    Among(&["+ "]),
    Send(b"DONE\r\n"),
    Among(&["11 OK"]),
    Send(b"12 close\r\n"),
    Among(&["12 OK"]),
    Send(b"13 logout\r\n"),
    Line("* BYE "),
    Line("13 OK"),
    End,
];

#[test]
fn thunderbird_signs_in_by_the_greeting_and_renews_its_idle() {
    play_with_mail(Implicit, "thunderbird", [THUNDERBIRD, THUNDERBIRD_WAKES]);
}

/// All that it may try, in its order: what is not offered is said to be so, what is refused
/// is followed by the next, and the last one gets in.
const THUNDERBIRD_TRIES: &[Step] = &[
    CLEAR,
    Send(b"1 capability\r\n"),
    Line("* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID STARTTLS LOGINDISABLED"),
    Line("1 OK"),
    Send(b"2 STARTTLS\r\n"),
    Line("2 OK"),
    Tls,
    Send(b"3 capability\r\n"),
    Line("* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=PLAIN AUTH=LOGIN"),
    Line("3 OK"),
    Send(b"4 authenticate EXTERNAL YW5uYQ==\r\n"),
    Line("4 NO [CANNOT] "),
    Send(b"5 authenticate GSSAPI\r\n"),
    Line("5 NO [CANNOT] "),
    Send(b"6 authenticate CRAM-MD5\r\n"),
    Line("6 NO [CANNOT] "),
    Send(b"7 authenticate NTLM\r\n"),
    Line("7 NO [CANNOT] "),
    Send(b"8 authenticate MSN\r\n"),
    Line("8 NO [CANNOT] "),
    Encode("9 authenticate XOAUTH2 ", "user=anna\x01auth=Bearer x\x01\x01"),
    Line("9 NO [CANNOT] "),
    Send(b"10 authenticate PLAIN\r\n"),
    Line("+ "),
    Encode("", "\0anna\0plain"),
    Line("10 NO [AUTHENTICATIONFAILED] "),
    Send(b"11 authenticate LOGIN\r\n"),
    Line("+ VXNlcm5hbWU6"),
    Encode("", "anna"),
    Line("+ UGFzc3dvcmQ6"),
    Encode("", "sasl"),
    Line("11 NO [AUTHENTICATIONFAILED] "),
    // It gives an exchange up with a star.
    Send(b"12 authenticate PLAIN\r\n"),
    Line("+ "),
    Send(b"*\r\n"),
    Line("12 BAD "),
    Send(b"13 login \"anna\" \"right\"\r\n"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("13 OK [CAPABILITY IMAP4rev1 "),
];

#[test]
fn thunderbird_tries_one_mechanism_after_the_other_on_one_connection() {
    let backend = Ordinary::new()
        .verdict(|_, password| match password {
            b"right" => "OK in".to_owned(),
            _ => "NO [AUTHENTICATIONFAILED] no".to_owned(),
        })
        .start();
    let proxy = proxy(&backend, "PLAIN, LOGIN", "");
    play(&proxy, StartTls, THUNDERBIRD_TRIES);
    let tried: Vec<_> = backend.logins().into_iter().map(|login| login.password).collect();
    let one: [&[u8]; 3] = [b"plain", b"sasl", b"right"];
    assert_eq!(tried, [one, one].concat());
}

const THUNDERBIRD_ASKED: &[Step] = &[
    SECURE,
    Send(b"1 authenticate PLAIN\r\n"),
    Line("+ "),
    Encode("", "\0anna\0secret"),
    Line("1 NO [UNAVAILABLE] "),
    Send(b"2 noop\r\n"),
    Line("2 OK"),
];

/// Asked once more it would send its string again, and to a server that hears it twice.
#[test]
fn thunderbird_is_not_asked_again_behind_its_password() {
    let backend = Backend::start(Opening::clear(), |peer| {
        peer.send("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi\r\n")?;
        peer.expect("AUTHENTICATE PLAIN AGFubmEAc2VjcmV0")?;
        peer.send("+ \r\n")?;
        peer.hang()
    });
    let proxy = proxy(&backend, "PLAIN", "");
    play(&proxy, Implicit, THUNDERBIRD_ASKED);
    backend.assert_no_faults();
}

/// Greeting and answer agree; the ID comes behind the login.
const MACOS: &[Step] = &[
    CLEAR,
    Send(b"1 CAPABILITY\r\n"),
    Line("* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID STARTTLS LOGINDISABLED"),
    Line("1 OK"),
    Send(b"2 STARTTLS\r\n"),
    Line("2 OK"),
    Tls,
    Send(b"3 CAPABILITY\r\n"),
    Line(SECURE_LIST),
    Line("3 OK"),
    Send(b"4 AUTHENTICATE PLAIN\r\n"),
    Line("+ "),
    Encode("", "\0macos\0secret"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("4 OK [CAPABILITY IMAP4rev1 "),
    Send(b"5 ID (\"name\" \"Mac OS X Mail\" \"version\" \"16.0\" \"os\" \"Mac OS X\")\r\n"),
    Among(&["* ID (", "5 OK"]),
    Send(b"6 SELECT INBOX\r\n"),
    Among(&["* 1 EXISTS", "6 OK [READ-WRITE]"]),
    Send(b"7 IDLE\r\n"),
    Among(&["+ "]),
];

const MACOS_WAKES: &[Step] = &[
    Among(&["* 2 EXISTS"]),
    Send(b"DONE\r\n"),
    Among(&["7 OK"]),
    Send(b"8 FETCH 2 (BODY.PEEK[])\r\n"),
    Among(&["* 2 FETCH (", "8 OK"]),
];

#[test]
fn apple_mail_finds_starttls_in_the_greeting_and_waits_in_idle() {
    play_with_mail(StartTls, "macos", [MACOS, MACOS_WAKES]);
}

/// Twenty are more than one server's limit was.
#[test]
fn apple_mail_opens_twenty_connections_for_one_account() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend, "PLAIN, LOGIN", "");
    let mut open: Vec<Client> = (0..20).map(|_| connect(&proxy, Implicit)).collect();
    for client in &mut open {
        client.expect("* OK [CAPABILITY ");
        client.send("1 AUTHENTICATE LOGIN\r\n");
        client.expect("+ VXNlcm5hbWU6");
        client.send("YW5uYQ==\r\n");
        client.expect("+ UGFzc3dvcmQ6");
        client.send("c2VjcmV0\r\n");
        client.expect("1 OK ");
    }
    for client in &mut open {
        client.command_ok("SELECT INBOX");
    }
    assert_eq!(backend.open_connections(), 20);
}

/// The password in UTF-8 first, then its Latin-1 bytes in quotes.
const EVOLUTION_SPELLS: &[Step] = &[
    CLEAR,
    Send(b"A00000 STARTTLS\r\n"),
    Line("A00000 OK"),
    Tls,
    Send(b"A00001 CAPABILITY\r\n"),
    Line(SECURE_LIST),
    Line("A00001 OK"),
    Send(b"A00002 LOGIN anna \"gr\xc3\xbcn\"\r\n"),
    Line("A00002 NO [AUTHENTICATIONFAILED] "),
    Send(b"A00003 LOGIN anna \"gr\xfcn\"\r\n"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("A00003 OK [CAPABILITY IMAP4rev1 "),
];

#[test]
fn evolution_gets_in_with_a_latin_1_password_after_utf_8_was_refused() {
    let backend = Ordinary::new()
        .verdict(|_, password| match password {
            b"gr\xfcn" => "OK in".to_owned(),
            _ => "NO [AUTHENTICATIONFAILED] no".to_owned(),
        })
        .start();
    let proxy = proxy(&backend, "PLAIN", "");
    play(&proxy, StartTls, EVOLUTION_SPELLS);
    let given: Vec<_> = backend.logins().into_iter().map(|login| login.password).collect();
    let one: [&[u8]; 2] = [b"gr\xc3\xbcn", b"gr\xfcn"];
    assert_eq!(given, [one, one].concat());
}

const EVOLUTION: &[Step] = &[
    SECURE,
    Send(b"A00000 AUTHENTICATE PLAIN\r\n"),
    Line("+ "),
    Encode("", "\0evolution\0secret"),
    Line("A00000 OK [CAPABILITY IMAP4rev1 "),
    Send(b"A00001 ID (\"name\" \"Evolution\" \"version\" \"3.52\")\r\n"),
    Among(&["* ID (", "A00001 OK"]),
    Send(b"A00002 ENABLE CONDSTORE QRESYNC\r\n"),
    Among(&["* ENABLED ", "A00002 OK"]),
    Send(b"A00003 NAMESPACE\r\n"),
    Among(&["* NAMESPACE (", "A00003 OK"]),
    Send(
        b"A00004 NOTIFY SET (selected (MessageNew (UID RFC822.SIZE RFC822.HEADER FLAGS) \
          MessageExpunge FlagChange)) (personal (MessageNew MessageExpunge MailboxName \
          SubscriptionChange))\r\n",
    ),
    Among(&["A00004 OK"]),
    Send(b"A00005 SELECT INBOX (QRESYNC (1 1))\r\n"),
    Among(&["* 1 EXISTS", "A00005 OK [READ-WRITE]"]),
    Send(b"A00006 IDLE\r\n"),
    Among(&["+ "]),
];

/// NOTIFY brings the mail's head unasked, in a literal. IDLE begins anew every 29 minutes.
const EVOLUTION_WAKES: &[Step] = &[
    Among(&["* 2 EXISTS", "* 2 FETCH ("]),
    Send(b"DONE\r\n"),
    Among(&["A00006 OK"]),
    Send(b"A00007 IDLE\r\n"),
    Among(&["+ "]),
    Send(b"DONE\r\n"),
    Among(&["A00007 OK"]),
    Send(b"A00008 LOGOUT\r\n"),
    Among(&["* BYE ", "A00008 OK"]),
    End,
];

#[test]
fn evolution_is_told_of_new_mail_by_notify_within_idle() {
    play_with_mail(Implicit, "evolution", [EVOLUTION, EVOLUTION_WAKES]);
}

/// Without a code it would ask for the password again; by this one it lowers the number of
/// its connections.
#[test]
fn evolution_is_told_that_a_further_connection_is_over_the_limit() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend, "PLAIN", "sessions_per_user: 2");
    let mut open: Vec<Client> = (0..3).map(|_| connect(&proxy, Implicit)).collect();
    for (number, client) in open.iter_mut().enumerate() {
        client.expect("* OK [CAPABILITY ");
        client.send("A00000 AUTHENTICATE PLAIN AGFubmEAc2VjcmV0\r\n");
        client.expect(if number < 2 { "A00000 OK " } else { "A00000 NO [LIMIT] " });
    }
}

/// Its tags are four letters of base64 for URLs.
const AERC: &[Step] = &[
    CLEAR,
    Send(b"z-_k STARTTLS\r\n"),
    Line("z-_k OK"),
    Tls,
    Send(b"-7Qa CAPABILITY\r\n"),
    Line(SECURE_LIST),
    Line("-7Qa OK"),
    Encode("_x0- AUTHENTICATE PLAIN ", "\0aerc\0secret"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("_x0- OK [CAPABILITY IMAP4rev1 "),
    Send(b"Ab-9 SELECT \"INBOX\"\r\n"),
    Among(&["* 1 EXISTS", "Ab-9 OK [READ-WRITE]"]),
    Send(b"9_ZZ LIST \"\" \"\"\r\n"),
    Among(&["* LIST (", "9_ZZ OK"]),
    // A key pressed within a moment: IDLE was hardly begun.
    Send(b"i--1 IDLE\r\n"),
    Among(&["+ "]),
    Send(b"DONE\r\n"),
    Among(&["i--1 OK"]),
    Send(b"i--2 IDLE\r\n"),
    Among(&["+ "]),
];

const AERC_WAKES: &[Step] = &[
    Among(&["* 2 EXISTS"]),
    Send(b"DONE\r\n"),
    Among(&["i--2 OK"]),
    Send(b"____ UID FETCH 1:* (UID ENVELOPE)\r\n"),
    Among(&["* 1 FETCH (", "* 2 FETCH (", "____ OK"]),
];

#[test]
fn aerc_signs_in_with_plain_and_stops_idle_at_once() {
    play_with_mail(StartTls, "aerc", [AERC, AERC_WAKES]);
}

const AERC_WITHOUT_PLAIN: &[Step] = &[
    Line("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID AUTH=LOGIN] "),
    Send(b"z-_k LOGIN \"anna\" \"secret\"\r\n"),
    Line("z-_k OK [CAPABILITY "),
];

/// Where PLAIN is not offered it uses LOGIN, unless that is disabled.
#[test]
fn aerc_falls_back_to_login() {
    let backend = Backend::ordinary();
    let proxy = proxy(&backend, "LOGIN", "");
    play(&proxy, Implicit, AERC_WITHOUT_PLAIN);
    let mut in_clear = connect(&proxy, StartTls);
    let greeting = in_clear.expect("* OK [CAPABILITY ");
    assert!(greeting.contains(" LOGINDISABLED]"), "{greeting}");
    assert_eq!(backend.logins().len(), 2);
    assert_eq!(backend.logins()[0].password, PASSWORD.as_bytes());
}
