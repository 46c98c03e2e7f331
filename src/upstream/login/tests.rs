use super::*;
use crate::config::{Pipelining, TlsMode};
use crate::sasl::Credentials;

/// All that decides about a connection and a login on it.
struct Setup {
    tls: TlsMode,
    pipelining: Pipelining,
    id: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    proof: Proof,
    needs_authzid: bool,
    tag_prefix: String,
}

/// A greeting and the login behind it as one, led as a dial leads them.
struct Whole {
    greeting: Option<(Greeting, Plan)>,
    login: Option<Login>,
}

/// A step of either part.
#[derive(Debug)]
enum Step {
    Read,
    Send(Secret),
    StartTls,
    Challenge(Secret),
    Done(LoggedIn),
}

impl From<super::Step> for Step {
    fn from(step: super::Step) -> Self {
        match step {
            super::Step::Read => Self::Read,
            super::Step::Send(bytes) => Self::Send(bytes),
            super::Step::Challenge(challenge) => Self::Challenge(challenge),
            super::Step::Done(done) => Self::Done(done),
        }
    }
}

impl Whole {
    fn new(setup: Setup) -> Self {
        let Setup { tls, pipelining, id, proof, needs_authzid, tag_prefix } = setup;
        let greeting = Greeting::new(Leg { tls, pipelining, tag_prefix });
        Self { greeting: Some((greeting, Plan { id, proof, needs_authzid })), login: None }
    }

    fn on_line(&mut self, line: &[u8]) -> Result<Step, LoginError> {
        if let Some(login) = &mut self.login {
            return login.on_line(line).map(Step::from);
        }
        let (greeting, _) = self.greeting.as_mut().unwrap();
        match greeting.on_line(line)? {
            Approach::Read => Ok(Step::Read),
            Approach::Send(bytes) => Ok(Step::Send(Secret::new(bytes))),
            Approach::StartTls => Ok(Step::StartTls),
            Approach::Ready => {
                let (greeting, plan) = self.greeting.take().unwrap();
                self.login.insert(Login::new(greeting, plan)).begin().map(Step::from)
            }
        }
    }

    fn secured(&mut self) -> Step {
        Step::Send(Secret::new(self.greeting.as_mut().unwrap().0.secured()))
    }

    fn credentials_sent(&self) -> bool {
        self.login.as_ref().is_some_and(Login::credentials_sent)
    }

    fn answer(&mut self, message: &Secret) -> Secret {
        self.login.as_mut().unwrap().answer(message)
    }

    fn cancel(&mut self) -> Secret {
        self.login.as_mut().unwrap().cancel()
    }
}

fn plan() -> Setup {
    Setup {
        tls: TlsMode::None,
        pipelining: Pipelining::Auto,
        id: vec![(b"x-session-id".to_vec(), Some(b"s1".to_vec()))],
        proof: Proof::Credentials(Credentials {
            authzid: None,
            user: b"kim".to_vec(),
            password: Secret::new(b"pa ss".to_vec()),
        }),
        needs_authzid: false,
        tag_prefix: "T.".into(),
    }
}

fn sent(step: Result<Step, LoginError>) -> String {
    match step {
        Ok(Step::Send(bytes)) => String::from_utf8(bytes.expose().to_vec()).unwrap(),
        other => panic!("nothing was sent but {other:?}"),
    }
}

const DOVECOT: &[u8] = b"* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ ID AUTH=PLAIN] ready";

#[test]
fn a_backend_that_lists_all_in_its_greeting_gets_id_and_login_in_one_write() {
    let mut login = Whole::new(plan());
    let out = sent(login.on_line(DOVECOT));
    assert_eq!(
        out,
        "T.0 ID (\"x-session-id\" \"s1\")\r\nT.1 AUTHENTICATE PLAIN AGtpbQBwYSBzcw==\r\n"
    );
    assert!(login.credentials_sent());
    assert!(matches!(login.on_line(b"* ID (\"name\" \"Dovecot\")"), Ok(Step::Read)));
    assert!(matches!(login.on_line(b"T.0 OK done"), Ok(Step::Read)));
    let Ok(Step::Done(done)) = login.on_line(b"T.1 OK [CAPABILITY IMAP4rev1 IDLE] Logged in")
    else {
        panic!("not logged in")
    };
    assert_eq!(done.capabilities, b"IMAP4rev1 IDLE");
    assert_eq!(done.text, "Logged in");
    assert!(done.untagged.is_empty());
}

