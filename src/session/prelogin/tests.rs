//! Conversations before login, driven without a network.

use proptest::prelude::*;

use super::*;
use crate::protocol::strings;
use crate::sasl::Credentials;
use crate::session::forwarded::Forwarded;

fn settings(encryption: Encryption) -> Settings {
    Settings {
        session: SessionId::from_bits(7),
        mechanisms: Arc::from([Mechanism::Plain, Mechanism::Login]),
        encryption,
        clear_login: false,
        tries: 5,
        syntax_errors: 10,
        bye_on_unavailable: false,
        id_trusted: false,
    }
}

/// A client's connection and all that the proxy said on it.
struct Talk {
    machine: PreLogin,
    inbox: Inbox,
    said: Vec<String>,
    closed: Option<CloseReason>,
    believed: Option<Forwarded>,
}

impl Talk {
    fn new(settings: Settings) -> Self {
        Self {
            machine: PreLogin::new(settings),
            inbox: Inbox::new(),
            said: Vec::new(),
            closed: None,
            believed: None,
        }
    }

    fn encrypted() -> Self {
        Self::new(settings(Encryption::Active))
    }

    /// Sends bytes and takes steps until the machine waits; gives what was said to these.
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> Vec<String> {
        assert_eq!(self.inbox.push(bytes.as_ref()), bytes.as_ref().len());
        self.run()
    }

    fn run(&mut self) -> Vec<String> {
        let before = self.said.len();
        loop {
            let said = match self.machine.step(&mut self.inbox) {
                Step::Read | Step::Wait => return self.said[before..].to_vec(),
                Step::Reply(reply) => String::from_utf8(reply).unwrap(),
                Step::Forwarded { reply, client } => {
                    self.believed = Some(*client);
                    String::from_utf8(reply).unwrap()
                }
                Step::StartTls { reply } => format!("TLS {}", String::from_utf8(reply).unwrap()),
                Step::Login(attempt) => shown(&attempt),
                Step::Close { reply, reason } => {
                    self.closed = Some(reason);
                    String::from_utf8(reply).unwrap()
                }
            };
            self.said.push(said);
        }
    }

    fn fail(&mut self, answer: &Answer) -> String {
        let mut out = Vec::new();
        let reason = self.machine.login_failed(answer, &mut out);
        self.closed = self.closed.or(reason);
        let said = String::from_utf8(out).unwrap();
        self.said.push(said.clone());
        said
    }
}

fn credentials(attempt: &Attempt) -> &Credentials {
    match &attempt.proof {
        Some(Proof::Credentials(credentials)) => credentials,
        other => panic!("no credentials but {other:?}"),
    }
}

fn shown(attempt: &Attempt) -> String {
    let Credentials { authzid, user, password } = credentials(attempt);
    format!(
        "LOGIN {} {} {:?} {:?} {:?}",
        attempt.tag,
        attempt.method.label(),
        authzid.as_deref().map(String::from_utf8_lossy),
        String::from_utf8_lossy(user),
        String::from_utf8_lossy(password.expose()),
    )
}

fn plain(message: &str) -> String {
    strings::encode_base64(message.as_bytes())
}

const CLEAR: &str = "IMAP4rev1 SASL-IR LITERAL- ID STARTTLS LOGINDISABLED";
const SAFE: &str = "IMAP4rev1 SASL-IR LITERAL- ID AUTH=PLAIN AUTH=LOGIN";
const FAILED: &str = "NO [AUTHENTICATIONFAILED] Authentication failed.\r\n";

