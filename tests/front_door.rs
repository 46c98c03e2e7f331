//! The front door's grammar: what a client may say before its login, byte by byte, and
//! that a backend never sees more of it than one login in the proxy's own words.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, StreamOwned};

use support::backend::{Backend, shard};
use support::client::Client;
use support::ordinary::Ordinary;
use support::pointsman::Pointsman;
use support::tls::{Authority, client_side};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

fn start(backend: &Backend) -> Pointsman {
    Pointsman::start(&AUTHORITY, |places| places.head() + &shard(backend))
}

/// The user and password of the backend's only login.
fn only_login(backend: &Backend) -> (Vec<u8>, Vec<u8>) {
    backend.assert_no_faults();
    let logins = backend.logins();
    assert_eq!(logins.len(), 1, "{logins:?}");
    (logins[0].user.clone(), logins[0].password.clone())
}

fn pair(user: &str, password: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (user.as_bytes().to_vec(), password.to_vec())
}

/// Sends the bytes, expects an answer that begins so, and that the connection goes on in
/// step: the next thing answered is the NOOP behind.
fn answered(proxy: &Pointsman, bytes: &[u8], answer: &str) {
    let mut client = proxy.client();
    client.send([bytes, b"still NOOP\r\n"].concat());
    let line = client.read_line();
    let shown = String::from_utf8_lossy(bytes);
    assert!(line.starts_with(answer), "{shown:?}: {line:?}");
    let next = client.read_line();
    assert!(next.starts_with("still OK"), "{shown:?}: {next:?}");
}

/// Remembers sessions and offers them to whatever name is asked for next.
#[derive(Debug, Default)]
struct CarelessMemory {
    tickets: Mutex<Vec<Tls13ClientSessionValue>>,
    session: Mutex<Option<Tls12ClientSessionValue>>,
}

impl ClientSessionStore for CarelessMemory {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        *self.session.lock().unwrap() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.session.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.session.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.lock().unwrap().push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.lock().unwrap().pop()
    }
}

/// Shakes hands with that name and reads the greeting; gives the kind of the handshake
/// and the certificate that was shown, now or in the session that is resumed.
fn shaken(proxy: &Pointsman, config: &Arc<ClientConfig>, name: &str) -> (HandshakeKind, Vec<u8>) {
    let socket = TcpStream::connect(proxy.places().imaps).unwrap();
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(client_side(config, name), socket);
    stream.read_exact(&mut [0; 4]).unwrap();
    let leaf = stream.conn.peer_certificates().unwrap()[0].to_vec();
    (stream.conn.handshake_kind().unwrap(), leaf)
}

/// A ticket of one name opens no session under another: there the certificate of that
/// name is chosen and shown, whatever the client brings along.
#[test]
fn b14_a_ticket_resumes_the_name_that_it_was_given_for_and_no_other() {
    let backend = Backend::ordinary();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let pair = |name: &&str| {
            let (cert, key) = AUTHORITY.issue(&[name]).write(&places.folder, name);
            format!("    - {{ cert: \"{}\", key: \"{}\" }}\n", cert.display(), key.display())
        };
        let list: String = ["one.example.org", "two.example.org"].iter().map(pair).collect();
        places.head().replace("admin:", &(list + "admin:")) + &shard(&backend)
    });
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let usual = AUTHORITY.client_config();
        let mut config = ClientConfig::builder_with_provider(Arc::clone(usual.crypto_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(AUTHORITY.roots())
            .with_no_client_auth();
        let memory: Arc<dyn ClientSessionStore> = Arc::<CarelessMemory>::default();
        config.resumption = Resumption::store(memory);
        let config = Arc::new(config);
        let (first, one) = shaken(&proxy, &config, "one.example.org");
        let (again, same) = shaken(&proxy, &config, "one.example.org");
        let (other, two) = shaken(&proxy, &config, "two.example.org");
        assert_eq!((first, again), (HandshakeKind::Full, HandshakeKind::Resumed), "{version:?}");
        assert_eq!(other, HandshakeKind::Full, "{version:?}");
        assert!(one == same && one != two, "{version:?}");
    }
}