#[test]
fn with_pipelining_off_each_command_waits_for_the_answer_before() {
    let mut login = Whole::new(Setup { pipelining: Pipelining::Off, ..plan() });
    assert!(sent(login.on_line(DOVECOT)).starts_with("T.0 ID ("));
    assert!(!login.credentials_sent());
    assert!(sent(login.on_line(b"T.0 OK done")).starts_with("T.1 AUTHENTICATE PLAIN AGtp"));
}

/// B-50: an initial response only where SASL-IR is listed.
#[test]
fn without_sasl_ir_the_credentials_wait_for_the_continuation() {
    for plus in [&b"+"[..], b"+ ", b"+ go on"] {
        let mut login = Whole::new(plan());
        assert!(sent(login.on_line(b"* OK hello")).starts_with("T.0 CAPABILITY"));
        assert!(matches!(login.on_line(b"* CAPABILITY IMAP4rev1 ID AUTH=PLAIN"), Ok(Step::Read)));
        assert!(sent(login.on_line(b"T.0 OK done")).starts_with("T.1 ID"));
        assert_eq!(sent(login.on_line(b"T.1 OK done")), "T.2 AUTHENTICATE PLAIN\r\n");
        assert!(!login.credentials_sent());
        assert_eq!(sent(login.on_line(plus)), "AGtpbQBwYSBzcw==\r\n");
        assert!(login.credentials_sent());
    }
}

#[test]
fn without_plain_the_login_command_brings_literals() {
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    let out = sent(login.on_line(b"* OK [CAPABILITY IMAP4rev1 LITERAL+] hi"));
    assert_eq!(out, "T.0 LOGIN {3+}\r\nkim {5+}\r\npa ss\r\n");

    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    let out = sent(login.on_line(b"* OK [CAPABILITY IMAP4rev1] hi"));
    assert_eq!(out, "T.0 LOGIN {3}\r\n");
    assert_eq!(sent(login.on_line(b"+ go")), "kim {5}\r\n");
    assert!(!login.credentials_sent());
    assert_eq!(sent(login.on_line(b"+ go")), "pa ss\r\n");
    assert!(login.credentials_sent());
}

/// B-06, B-07: the configured TLS is policy. A stripped list, PREAUTH or a NO ends the
/// login with no credential sent.
#[test]
fn starttls_is_required_whatever_the_backend_lists() {
    let secured = || Setup { tls: TlsMode::Starttls, ..plan() };
    let mut login = Whole::new(secured());
    assert_eq!(sent(login.on_line(DOVECOT)), "T.0 STARTTLS\r\n");
    assert_eq!(login.on_line(b"T.0 NO not today").unwrap_err(), LoginError::NoStartTls);

    let mut login = Whole::new(secured());
    assert_eq!(
        login.on_line(b"* PREAUTH welcome").unwrap_err(),
        LoginError::Greeting { what: "PREAUTH" }
    );

    let mut login = Whole::new(secured());
    sent(login.on_line(DOVECOT));
    assert!(matches!(login.on_line(b"T.0 OK begin"), Ok(Step::StartTls)));
    assert_eq!(sent(Ok(login.secured())), "T.1 CAPABILITY\r\n");
    assert!(!login.credentials_sent());
}

#[test]
fn what_is_listed_before_the_login_is_not_taken_for_what_is_offered_after_it() {
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(DOVECOT));
    assert_eq!(sent(login.on_line(b"T.0 OK Logged in")), "T.1 CAPABILITY\r\n");
    assert!(matches!(login.on_line(b"* CAPABILITY IMAP4rev1 IDLE"), Ok(Step::Read)));
    let Ok(Step::Done(done)) = login.on_line(b"T.1 OK done") else { panic!("not logged in") };
    assert_eq!(done.capabilities, b"IMAP4rev1 IDLE");
    assert_eq!(done.text, "Logged in");
}

