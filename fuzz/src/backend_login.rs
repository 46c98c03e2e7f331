//! A login at a backend that says anything: never taken without a tagged OK to
//! credentials that were sent, never a password in clear where TLS is required.

use pointsman::config::{Pipelining, TlsMode};
use pointsman::names::Secret;
use pointsman::protocol::response::{self, LINE_BYTES_MAX};
use pointsman::sasl::{Credentials, Mechanism, Opening, Proof};
use pointsman::upstream::login::{Approach, Greeting, Leg, Login, LoginError, Plan, Step};

use crate::cuts::{Dice, first, pieces};

const PREFIX: &str = "T.";
const USER: &[u8] = b"kim the \"user\"";
const PASSWORD: &[u8] = b"pa}ss{5+}";
/// The first message of an exchange that the backend finishes.
const FIRST: &[u8] = b"n,,n=kim the \"user\",r=abc";
/// The password as it stands in a literal, and as PLAIN's message ends with this user; and
/// the first message.
const MARKS: [&[u8]; 3] = [PASSWORD, b"AHBhfXNzezUrfQ==", b"biwsbj1raW0gdGhlICJ1c2VyIixyPWFiYw=="];

/// First byte: the plan and the cuts; then the backend's bytes.
pub fn run(data: &[u8]) {
    let (choice, wire) = first(data);
    let mut dice = Dice::new(choice);
    let whole = Talk::new(choice).play(wire, &mut || usize::MAX);
    let cut = Talk::new(choice).play(wire, &mut || dice.read_len());
    assert_eq!(whole, cut, "the login depends on the cuts");
}

fn leg(choice: u8) -> Leg {
    Leg {
        tls: if choice & 1 == 0 { TlsMode::None } else { TlsMode::Starttls },
        pipelining: if choice & 2 == 0 { Pipelining::Auto } else { Pipelining::Off },
        tag_prefix: PREFIX.into(),
    }
}

fn plan(choice: u8) -> Plan {
    let field = |key: &[u8], value: &[u8]| (key.to_vec(), Some(value.to_vec()));
    Plan {
        id: if choice & 4 == 0 { vec![field(b"x-session-id", b"s")] } else { Vec::new() },
        proof: if choice & 8 == 0 { password() } else { opening() },
        needs_authzid: false,
    }
}

fn password() -> Proof {
    let password = Secret::new(PASSWORD.to_vec());
    Proof::Credentials(Credentials { authzid: None, user: USER.to_vec(), password })
}

fn opening() -> Proof {
    let message = Secret::new(FIRST.to_vec());
    let (mechanism, user) = (Mechanism::ScramSha256, USER.to_vec());
    Proof::Opening(Opening { mechanism, authzid: None, user, message })
}

/// All that went on, as one text.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    sent: Vec<u8>,
    end: String,
}

/// The two parts of a conversation.
enum Part {
    Greeting(Greeting),
    Login(Login),
}

struct Talk {
    part: Part,
    choice: u8,
    tls_required: bool,
    secured: bool,
    sent: Vec<u8>,
    /// Lines of the backend.
    lines: usize,
}

impl Talk {
    fn new(choice: u8) -> Self {
        let leg = leg(choice);
        let tls_required = leg.tls == TlsMode::Starttls;
        let part = Part::Greeting(Greeting::new(leg));
        Self { part, choice, tls_required, secured: false, sent: Vec::new(), lines: 0 }
    }

    fn credentials_sent(&self) -> bool {
        matches!(&self.part, Part::Login(login) if login.credentials_sent())
    }

    fn login(&mut self) -> &mut Login {
        let Part::Login(login) = &mut self.part else { panic!("no login yet") };
        login
    }

    fn play(mut self, wire: &[u8], next: &mut dyn FnMut() -> usize) -> Outcome {
        let mut buffer = Vec::new();
        let mut searched = 0;
        for read in pieces(wire, next) {
            buffer.extend_from_slice(read);
            loop {
                match response::find_line(&buffer, &mut searched, LINE_BYTES_MAX) {
                    Ok(None) => break,
                    Ok(Some(end)) => {
                        let line: Vec<u8> = buffer.drain(..end.next).collect();
                        if let Some(end) = self.on_line(&line[..end.text]) {
                            return self.outcome(end);
                        }
                    }
                    Err(error) => return self.outcome(format!("{error}")),
                }
            }
        }
        self.outcome("silence".to_owned())
    }