#[test]
fn b18_the_size_of_a_literal_is_digits_alone() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    for size in [
        "{+6}",
        "{6++}",
        "{ 6}",
        "{6 }",
        "{0x6}",
        "{-6}",
        "{}",
        "{+}",
        "{6-}",
        "{6+ }",
        "{6,}",
        "{6.0}",
        "{six}",
        "{\u{ff16}}",
        "{6}}",
        "{6+}}",
    ] {
        // No `+` and nothing swallowed: what follows is a command.
        answered(&proxy, format!("a LOGIN anna {size}\r\n").as_bytes(), "a BAD");
    }
    assert_eq!(backend.connections(), 0);
    // Zeros in front are within the grammar.
    let mut client = proxy.client();
    client.send("a LOGIN {0004}\r\n");
    client.expect("+ ");
    client.send("anna {00000000000000000000006+}\r\nsecret\r\n");
    client.expect("a OK");
    assert_eq!(only_login(&backend), pair("anna", b"secret"));
}

#[test]
fn b19_a_literal_is_followed_by_a_blank_or_the_line_end() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    for behind in ["XX secret", "\"secret\"", "\tsecret", "{6+}\r\nsecret", "  secret", ""] {
        let command = format!("a LOGIN {{4+}}\r\nanna{behind}\r\n");
        answered(&proxy, command.as_bytes(), "a BAD");
        let mut client = proxy.client();
        client.send("a LOGIN {4}\r\n");
        client.expect("+ ");
        client.send(format!("anna{behind}\r\nb NOOP\r\n"));
        client.expect("a BAD");
        client.expect("b OK");
    }
    for behind in ["X", " ", "\"\"", " more", "{0+}\r\n"] {
        let command = format!("a LOGIN anna {{6+}}\r\nsecret{behind}\r\n");
        answered(&proxy, command.as_bytes(), "a BAD");
    }
    assert_eq!(backend.connections(), 0);
}

/// Reads on behind the `+` of literals that were sent without waiting for it.
fn expect_behind_plus(client: &mut Client, start: &str) {
    let mut line = client.read_line();
    while line.starts_with("+ ") {
        line = client.read_line();
    }
    assert!(line.starts_with(start), "expected {start:?}, got {line:?}");
}

/// The bytes of one argument are unescaped by its own form, not by that of another.
#[test]
fn b20_a_backslash_is_an_escape_inside_quotes_only() {
    for (command, password) in [
        (&b"a LOGIN {4+}\r\nanna \"p\\\"w\\\\d\"\r\n"[..], &b"p\"w\\d"[..]),
        (b"a LOGIN \"anna\" {9+}\r\npa\\ss\\\"w\\\r\n", b"pa\\ss\\\"w\\"),
        (b"a LOGIN \"anna\" {8}\r\nname\\\\\\n\r\n", b"name\\\\\\n"),
    ] {
        let backend = Backend::ordinary();
        let proxy = start(&backend);
        let mut client = proxy.client();
        client.send(command);
        expect_behind_plus(&mut client, "a OK");
        assert_eq!(only_login(&backend), pair("anna", password));
    }
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    // Not one of the letters that may be escaped; and nobody is called so.
    answered(&proxy, b"a LOGIN \"an\\na\" secret\r\n", "a BAD");
    answered(&proxy, b"a LOGIN anna \"secret\\\"\r\n", "a BAD");
    answered(&proxy, b"a LOGIN an\\na secret\r\n", "a BAD");
    answered(&proxy, b"a LOGIN {9+}\r\nuser\\name \"p\\\"w\"\r\n", "a NO [AUTHENTICATIONFAILED]");
    assert_eq!(backend.connections(), 0);
}

/// What one program cuts at a NUL another does not: none gets through.
#[test]
fn b21_a_nul_stands_in_no_argument_and_twice_in_a_plain_message() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    for command in [
        &b"a LOGIN an\0na secret\r\n"[..],
        b"a LOGIN anna sec\0ret\r\n",
        b"a LOGIN \"anna\0\" \"secret\"\r\n",
        b"a LOGIN \"anna\" \"secret\0\"\r\n",
        b"a LOGIN {5+}\r\nanna\0 {6+}\r\nsecret\r\n",
        b"a LOGIN {4+}\r\nanna {7+}\r\n\0secret\r\n",
    ] {
        answered(&proxy, command, "a BAD");
    }
    for message in ["", "anna", "anna\0secret", "\0anna\0sec\0ret", "\0\0anna\0secret", "\0\0\0"] {
        let encoded = STANDARD.encode(message);
        let initial = if encoded.is_empty() { "=" } else { &encoded };
        answered(&proxy, format!("a AUTHENTICATE PLAIN {initial}\r\n").as_bytes(), "a BAD");
        let mut client = proxy.client();
        client.send("a AUTHENTICATE PLAIN\r\n");
        client.expect("+ ");
        client.send(format!("{encoded}\r\nb NOOP\r\n"));
        client.expect("a BAD");
        client.expect("b OK");
    }
    assert_eq!(backend.connections(), 0);
    let message = STANDARD.encode("\0anna\0secret");
    answered_login(&proxy, &format!("a AUTHENTICATE PLAIN {message}\r\n"));
    assert_eq!(only_login(&backend), pair("anna", b"secret"));
}