/// B-46: Gmail and others send the list untagged before the OK.
#[test]
fn untagged_lines_around_the_login_reach_the_client_but_the_list_does_not() {
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(DOVECOT));
    assert!(matches!(login.on_line(b"* CAPABILITY IMAP4rev1 IDLE"), Ok(Step::Read)));
    assert!(matches!(login.on_line(b"* OK [ALERT] Quota is near"), Ok(Step::Read)));
    let Ok(Step::Done(done)) = login.on_line(b"T.0 OK Logged in") else { panic!("not logged in") };
    assert_eq!(done.capabilities, b"IMAP4rev1 IDLE");
    assert_eq!(done.untagged, b"* OK [ALERT] Quota is near\r\n");
}

/// B-55, B-76: neither an unfiltered list nor a referral passes by way of a code.
#[test]
fn lists_in_codes_are_learnt_and_referrals_are_dropped() {
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(DOVECOT));
    for line in [
        &b"* OK [CAPABILITY IMAP4rev1 COMPRESS=DEFLATE UNAUTHENTICATE] list"[..],
        b"* NO [REFERRAL imap://elsewhere/] go there",
    ] {
        assert!(matches!(login.on_line(line), Ok(Step::Read)));
    }
    let Ok(Step::Done(done)) = login.on_line(b"T.0 OK Logged in") else { panic!("not logged in") };
    assert_eq!(done.capabilities, b"IMAP4rev1 COMPRESS=DEFLATE UNAUTHENTICATE");
    assert!(done.untagged.is_empty());
}

#[test]
fn of_a_refused_login_only_alerts_reach_the_client() {
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(DOVECOT));
    for line in [&b"* 4 EXISTS"[..], b"* NO [ALERT] Pay your bill", b"* OK no such user"] {
        assert!(matches!(login.on_line(line), Ok(Step::Read)));
    }
    let refused = login.on_line(b"T.0 NO [CONTACTADMIN] Blocked");
    let Err(LoginError::Rejected(rejection)) = refused else { panic!("{refused:?}") };
    assert_eq!(rejection.untagged, b"* NO [ALERT] Pay your bill\r\n");
}

/// B-47: an answer to nobody, with a wrong tag, or before it was asked is no login.
#[test]
fn foreign_tags_and_early_answers_end_the_login() {
    for line in [&b"T.9 OK Logged in"[..], b"a1 OK Logged in", b"T.1 OK Logged in"] {
        let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
        sent(login.on_line(DOVECOT));
        assert!(matches!(login.on_line(line), Err(LoginError::Protocol { .. })), "{line:?}");
    }
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi"));
    assert!(matches!(login.on_line(b"T.0 OK Logged in"), Err(LoginError::Protocol { .. })));
}

#[test]
fn a_refusal_carries_its_code_and_a_clean_text() {
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(DOVECOT));
    let error = login.on_line(b"T.0 NO [EXPIRED] Your \x1b[31mpassword ran out").unwrap_err();
    let LoginError::Rejected(rejection) = error else { panic!("{error:?}") };
    assert_eq!(rejection.code, ResponseCode::Expired);
    assert!(!rejection.text.contains('\x1b'));
}

#[test]
fn endless_lines_and_loud_backends_are_given_up() {
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(DOVECOT));
    let error = (0..1000).find_map(|_| login.on_line(b"* X junk").err());
    assert!(matches!(error, Some(LoginError::Protocol { .. })));

    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(DOVECOT));
    let line = [b"* OK ".as_slice(), &[b'x'; 4000]].concat();
    let error = (0..10).find_map(|_| login.on_line(&line).err());
    assert!(matches!(error, Some(LoginError::Protocol { .. })));
}

#[test]
fn a_channel_that_nobody_asked_for_ends_the_login() {
    let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
    sent(login.on_line(DOVECOT));
    assert!(matches!(login.on_line(b"* MULTIPLEX 0"), Err(LoginError::Protocol { .. })));
    let mut login = Whole::new(plan());
    sent(login.on_line(b"* OK ready"));
    assert!(matches!(login.on_line(b"* Multiplex 0"), Err(LoginError::Protocol { .. })));
}