/// B-31.
#[test]
fn only_the_first_id_of_a_trusted_proxy_describes_the_client() {
    const ID: &str =
        "a ID (\"x-originating-ip\" \"192.0.2.7\" \"name\" \"mua\" \"x-proxy-ttl\" \"2\")\r\n";
    const DONE: &str = "* ID (\"name\" \"Pointsman\")\r\na OK ID completed.\r\n";
    let mut stranger = Talk::encrypted();
    assert_eq!(stranger.send(ID), [DONE]);
    assert_eq!(stranger.believed, None);
    // What can only harm its sender is heeded.
    assert_eq!(stranger.machine.trace().ttl, Some(2));

    let trusting = Settings { id_trusted: true, ..settings(Encryption::Active) };
    let mut proxy = Talk::new(trusting.clone());
    assert_eq!(proxy.send(ID), [DONE]);
    let believed = proxy.believed.take().unwrap();
    assert_eq!(believed.remote_ip.unwrap().to_string(), "192.0.2.7");
    assert_eq!(proxy.send(ID.replace("192.0.2.7", "192.0.2.8")), [DONE]);
    assert_eq!(proxy.believed, None);
    for talk in [&stranger, &proxy] {
        assert_eq!(talk.machine.client_id(), [(b"name".to_vec(), Some(b"mua".to_vec()))]);
    }

    let mut broken = Talk::new(trusting);
    let told = broken.send(ID.replace("192.0.2.7", "nowhere"));
    assert_eq!(told, ["a BAD A field about the client cannot be used.\r\n"]);
    assert_eq!(broken.machine.take_tally().bad_field, Some("x-originating-ip"));
    assert_eq!(broken.send(ID), [DONE]);
    assert_eq!(broken.believed, None, "it is not the first one");
}

/// B-10.
#[test]
fn greeting_and_capability_agree_before_and_after_tls() {
    let mut talk = Talk::new(settings(Encryption::Offered));
    let mut greeting = Vec::new();
    talk.machine.greeting(&mut greeting);
    let expected = format!("* OK [CAPABILITY {CLEAR}] Pointsman ready.\r\n");
    assert_eq!(greeting, expected.as_bytes());
    let listed =
        |list: &str| vec![format!("* CAPABILITY {list}\r\na OK CAPABILITY completed.\r\n")];
    assert_eq!(talk.send("a CAPABILITY\r\n"), listed(CLEAR));
    assert_eq!(talk.send("b STARTTLS\r\n"), ["TLS b OK Begin TLS now.\r\n"]);
    talk.machine.after_tls();
    assert!(!talk.machine.asked_capability());
    assert_eq!(talk.send("a CAPABILITY\r\n"), listed(SAFE));
    assert!(talk.machine.asked_capability());
}

#[test]
fn a_clear_listener_offers_logins_only_where_allowed() {
    let list = |settings| Talk::new(settings).send("a CAPABILITY\r\n")[0].clone();
    let bare = settings(Encryption::Absent);
    assert!(
        list(bare.clone())
            .starts_with("* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID LOGINDISABLED\r\n")
    );
    let allowed = Settings { clear_login: true, ..bare };
    assert!(list(allowed.clone()).starts_with(&format!("* CAPABILITY {SAFE}\r\n")));
    let said = Talk::new(allowed).send("a LOGIN bob pw\r\n");
    assert_eq!(said, ["LOGIN a login None \"bob\" \"pw\""]);
}

/// B-01, B-02, B-03.
#[test]
fn nothing_may_follow_starttls_in_clear() {
    for behind in [&b"b LOGIN u p\r\n"[..], b"b LOGIN {5+}\r\n", b"\x16\x03\x01", b"\r"] {
        let mut talk = Talk::new(settings(Encryption::Offered));
        let said = talk.send([&b"a STARTTLS\r\n"[..], behind].concat());
        assert_eq!(said, ["a BAD Nothing may follow STARTTLS.\r\n"], "{behind:?}");
        assert_eq!(talk.closed, Some(CloseReason::StartTlsInjection));
        assert!(talk.inbox.is_empty());
        assert!(talk.send("c NOOP\r\n").is_empty());
    }
}

#[test]
fn tls_makes_all_that_was_said_before_it_void() {
    let mut talk = Talk::new(settings(Encryption::Offered));
    talk.send("a ID (\"name\" \"x\")\r\n");
    for _ in 0..9 {
        talk.send("garbage\r\n");
    }
    talk.send("b LOGIN u p\r\nc STARTTLS\r\n");
    assert!(talk.send("").is_empty());
    talk.machine.after_tls();
    assert!(talk.machine.client_id().is_empty() && talk.machine.is_encrypted());
    for _ in 0..9 {
        talk.send("garbage\r\n");
    }
    assert_eq!(talk.closed, None);
    assert_eq!(
        talk.send("d STARTTLS\r\n"),
        ["d BAD TLS is active already.\r\n* BYE Too many errors.\r\n"]
    );
}

