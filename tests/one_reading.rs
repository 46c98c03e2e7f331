//! One reading of a login: what a real Dovecot would read as other credentials than the
//! proxy, the proxy refuses.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a broken set-up must panic"
)]

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use support::client::Client;
use support::dovecot::{Dovecot, Settings};
use support::flood::{connect_from, source};
use support::pointsman::Pointsman;
use support::tls::Authority;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// Makes the server tell what it was given, from one process, so that its numbers are
/// unique. Nothing is ever right, so that every login of a stream is tried.
const TELLING: &str = "auth_debug = yes\nauth_debug_passwords = yes\n\
                       service imap-login {\n  process_limit = 1\n}\n";

/// Lines that parsers read differently: `@` is `LOGIN anna`, a password follows.
const SHAPES: [&str; 58] = [
    // Legal: both read the same.
    "@ secret",
    "@ \"secret\"",
    "@ \"se\\\"cr\\\\et\"",
    "@ {6}\r\nsecret",
    "@ {6+}\r\nsecret",
    "@ {0006+}\r\nsecret",
    "@ \"\"",
    "@ {0+}\r\n",
    "@ se]cret",
    "login \"anna\" {6+}\r\nsecret",
    "LOGIN {4+}\r\nanna secret",
    "LOGIN {4+}\r\nanna {6+}\r\nsecret",
    "LOGIN {4}\r\nanna {6}\r\nsecret",
    "LOGIN {4}\r\nanna \"se{6+}\"",
    "LOGIN ANNA SECRET",
    // Too few, too many, run together.
    "LOGIN",
    "@",
    "@ ",
    "@ secret ",
    "@ secret more",
    "@ secret\t",
    "@\tsecret",
    "@  secret",
    " @ secret",
    "LOGIN  anna secret",
    "LOGIN \"a\" \"b\" \"c\"",
    "LOGIN \"anna\"\"secret\"",
    "LOGIN \"anna\"secret",
    "LOGIN \"anna\" \"secret\"more",
    "LOGIN anna\"x\" secret",
    "LOGIN anna{3}\r\nxyz secret",
    "LOGIN {4+}\r\nannasecret",
    "LOGIN {4+}\r\nanna{6+}\r\nsecret",
    "LOGIN {4+}\r\nanna \"sec",
    "LOGIN (anna) secret",
    "LOGIN (anna secret)",
    "LOGIN anna (secret)",
    "LOGIN NIL NIL",
    "@ NIL",
    // Quotes and escapes.
    "@ \"sec\\ret\"",
    "@ \"sec\\",
    "@ \"sec\r\nret\"",
    "@ \"sec\nret\"",
    "@ \"secret",
    "@ sec\\ret",
    "@ sec\"ret",
    "@ s%cret",
    "@ s*cret",
    // Sizes.
    "@ {+6}\r\nsecret",
    "@ {6++}\r\nsecret",
    "@ { 6}\r\nsecret",
    "@ {-1}\r\nsecret",
    "@ {0x6}\r\nsecret",
    "@ ~{6+}\r\nsecret",
    "@ {6+} \r\nsecret",
    "@ {3+}\r\nsecret",
    "@ {4294967302+}\r\nsecret",
    "@ {18446744073709551622+}\r\nsecret",
];

/// Bytes that are no text, line ends and a second login behind a false end.
const HOSTILE: [&[u8]; 27] = [
    b"LOGIN anna sec\0ret",
    b"LOGIN anna \"sec\0ret\"",
    b"LOGIN anna {7+}\r\nsec\0ret",
    b"LOGIN anna {7+}\r\nsec\rret",
    b"LOGIN anna {7+}\r\nsec\nret",
    b"LOGIN anna {8+}\r\nsec\r\nret",
    b"LOGIN anna s\xe9cret",
    b"LOGIN anna \"s\xe9cret\"",
    b"LOGIN anna \"s\xc3\xa9cret\"",
    b"LOGIN anna {7+}\r\ns\xc3\xa9cret",
    b"LOGIN anna sec\x7fret",
    b"LOGIN anna sec\x01ret",
    b"LOGIN anna secret\r\r\n",
    b"LOGIN anna secret\n",
    b"LOGIN anna {22+}\nb LOGIN bert hunter2\r\n",
    b"LOGIN anna {22+}\r\nb LOGIN bert hunter2\r\n",
    b"LOGIN anna \"x\r\nb LOGIN bert hunter2",
    b"LOGIN anna x\nb LOGIN bert hunter2",
    b"LOGIN \"anna\" \"{24+}\"\r\nb LOGIN bert hunter2",
    b"LOGIN \"anna\" \"x\\\"\r\nb LOGIN bert hunter2",
    b"LOGIN anna {3+}\r\nabcd\r\nb LOGIN bert hunter2",
    b"LOGIN anna {30}\r\nb LOGIN bert hunter2",
    b"NOOP {24+}\r\nb LOGIN bert hunter2\r\n\r\n",
    b"XYZZY {24+}\r\nb LOGIN bert hunter2\r\n\r\n",
    b"XYZZY \"\r\nb LOGIN bert hunter2\r\n\"",
    b"ID (\"a\" {24+}\r\nb LOGIN bert hunter2\r\n)",
    b"ID (\"a\" \"{24+}\r\nb LOGIN bert hunter2\r\n\")",
];