fn answered_login(proxy: &Pointsman, command: &str) {
    let mut client = proxy.client();
    client.send(command);
    client.expect("a OK");
}

/// NOOPs of exactly so many bytes, and how many they are.
fn noops(bytes: usize) -> (Vec<u8>, usize) {
    const LINE: &[u8] = b"n NOOP\r\n";
    let mut text = LINE.repeat(bytes / LINE.len());
    let count = text.len() / LINE.len();
    // The last line is longer by what is missing: before the login that is a bad argument.
    let missing = bytes - text.len();
    text.truncate(text.len() - 2);
    text.extend(std::iter::repeat_n(b' ', missing));
    text.extend_from_slice(b"\r\n");
    (text, count)
}

const WRONG: &[u8] = b"a LOGIN anna wrong\r\n";
const RIGHT: &[u8] = b"a LOGIN anna right\r\n";

/// Sends so many bytes in all, a login in front, once with a wrong password and once with
/// the right one: each NOOP has its answer, from the proxy or from the backend.
fn fill(proxy: &Pointsman, bytes: usize) {
    let (behind, count) = noops(bytes - WRONG.len());
    let mut client = proxy.client();
    client.send([WRONG, &behind].concat());
    client.expect("a NO [AUTHENTICATIONFAILED]");
    for number in 0..count {
        let line = client.read_line();
        assert!(line.starts_with("n "), "{bytes}: {number} of {count}: {line:?}");
    }
    client.login("anna", "right");
    let mut client = proxy.client();
    client.send([RIGHT, &behind].concat());
    client.expect("a OK");
    for _ in 0..count {
        client.expect("n OK");
    }
}

/// A buffer that is just full is not the client's end, and nothing of it is lost: behind
/// a failed login, whose delay lets the buffer fill, all of it is answered.
#[test]
fn b27_a_buffer_filled_to_the_last_byte_is_not_the_end_of_the_client() {
    let backend = Ordinary::new()
        .verdict(|_, password| {
            let right = password == b"right";
            if right { "OK in" } else { "NO [AUTHENTICATIONFAILED] no" }.to_owned()
        })
        .delay("AUTHENTICATE", Duration::from_millis(100))
        .start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        let limits = "limits: { failed_login_delay: 400ms }\n";
        places.head_without_limits() + limits + &shard(&backend)
    });
    // One read's worth, all that is held, and each with a byte less and more; the login
    // line itself in the count or not.
    let sizes = [4_096, 65_536]
        .into_iter()
        .flat_map(|full| [full - 1, full, full + 1, full + WRONG.len(), 2 * full]);
    std::thread::scope(|scope| {
        for bytes in sizes {
            let proxy = &proxy;
            scope.spawn(move || fill(proxy, bytes));
        }
    });
    backend.assert_no_faults();
}