/// B-09: not even a password is asked for.
#[test]
fn clear_logins_are_refused_before_the_password_comes() {
    let refused = "a NO [PRIVACYREQUIRED] Log in over TLS only.\r\n";
    for line in [
        "a LOGIN u p\r\n",
        "a LOGIN {3}\r\n",
        "a LOGIN {1+}\r\nu {1+}\r\np\r\n",
        "a LOGIN u {3}\r\n",
        "a AUTHENTICATE PLAIN\r\n",
        "a AUTHENTICATE PLAIN AGEAYg==\r\n",
    ] {
        let mut talk = Talk::new(settings(Encryption::Offered));
        assert_eq!(talk.send(line), [refused], "{line}");
        assert!(talk.inbox.is_empty());
        assert_eq!(talk.send("b NOOP\r\n"), ["b OK NOOP completed.\r\n"]);
    }
}

/// All spellings of LOGIN, cut at every byte.
#[test]
fn login_is_taken_in_all_spellings_however_it_is_cut() {
    for spelling in [
        "a LOGIN bob pw\r\n",
        "a LOGIN \"bob\" \"pw\"\r\n",
        "a LOGIN {3}\r\nbob {2}\r\npw\r\n",
        "a LOGIN {3+}\r\nbob {2+}\r\npw\r\n",
        "a LOGIN \"bob\" {2}\r\npw\r\n",
        "a LOGIN {3+}\r\nbob pw\r\n",
    ] {
        for cut in 0..spelling.len() {
            let mut talk = Talk::encrypted();
            talk.send(&spelling[..cut]);
            talk.send(&spelling[cut..]);
            let (login, asked) = talk.said.split_last().unwrap();
            assert_eq!(login, "LOGIN a login None \"bob\" \"pw\"", "{spelling} at {cut}");
            assert_eq!(
                asked.len(),
                spelling.matches("}\r\n").count() - spelling.matches('+').count()
            );
            assert!(asked.iter().all(|line| line == "+ OK\r\n"));
        }
    }
}

#[test]
fn a_literal_is_asked_for_once_it_is_due() {
    let mut talk = Talk::encrypted();
    assert_eq!(talk.send("a LOGIN {3}\r\n"), ["+ OK\r\n"]);
    assert!(talk.run().is_empty());
    assert_eq!(talk.send("bob {2}\r\n"), ["+ OK\r\n"]);
    assert_eq!(talk.send("pw\r\n").len(), 1);
}

/// B-16 to B-19, B-26, B-28, B-29 as a client sees them.
#[test]
fn odd_lines_get_bad_and_the_connection_goes_on() {
    let table: [(&str, &str); 14] = [
        ("a LOGIN {4294967296}\r\n", "a BAD Literal too big.\r\n"),
        ("a LOGIN {8193}\r\n", "a BAD Literal too big.\r\n"),
        ("a LOGIN {+10}\r\n", "a BAD Bad arguments.\r\n"),
        ("a LOGIN {1+}\r\nuXX\r\n", "a BAD Bad arguments.\r\n"),
        ("a LOGIN u \"p\n", "a BAD Lines end in CRLF.\r\n"),
        ("a NO\rOP\r\n", "a BAD Lines end in CRLF.\r\n"),
        ("+ NOOP\r\n", "* BAD No valid tag.\r\n"),
        ("\r\n", "* BAD No valid tag.\r\n"),
        ("a\r\n", "a BAD No command.\r\n"),
        ("a b\r\n", "a BAD Unknown command.\r\n"),
        ("a SELECT INBOX\r\n", "a BAD Log in first.\r\n"),
        ("a APPEND x {10}\r\n", "a BAD No literal is expected here.\r\n"),
        ("a XYZZY {13+}\r\nb LOGIN u p\r\n\r\n", "a BAD Unknown command.\r\n"),
        ("{5}\r\n", "* BAD No literal is expected here.\r\n"),
    ];
    for (line, answer) in table {
        let mut talk = Talk::encrypted();
        let said = talk.send(line);
        assert_eq!(said.first().map(String::as_str), Some(answer), "{line}");
        assert_eq!(talk.send("z NOOP\r\n").last().unwrap(), "z OK NOOP completed.\r\n", "{line}");
        assert!(!talk.said.iter().any(|said| said.starts_with("LOGIN")), "{line}");
        assert_eq!(talk.closed, None);
    }
}