/// What may stand behind AUTHENTICATE, the messages in clear between `<` and `>`.
const EXCHANGES: [&str; 26] = [
    "PLAIN <\0anna\0secret>",
    "plain <\0anna\0secret>",
    "PLAIN <anna\0anna\0secret>",
    "PLAIN\r\n<\0anna\0secret>",
    "PLAIN <\0anna\0>",
    "PLAIN  <\0anna\0secret>",
    "PLAIN <\0anna\0secret> ",
    "PLAIN <\0anna\0secret> more",
    "\"PLAIN\" <\0anna\0secret>",
    "{5+}\r\nPLAIN <\0anna\0secret>",
    "PLAIN \"<\0anna\0secret>\"",
    "PLAIN {20+}\r\n<\0anna\0secret>",
    "PLAIN =",
    "PLAIN = <\0anna\0secret>",
    "PLAIN =\r\n<\0anna\0secret>",
    "PLAIN\r\n",
    "PLAIN\r\n=",
    "PLAIN\r\n*",
    "PLAIN\r\n<\0anna\0secret> ",
    "PLAIN\r\n <\0anna\0secret>",
    "PLAIN\r\n\r\n<\0anna\0secret>",
    "PLAIN <anna>",
    "PLAIN <\0anna\0sec\0ret>",
    "PLAIN <bert\0anna\0secret>",
    "PLAIN <\0anna\0sec\r\nret>",
    "PLAIN AGFubmEAc2VjcmV0====",
];

fn corpus() -> Vec<Vec<u8>> {
    let shaped = SHAPES.iter().map(|shape| shape.replace('@', "LOGIN anna").into_bytes());
    let hostile = HOSTILE.iter().map(|bytes| bytes.to_vec());
    let exchanges = EXCHANGES.iter().map(|text| {
        let Some((head, rest)) = text.split_once('<') else {
            return format!("AUTHENTICATE {text}").into_bytes();
        };
        let (message, tail) = rest.split_once('>').unwrap();
        format!("AUTHENTICATE {head}{}{tail}", STANDARD.encode(message)).into_bytes()
    });
    let whole = |body: Vec<u8>| [b"a ".to_vec(), body, b"\r\n".to_vec()].concat();
    shaped.chain(hostile).chain(exchanges).map(whole).collect()
}

/// Says it all at once, as an attacker does, and waits until the server is done with it.
/// Gives the ends by which the server's log knows the connection.
fn say(address: SocketAddr, bytes: &[u8]) -> Ends {
    const QUIET: Duration = Duration::from_secs(2);
    /// Each connection comes from an address of its own: the port alone may come again.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let source = source(NUMBER.fetch_add(1, Ordering::Relaxed), 1);
    let mut client = Client::on(connect_from(source, address));
    // The server may close early, or take the NOOP for a part of what came before.
    let _ = client.wire().write(bytes);
    let _ = client.wire().write(b"\r\nq NOOP\r\n");
    while let Ok(true) = client.wire().has_line_within(QUIET) {
        if client.read_line().starts_with("q ") {
            break;
        }
    }
    (address.port(), client.local_address())
}

/// The port that a client connected to, and its own address; the proxy hands both on.
type Ends = (u16, SocketAddr);