/// B-51: a list that had to be asked for is no sign of a server that reads ahead.
#[test]
fn a_silent_greeting_is_followed_step_by_step() {
    let mut login = Whole::new(plan());
    assert!(sent(login.on_line(b"* OK ready")).starts_with("T.0 CAPABILITY"));
    let list = b"* CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN";
    assert!(matches!(login.on_line(list), Ok(Step::Read)));
    assert_eq!(sent(login.on_line(b"T.0 OK done")), "T.1 ID (\"x-session-id\" \"s1\")\r\n");
    assert!(sent(login.on_line(b"T.1 OK done")).starts_with("T.2 AUTHENTICATE PLAIN AGtp"));
}

#[test]
fn a_refusal_before_the_credentials_is_no_wrong_password() {
    let begun = || {
        let mut login = Whole::new(Setup { id: Vec::new(), ..plan() });
        let greeting = b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi";
        assert_eq!(sent(login.on_line(greeting)), "T.0 AUTHENTICATE PLAIN\r\n");
        login
    };
    let refused = begun().on_line(b"T.0 NO switched off");
    assert!(matches!(refused, Err(LoginError::Protocol { .. })), "{refused:?}");
    let refused = begun().on_line(b"T.0 NO [UNAVAILABLE] later");
    assert!(matches!(refused, Err(LoginError::Rejected(_))), "{refused:?}");
}

const SCRAM_FIRST: &[u8] = b"n,,n=kim,r=abc";
const SCRAM_FINAL: &[u8] = b"c=biws,r=abcdef,p=cHJvb2Y=";

fn opening(mechanism: Mechanism, message: &[u8]) -> Setup {
    let exchange = crate::sasl::Exchange::new(mechanism);
    let Ok(crate::sasl::Progress::Opened(opening)) = exchange.step(&Secret::new(message.to_vec()))
    else {
        panic!("{message:?} opens nothing")
    };
    Setup { id: Vec::new(), proof: Proof::Opening(opening), ..plan() }
}

fn challenge(step: Result<Step, LoginError>) -> Vec<u8> {
    match step {
        Ok(Step::Challenge(challenge)) => challenge.expose().to_vec(),
        other => panic!("no challenge but {other:?}"),
    }
}

fn text(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).unwrap()
}

#[test]
fn an_exchange_is_passed_on_message_by_message() {
    let mut login = Whole::new(opening(Mechanism::ScramSha256, SCRAM_FIRST));
    let greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=SCRAM-SHA-256] hi";
    let out = sent(login.on_line(greeting));
    let first = strings::encode_base64(SCRAM_FIRST);
    assert_eq!(out, format!("T.0 AUTHENTICATE SCRAM-SHA-256 {first}\r\n"));
    assert!(login.credentials_sent());
    assert_eq!(challenge(login.on_line(b"+ cj1hYmNkZWY=")), b"r=abcdef");
    let out = login.answer(&Secret::new(SCRAM_FINAL.to_vec()));
    assert_eq!(text(&out), format!("{}\r\n", strings::encode_base64(SCRAM_FINAL)));
    assert_eq!(challenge(login.on_line(b"+ dj1zaWc=")), b"v=sig");
    assert_eq!(text(&login.answer(&Secret::default())), "\r\n");
    let done = login.on_line(b"T.0 OK [CAPABILITY IMAP4rev1] in");
    assert!(matches!(done, Ok(Step::Done(_))), "{done:?}");
}

/// B-49, B-50.
#[test]
fn without_sasl_ir_the_first_message_waits_for_any_plus() {
    for plus in [&b"+"[..], b"+ ", b"+ go"] {
        let mut login = Whole::new(opening(Mechanism::ScramSha1, SCRAM_FIRST));
        let greeting = b"* OK [CAPABILITY IMAP4rev1 AUTH=SCRAM-SHA-1] hi";
        assert_eq!(sent(login.on_line(greeting)), "T.0 AUTHENTICATE SCRAM-SHA-1\r\n");
        assert!(!login.credentials_sent());
        let first = format!("{}\r\n", strings::encode_base64(SCRAM_FIRST));
        assert_eq!(sent(login.on_line(plus)), first);
        assert!(login.credentials_sent());
        assert_eq!(challenge(login.on_line(b"+")), b"");
    }
}