/// B-17, B-26: what cannot be skipped safely ends it.
#[test]
fn bytes_that_cannot_be_placed_close_the_connection() {
    let long = "x".repeat(8192);
    let long_answer = format!("a AUTHENTICATE PLAIN\r\n{long}");
    for (bytes, reason) in [
        ("a LOGIN {100000+}\r\nx LOGOUT\r\n", CloseReason::LiteralTooBig),
        ("a LOGIN {3+}\nx LOGOUT\r\n", CloseReason::LiteralTooBig),
        (long.as_str(), CloseReason::TooLong),
        (long_answer.as_str(), CloseReason::TooLong),
    ] {
        let mut talk = Talk::encrypted();
        talk.send(bytes);
        assert_eq!(talk.closed, Some(reason), "{reason:?}");
        assert!(talk.said.last().unwrap().starts_with("* BYE "));
        assert!(talk.inbox.is_empty() && talk.run().is_empty());
    }
}

/// B-30.
#[test]
fn ten_syntax_errors_are_enough_and_harmless_commands_count_nothing() {
    let mut talk = Talk::encrypted();
    for _ in 0..30 {
        talk.send("a NOOP\r\nb CAPABILITY\r\nc ID NIL\r\nd ID (\r\ne SELECT x\r\n");
    }
    for _ in 0..9 {
        talk.send("GET / HTTP/1.1\r\n");
    }
    assert_eq!(talk.closed, None);
    let last = talk.send("Host: x\r\nz NOOP\r\n");
    assert_eq!(last, ["Host: BAD Unknown command.\r\n* BYE Too many errors.\r\n"]);
    assert_eq!(talk.closed, Some(CloseReason::SyntaxErrors));
}

/// B-31.
#[test]
fn id_is_answered_and_kept_without_what_proxies_vouch_for() {
    let mut talk = Talk::encrypted();
    let said = talk.send(
        "a ID (\"name\" {4+}\r\nMail \"X-Originating-IP\" {7+}\r\n1.2.3.4 \"x-a\" NIL \"os\" NIL)\r\n\
         b LOGIN bob pw\r\n",
    );
    assert_eq!(said[0], "* ID (\"name\" \"Pointsman\")\r\na OK ID completed.\r\n");
    assert_eq!(said[1], "LOGIN b login None \"bob\" \"pw\"");
    let kept = [(b"name".to_vec(), Some(b"Mail".to_vec())), (b"os".to_vec(), None)];
    assert_eq!(talk.machine.client_id(), kept);
}

/// B-40, B-52.
#[test]
fn plain_works_with_and_without_initial_response() {
    let message = plain("\0bob\0pw");
    let login = "LOGIN a plain None \"bob\" \"pw\"";
    let said = Talk::encrypted().send(format!("a AUTHENTICATE PLAIN {message}\r\n"));
    assert_eq!(said, [login]);
    let mut talk = Talk::encrypted();
    assert_eq!(talk.send("a authenticate plain\r\n"), ["+ \r\n"]);
    assert_eq!(talk.send(format!("{message}\r\n")), [login]);
    let other = plain("eve\0bob\0pw");
    let said = Talk::encrypted().send(format!("a AUTHENTICATE PLAIN {other}\r\n"));
    assert_eq!(said, ["LOGIN a plain Some(\"eve\") \"bob\" \"pw\""]);
}

#[test]
fn sasl_login_asks_twice_or_once() {
    let mut talk = Talk::encrypted();
    assert_eq!(talk.send("a AUTHENTICATE LOGIN\r\n"), ["+ VXNlcm5hbWU6\r\n"]);
    assert_eq!(talk.send("Ym9i\r\n"), ["+ UGFzc3dvcmQ6\r\n"]);
    assert_eq!(talk.send("cHc=\r\n"), ["LOGIN a sasl_login None \"bob\" \"pw\""]);
    let said = Talk::encrypted().send("a AUTHENTICATE LOGIN Ym9i\r\ncHc=\r\n");
    assert_eq!(said, ["+ UGFzc3dvcmQ6\r\n", "LOGIN a sasl_login None \"bob\" \"pw\""]);
}

#[test]
fn only_offered_mechanisms_are_taken() {
    let only_plain =
        Settings { mechanisms: Arc::from([Mechanism::Plain]), ..settings(Encryption::Active) };
    for mechanism in ["LOGIN", "CRAM-MD5"] {
        let said = Talk::new(only_plain.clone()).send(format!("a AUTHENTICATE {mechanism}\r\n"));
        assert_eq!(said, ["a NO [CANNOT] Mechanism not supported.\r\n"]);
    }
}