/// The SASL PLAIN messages that Dovecot read, by connection, from its own log. A login of
/// a name that nobody has marks the end of what is looked for.
fn messages_read(dovecot: &Dovecot) -> HashMap<Ends, Vec<Vec<u8>>> {
    let mark = STANDARD.encode("\0mark\0end");
    let _ = Client::clear(dovecot.imap()).try_login("mark", "end");
    dovecot.wait_for_log(&format!("resp={mark}"));
    let mut connections: HashMap<String, Ends> = HashMap::new();
    let mut messages: HashMap<Ends, Vec<Vec<u8>>> = HashMap::new();
    for line in dovecot.log().lines() {
        let Some((_, request)) = line.split_once("client in: ") else { continue };
        let fields: Vec<&str> = request.split(['\t', ' ']).collect();
        let value = |key: &str| fields.iter().find_map(|field| field.strip_prefix(key));
        let message = if fields[0] == "AUTH" {
            let port = |key| value(key).unwrap().parse::<u16>().unwrap();
            let remote = SocketAddr::new(value("rip=").unwrap().parse().unwrap(), port("rport="));
            connections.insert(fields[1].to_owned(), (port("lport="), remote));
            value("resp=")
        } else {
            fields.get(2).copied()
        };
        let Some(ends) = connections.get(fields[1]) else { continue };
        let decoded = message.and_then(|text| STANDARD.decode(text).ok());
        messages.entry(*ends).or_default().extend(decoded.map(spelled_out));
    }
    messages
}

/// The message with its identity: an empty one stands for the user itself (RFC 4616
/// section 2), so that both spellings are the same credentials.
fn spelled_out(message: Vec<u8>) -> Vec<u8> {
    match message.split(|byte| *byte == 0).collect::<Vec<_>>()[..] {
        [b"", user, password] => [user, user, password].join(&0),
        _ => message,
    }
}

/// Whether each of `some` is in `all`, in the same order.
fn is_part_of(some: &[Vec<u8>], all: &[Vec<u8>]) -> bool {
    let mut left = all.iter();
    some.iter().all(|one| left.any(|other| other == one))
}

#[test]
fn b37_what_dovecot_would_read_otherwise_is_refused() {
    let dovecot = Settings::new(&AUTHORITY, &[("nobody", "unused")]).extra(TELLING).start();
    let proxy = Pointsman::start(&AUTHORITY, |places| {
        format!(
            "{}limits: {{ failed_login_delay: 1ms, exempt: [127.0.0.0/8], \
             sessions_per_user: 1000 }}\n\
             shards:\n  s: {{ kind: shared, backends: \
             [ {{ name: b, address: \"{}\", tls: none }} ] }}\n\
             routing: {{ lookups: [ {{ shard: s }} ] }}\n",
            places.head_without_limits(),
            dovecot.imap()
        )
    });
    let corpus = corpus();
    let (direct, through) = (dovecot.imap(), proxy.places().clear);
    let said: Vec<(&[u8], Ends, Ends)> = std::thread::scope(|scope| {
        let threads: Vec<_> = corpus
            .chunks(corpus.len().div_ceil(12))
            .map(|part| {
                scope.spawn(move || {
                    let both = |bytes: &Vec<u8>| (say(direct, bytes), say(through, bytes));
                    part.iter().map(both).collect::<Vec<_>>()
                })
            })
            .collect();
        let ends = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        corpus.iter().zip(ends).map(|(bytes, (one, two))| (bytes.as_slice(), one, two)).collect()
    });
    let read = messages_read(&dovecot);
    let of = |ends: &Ends| read.get(ends).map(Vec::as_slice).unwrap_or_default();
    let (mut both, mut refused) = (0, 0);
    for (bytes, one, two) in &said {
        let (direct, passed) = (of(one), of(two));
        let shown = String::from_utf8_lossy(bytes);
        assert!(
            is_part_of(passed, direct),
            "{shown:?}: Dovecot reads {direct:?}, through the proxy {passed:?}"
        );
        both += usize::from(!passed.is_empty());
        if passed.is_empty() && !direct.is_empty() {
            println!("refused, though Dovecot reads a login: {shown:?}");
            refused += 1;
        }
    }
    println!("read alike: {both}; read by Dovecot and refused by the proxy: {refused}");
    assert!(both >= 15, "only {both} logins passed: the comparison proves nothing");
    assert!(refused >= 5, "only {refused} are refused: is Dovecot's log still read rightly?");
}