/// Before the login only CRLF ends a line, and the backend never sees the client's own.
#[test]
fn b28_line_ends_are_crlf_before_the_login_and_never_the_clients_at_the_backend() {
    let backend = Ordinary::new().capability("IMAP4rev1 SASL-IR AUTH=PLAIN").start();
    let proxy = start(&backend);
    for command in [
        &b"a LOGIN anna secret\n"[..],
        b"a LOGIN anna \"secret\"\n",
        b"a LOGIN anna secret\r\r\n",
        b"a LOGIN\ranna secret\r\n",
        b"a LOGIN anna sec\rret\r\n",
        b"a LOGIN anna \"sec\rret\"\r\n",
        b"a AUTHENTICATE PLAIN AGFubmEAc2VjcmV0\n",
        b"a AUTHENTICATE PLAIN AGFubmEAc2VjcmV0\r\r\n",
        b"a NOOP\n",
    ] {
        answered(&proxy, command, "a BAD");
    }
    // Inside quotes a CRLF ends the command all the same, and so does a bare LF.
    for (command, rest) in [
        (&b"a LOGIN \"an\r\nna\" secret\r\n"[..], "BAD"),
        (b"a LOGIN anna \"sec\nret\"\r\n", "BAD"),
    ] {
        let mut client = proxy.client();
        client.send(command);
        client.expect("a BAD");
        let second = client.read_line();
        assert!(second.contains(rest), "{second:?}");
        client.command_ok("NOOP");
    }
    // An answer in a SASL exchange is a line like any other.
    let mut client = proxy.client();
    client.send("a AUTHENTICATE PLAIN\r\n");
    client.expect("+ ");
    client.send("AGFubmEAc2VjcmV0\n");
    client.expect("a BAD");
    // A literal without waiting that a bare LF announces: what follows is no command.
    let mut client = proxy.client();
    client.send("a LOGIN anna {22+}\nb LOGIN anna secret\r\n\r\n");
    let said = String::from_utf8(client.read_to_end()).unwrap();
    assert!(said.starts_with("* BYE ") && !said.contains("b "), "{said:?}");
    assert_eq!(backend.connections(), 0);

    let mut client = proxy.client();
    client.send("a login {4+}\r\nanna \"secret\"\r\nb NOOP\n");
    client.expect("a OK");
    // After it a line may end as servers allow, and passes as it came.
    client.expect("b OK");
    let received = backend.received_text(0);
    let (tag, rest) = received.split_once(' ').unwrap();
    let login = format!("AUTHENTICATE PLAIN {}\r\n", STANDARD.encode("\0anna\0secret"));
    assert_eq!(rest, login + "b NOOP\n");
    assert_ne!(tag, "a");
}

/// A tag comes back to the client only where it is one, and it stands in no log.
#[test]
fn b29_only_a_valid_tag_is_echoed() {
    let backend = Backend::ordinary();
    let proxy = start(&backend);
    let longest = "x".repeat(64);
    for tag in ["}", "]", "A.1-2_3", "!#$&',/:;<=>?@^`|~", &longest, "0"] {
        answered(&proxy, format!("{tag} XYZZY\r\n").as_bytes(), &format!("{tag} BAD "));
    }
    let too_long = "x".repeat(65);
    for tag in [
        "+", "*", "a+b", "{", "(", ")", "%", "\"a\"", "\\", "a\x1b[2J", "a\0b", "a\x7f", "\u{e4}b",
        "", &too_long,
    ] {
        let line = format!("{tag} NOOP\r\n");
        let bytes = if tag.contains('\u{e4}') { b"\xe4b NOOP\r\n" } else { line.as_bytes() };
        answered(&proxy, bytes, "* BAD ");
    }
    // Two words in place of one: the first is the tag, the second the command.
    answered(&proxy, b"a b NOOP\r\n", "a BAD ");
    let mut client = proxy.client();
    let _ = client.wire().write(&[vec![b'Q'; 1 << 20], b" NOOP\r\n".to_vec()].concat());
    let said = String::from_utf8(client.read_to_end()).unwrap();
    assert!(said.starts_with("* BYE ") && !said.contains('Q'), "{said:?}");
    assert_eq!(backend.connections(), 0);
    let log = proxy.log();
    for word in ["XYZZY", "xxxxxxxx", "QQQQ", "A.1-2_3"] {
        assert!(!log.contains(word), "{word} in {log}");
    }
}

/// Whatever stands in a user or a password, the backend reads one command, in the
/// proxy's own encoding.
#[test]
fn b34_hostile_credentials_are_encoded_anew_and_give_one_command() {
    let passwords: [&[u8]; 7] =
        [b"x\" \"y b LOGOUT", b"\" {5+}", b"{5+}", b") NIL (\\", b"\\\"", b"*", b"\xff\xfe {1}"];
    for (list, plus) in [("IMAP4rev1", ""), ("IMAP4rev1 LITERAL+", "+")] {
        let backend = Ordinary::new().capability(list).start();
        let proxy = start(&backend);
        for (number, password) in passwords.iter().enumerate() {
            let mut client = proxy.client();
            let head = format!("a LOGIN {{4+}}\r\nanna {{{}+}}\r\n", password.len());
            client.send([head.as_bytes(), password, b"\r\n"].concat());
            client.expect("a OK");
            let received = backend.received(number);
            let tag = received.split(|byte| *byte == b' ').next().unwrap();
            let size = password.len();
            let head = format!(" LOGIN {{4{plus}}}\r\nanna {{{size}{plus}}}\r\n");
            let expected = [tag, head.as_bytes(), password, b"\r\n"].concat();
            assert_eq!(received, expected, "{}", String::from_utf8_lossy(&received));
        }
        backend.assert_no_faults();
    }
}