/// B-21, B-22, B-23: nothing of a broken exchange is left.
#[test]
fn a_broken_exchange_leaves_nothing() {
    for (line, answer) in [
        ("*", "a BAD Authentication cancelled.\r\n"),
        ("!!!", "a BAD Invalid base64.\r\n"),
        ("", "a BAD Malformed message.\r\n"),
        (&plain("bob\0pw"), "a BAD Malformed message.\r\n"),
        (&plain("\0bob\0pw\0"), "a BAD Malformed message.\r\n"),
    ] {
        let mut talk = Talk::encrypted();
        talk.send("a AUTHENTICATE PLAIN\r\n");
        assert_eq!(talk.send(format!("{line}\r\n")), [answer], "{line}");
        assert_eq!(talk.send("b NOOP\r\n"), ["b OK NOOP completed.\r\n"]);
        let good = talk.send(format!("c AUTHENTICATE PLAIN {}\r\n", plain("\0bob\0pw")));
        assert_eq!(good, ["LOGIN c plain None \"bob\" \"pw\""]);
    }
    let said = Talk::encrypted().send("a AUTHENTICATE PLAIN =\r\n");
    assert_eq!(said, ["a BAD Malformed message.\r\n"]);
    let mut patient = Talk::encrypted();
    for _ in 0..50 {
        patient.send("a AUTHENTICATE PLAIN\r\n*\r\n");
    }
    assert_eq!(patient.closed, None);
}

/// B-43, B-44.
#[test]
fn what_follows_a_login_waits_for_its_outcome() {
    let wire = "a LOGIN u p\r\nb SELECT INBOX\r\nc LOGIN u q\r\nd IDLE\r\n";
    let mut talk = Talk::encrypted();
    assert_eq!(talk.send(wire), ["LOGIN a login None \"u\" \"p\""]);
    assert_eq!(talk.machine.login_tag().map(Tag::as_bytes), Some(&b"a"[..]));
    assert!(talk.run().is_empty());
    assert_eq!(talk.fail(&Answer::AuthenticationFailed), format!("a {FAILED}"));
    assert_eq!(talk.run(), ["b BAD Log in first.\r\n", "LOGIN c login None \"u\" \"q\""]);
    assert_eq!(talk.inbox.into_rest(), b"d IDLE\r\n");
}

/// B-45.
#[test]
fn each_try_is_a_login_of_its_own_and_the_fifth_failure_ends_it() {
    let mut talk = Talk::encrypted();
    for number in 1..=5 {
        assert_eq!(talk.closed, None);
        let said = talk.send(format!("a LOGIN u{number} p\r\n"));
        assert_eq!(said, [format!("LOGIN a login None \"u{number}\" \"p\"")]);
        assert!(talk.fail(&Answer::AuthenticationFailed).starts_with(&format!("a {FAILED}")));
    }
    assert_eq!(talk.closed, Some(CloseReason::LoginTries));
    assert!(talk.said.last().unwrap().ends_with("* BYE Too many failed logins.\r\n"));
    assert!(talk.send("b NOOP\r\n").is_empty());
}

#[test]
fn an_outage_ends_it_only_where_the_operator_says_so() {
    let mut talk = Talk::encrypted();
    talk.send("a LOGIN u p\r\n");
    assert!(talk.fail(&Answer::Unavailable).starts_with("a NO [UNAVAILABLE] Please try again"));
    assert_eq!(talk.closed, None);
    let mut talk = Talk::new(Settings { bye_on_unavailable: true, ..settings(Encryption::Active) });
    talk.send("a LOGIN u p\r\n");
    assert!(talk.fail(&Answer::Unavailable).starts_with("* BYE [UNAVAILABLE] Please try again"));
    assert_eq!(talk.closed, Some(CloseReason::Unavailable));
}

#[test]
fn logout_says_goodbye() {
    let mut talk = Talk::encrypted();
    let said = talk.send("a LOGOUT\r\nb NOOP\r\n");
    assert_eq!(said, ["* BYE Logging out.\r\na OK LOGOUT completed.\r\n"]);
    assert_eq!(talk.closed, Some(CloseReason::Logout));
}