    fn outcome(self, end: String) -> Outcome {
        Outcome { sent: self.sent, end }
    }

    /// Takes a line; gives how it ended, if it did.
    fn on_line(&mut self, line: &[u8]) -> Option<String> {
        self.lines += 1;
        assert!(self.lines <= 300, "lines without end");
        let had_sent = self.credentials_sent();
        let approach = match &mut self.part {
            Part::Greeting(greeting) => greeting.on_line(line),
            Part::Login(login) => {
                let step = login.on_line(line);
                return self.on_step(step, line, had_sent);
            }
        };
        match approach {
            Ok(approach) => self.on_approach(approach, line),
            Err(error) => Some(format!("{error:?}")),
        }
    }

    fn on_approach(&mut self, approach: Approach, line: &[u8]) -> Option<String> {
        match approach {
            Approach::Read => None,
            Approach::Send(bytes) => {
                self.send(&bytes);
                None
            }
            Approach::StartTls => {
                assert!(self.tls_required && !self.secured);
                assert!(is_ok(line), "TLS without a tagged OK");
                self.secured = true;
                let Part::Greeting(greeting) = &mut self.part else { panic!("no greeting") };
                let bytes = greeting.secured();
                self.send(&bytes);
                None
            }
            Approach::Ready => {
                let unused = Part::Greeting(Greeting::new(leg(self.choice)));
                let Part::Greeting(greeting) = std::mem::replace(&mut self.part, unused) else {
                    panic!("no greeting")
                };
                assert!(!self.tls_required || self.secured, "ready without TLS");
                self.part = Part::Login(Login::new(greeting, plan(self.choice)));
                let step = self.login().begin();
                self.on_step(step, line, false)
            }
        }
    }

    fn on_step(
        &mut self,
        step: Result<Step, LoginError>,
        line: &[u8],
        had_sent: bool,
    ) -> Option<String> {
        match step {
            Ok(Step::Read) => None,
            Ok(Step::Send(bytes)) => {
                self.send(bytes.expose());
                None
            }
            Ok(Step::Challenge(challenge)) => {
                assert!(had_sent, "a challenge before the first message");
                let answer = match challenge.expose().first() {
                    Some(b'*') => self.login().cancel(),
                    _ => self.login().answer(&Secret::new(b"c=biws,r=abc".to_vec())),
                };
                self.send(answer.expose());
                None
            }
            Ok(Step::Done(done)) => {
                assert!(had_sent, "logged in before the credentials were sent");
                assert!(is_ok(line), "logged in by {line:?}");
                assert!(!self.tls_required || self.secured, "logged in without TLS");
                assert!(!done.text.chars().any(char::is_control));
                assert!(!done.capabilities.is_empty(), "no list for the client");
                assert!(!done.capabilities.contains(&b'\n'), "a line end in the list");
                assert!(done.untagged.is_empty() || done.untagged.ends_with(b"\r\n"));
                Some(format!("{done:?}"))
            }
            Err(error) => {
                if let LoginError::Rejected(rejection) = &error {
                    assert!(!rejection.text.chars().any(char::is_control));
                    assert!(line.starts_with(PREFIX.as_bytes()), "refused by {line:?}");
                }
                Some(format!("{error:?}"))
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        assert!(bytes.ends_with(b"\r\n"), "a command that does not end");
        let clear = self.tls_required && !self.secured;
        let secret = MARKS.iter().any(|mark| contains(bytes, mark));
        assert!(!(clear && (secret || contains(bytes, USER))), "credentials in clear text");
        assert!(!secret || self.credentials_sent(), "a password that nobody noted");
        let before = MARKS.iter().any(|mark| contains(&self.sent, mark));
        assert!(!(before && secret), "the password is sent twice");
        self.sent.extend_from_slice(bytes);
    }
}

/// Whether a line is a tagged OK to one of the proxy's commands.
fn is_ok(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let tag = words.next().and_then(|tag| tag.strip_prefix(PREFIX.as_bytes()));
    tag.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
        && words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"OK"))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