#[test]
fn a_token_longer_than_a_command_line_goes_behind_the_plus() {
    let token = "t".repeat(9_000);
    let message = format!("user=kim\x01auth=Bearer {token}\x01\x01").into_bytes();
    let mut login = Whole::new(opening(Mechanism::XOAuth2, &message));
    let greeting = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] hi";
    assert_eq!(sent(login.on_line(greeting)), "T.0 AUTHENTICATE XOAUTH2\r\n");
    let line = format!("{}\r\n", strings::encode_base64(&message));
    assert_eq!(sent(login.on_line(b"+ ")), line);
}

#[test]
fn a_backend_without_the_mechanism_or_with_channel_binding_is_told_nothing() {
    for (list, error) in [
        ("AUTH=PLAIN", LoginError::NotListed(Mechanism::ScramSha256)),
        ("AUTH=SCRAM-SHA-1", LoginError::NotListed(Mechanism::ScramSha256)),
        ("AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-256-PLUS", LoginError::ChannelBinding),
        ("AUTH=SCRAM-SHA-1-plus AUTH=scram-sha-256", LoginError::ChannelBinding),
    ] {
        let mut login = Whole::new(opening(Mechanism::ScramSha256, SCRAM_FIRST));
        let greeting = format!("* OK [CAPABILITY IMAP4rev1 SASL-IR {list}] hi");
        assert_eq!(login.on_line(greeting.as_bytes()).unwrap_err(), error, "{list}");
        assert!(!login.credentials_sent());
    }
}

fn begun(mechanism: Mechanism, message: &[u8]) -> Whole {
    let mut login = Whole::new(opening(mechanism, message));
    let list = format!("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH={}] hi", mechanism.name());
    sent(login.on_line(list.as_bytes()));
    login
}

#[test]
fn an_exchange_succeeds_only_where_its_mechanism_can() {
    let token = b"n,a=kim,\x01auth=Bearer x\x01\x01";
    let mut login = begun(Mechanism::OAuthBearer, token);
    assert!(matches!(login.on_line(b"T.0 OK [CAPABILITY IMAP4rev1] in"), Ok(Step::Done(_))));

    // RFC 7628 section 3.2.3: behind an error comes NO.
    let mut login = begun(Mechanism::OAuthBearer, token);
    challenge(login.on_line(b"+ e30="));
    login.answer(&Secret::new(b"n,a=eve,\x01auth=Bearer y\x01\x01".to_vec()));
    assert!(matches!(login.on_line(b"T.0 OK in"), Err(LoginError::Protocol { .. })));

    let mut login = begun(Mechanism::ScramSha1, SCRAM_FIRST);
    assert!(matches!(login.on_line(b"T.0 OK in"), Err(LoginError::Protocol { .. })));
}

#[test]
fn a_cancelled_exchange_is_over_with_the_backends_word() {
    for (answer, expected) in [
        (&b"T.0 BAD cancelled"[..], Some(LoginError::Cancelled)),
        (b"T.0 NO [AUTHENTICATIONFAILED] no", Some(LoginError::Cancelled)),
        (b"T.0 OK in", None),
        (b"+ dj1zaWc=", None),
    ] {
        let mut login = begun(Mechanism::ScramSha1, SCRAM_FIRST);
        challenge(login.on_line(b"+ cj1hYmNkZWY="));
        assert_eq!(text(&login.cancel()), "*\r\n");
        let error = login.on_line(answer).unwrap_err();
        match expected {
            Some(expected) => assert_eq!(error, expected),
            None => assert!(matches!(error, LoginError::Protocol { .. }), "{error:?}"),
        }
    }
}

#[test]
fn challenges_are_base64_and_few() {
    for odd in [&b"+ not base64"[..], b"+ YQ", b"+ YQ==\0", b"+  YQ=="] {
        let mut login = begun(Mechanism::ScramSha1, SCRAM_FIRST);
        assert!(matches!(login.on_line(odd), Err(LoginError::Protocol { .. })), "{odd:?}");
    }
    let mut login = begun(Mechanism::ScramSha1, SCRAM_FIRST);
    let rounds = (0..100).take_while(|_| {
        let step = login.on_line(b"+ YQ==");
        login.answer(&Secret::default());
        step.is_ok()
    });
    assert!(rounds.count() < 10);
}