/// B-86: no password shows in what a log could print.
#[test]
fn debug_output_shows_no_password() {
    let mut machine = PreLogin::new(settings(Encryption::Active));
    let mut inbox = Inbox::new();
    inbox.push(b"a LOGIN bob hunter2\r\n");
    assert!(!format!("{inbox:?}").contains("hunter2"));
    let step = machine.step(&mut inbox);
    assert!(matches!(&step, Step::Login(_)));
    assert!(!format!("{step:?} {machine:?}").contains("hunter2"));
}

/// The whole conversation when the bytes come in pieces of these sizes and every login fails.
fn transcript(
    wire: &[u8],
    mut sizes: impl Iterator<Item = usize>,
) -> (Vec<String>, Option<CloseReason>) {
    let generous = Settings { tries: 1000, syntax_errors: 8, ..settings(Encryption::Active) };
    let mut talk = Talk::new(generous);
    let mut left = wire;
    loop {
        talk.run();
        while talk.machine.login_tag().is_some() {
            talk.fail(&Answer::AuthenticationFailed);
            talk.run();
        }
        if left.is_empty() || talk.closed.is_some() {
            return (talk.said, talk.closed);
        }
        let (now, later) = left.split_at(sizes.next().unwrap().clamp(1, left.len()));
        talk.inbox.push(now);
        left = later;
    }
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"a LOGIN bob pw\r\n",
        b"b LOGIN {3}\r\nbob {2+}\r\npw\r\n",
        b"c LOGIN \"b\\\"\" \"\"\r\n",
        b"d AUTHENTICATE PLAIN\r\n",
        b"AGJvYgBwdw==\r\n",
        b"*\r\n",
        b"e AUTHENTICATE LOGIN\r\n",
        b"Ym9i\r\n",
        b"f AUTHENTICATE PLAIN AGJvYgBwdw==\r\n",
        b"g ID (\"a\" {2+}\r\nxy)\r\n",
        b"h NOOP\r\n",
        b"i SELECT x {9}\r\n",
        b"j XYZZY {9+}\r\nk NOOP\r\n\r\n",
        b"l CAPABILITY\r\n",
        b"m LOGIN {9000}\r\n",
        b"n LOGIN {9000+}\r\n",
        b"o STARTTLS\r\n",
        b"\n",
        b"\r",
        b" ",
        b"x",
        b"{3+}\r\n",
    ];
    prop_oneof![
        9 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ]
}

fn credential_byte() -> impl Strategy<Value = u8> {
    any::<u8>().prop_filter("ends a line or a string", |b| !matches!(b, 0 | b'\r' | b'\n'))
}

proptest! {
    /// However the network cuts the bytes, the steps are the same.
    #[test]
    fn steps_do_not_depend_on_where_reads_split(
        pieces in proptest::collection::vec(piece(), 0..15),
        sizes in proptest::collection::vec(1_usize..20, 1..20),
    ) {
        let wire = pieces.concat();
        let whole = transcript(&wire, std::iter::repeat(wire.len()));
        prop_assert_eq!(transcript(&wire, sizes.into_iter().cycle()), whole.clone());
        prop_assert_eq!(transcript(&wire, std::iter::repeat(1)), whole);
    }

    #[test]
    fn any_bytes_are_answered_or_refused_without_panic(
        wire in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        for encryption in [Encryption::Active, Encryption::Offered, Encryption::Absent] {
            Talk::new(settings(encryption)).send(&wire);
        }
    }

    /// B-36: each byte that a string may hold reaches the attempt as it was.
    #[test]
    fn credentials_are_opaque_bytes(
        user in proptest::collection::vec(credential_byte(), 1..40),
        password in proptest::collection::vec(credential_byte(), 0..40),
    ) {
        let mut wire = b"a LOGIN ".to_vec();
        strings::encode_literal(&user, true, &mut wire);
        wire.push(b' ');
        strings::encode_quoted(&password, &mut wire);
        wire.extend_from_slice(b"\r\n");
        let mut inbox = Inbox::new();
        inbox.push(&wire);
        let step = PreLogin::new(settings(Encryption::Active)).step(&mut inbox);
        let Step::Login(attempt) = step else { panic!("{step:?}") };
        prop_assert_eq!(credentials(&attempt).user.clone(), user);
        prop_assert_eq!(credentials(&attempt).password.expose(), &password);
    }
}
