//! Roundcube and its like: a login for every request, and all users from one address.

use super::site::Listener::StartTls;
use super::site::{CLEAR, SECURE_LIST, SITE, connect, play, proxy, secure};
use super::support::backend::Backend;
use super::support::conversation::Step::{self, Among, Encode, End, Line, Send, Tls};

const REQUEST: &[Step] = &[
    CLEAR,
    Send(b"A0001 STARTTLS\r\n"),
    Line("A0001 OK"),
    Tls,
    Send(b"A0002 CAPABILITY\r\n"),
    Line(SECURE_LIST),
    Line("A0002 OK"),
    Encode("A0003 AUTHENTICATE PLAIN ", "\0roundcube\0secret"),
    Line("* CAPABILITY IMAP4rev1 "),
    Line("A0003 OK [CAPABILITY IMAP4rev1 "),
    Send(b"A0004 ID (\"name\" \"Roundcube\" \"version\" \"1.6.9\" \"os\" \"Linux\")\r\n"),
    Among(&["* ID (", "A0004 OK"]),
    Send(b"A0005 NAMESPACE\r\n"),
    Among(&["* NAMESPACE (", "A0005 OK"]),
    Send(b"A0006 LIST (SUBSCRIBED) \"\" \"*\"\r\n"),
    Among(&["A0006 OK"]),
    Send(b"A0007 SELECT INBOX\r\n"),
    Among(&["* 1 EXISTS", "A0007 OK"]),
    Send(b"A0008 LOGOUT\r\n"),
    Among(&["* BYE ", "A0008 OK"]),
    End,
];

#[test]
fn roundcube_signs_in_anew_for_every_request() {
    SITE.fill("roundcube");
    for _ in 0..3 {
        play(&SITE.proxy, StartTls, REQUEST);
    }
}

/// One address is many users: none of them meets a limit meant for one.
#[test]
fn roundcube_signs_many_users_in_at_once_from_one_address() {
    const USERS: usize = 45;
    let backend = Backend::ordinary();
    let proxy = proxy(&backend, "PLAIN", "");
    std::thread::scope(|scope| {
        for number in 0..USERS {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = connect(proxy, StartTls);
                client.expect("* OK [CAPABILITY ");
                secure(&mut client);
                client.login(&format!("user{number}"), "secret");
                client.command_ok("SELECT INBOX");
                client.logout();
            });
        }
    });
    let mut users = backend.users();
    users.sort();
    users.dedup();
    assert_eq!(users.len(), USERS);
}
