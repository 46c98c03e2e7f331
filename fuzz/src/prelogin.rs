//! The session before login against a model: one tagged answer a command, exact budgets,
//! no login in clear text, nothing after STARTTLS or the end; in an exchange that a backend
//! finishes, one line for each of its challenges.

use std::sync::Arc;

use pointsman::names::SessionId;
use pointsman::protocol::command;
use pointsman::sasl::{Mechanism, Opening, Proof};
use pointsman::session::answer::Answer;
use pointsman::session::prelogin::{Attempt, Encryption, Inbox, PreLogin, Reply, Settings, Step};

use crate::cuts::{Dice, first, pieces};
use crate::prelogin_model::{self as model, Command, Frame, Opened, Word};

const TRIES: u32 = 5;
const ERRORS: u32 = 10;
/// Challenges that a backend has for one exchange at most.
const CHALLENGES: u8 = 3;

/// First byte: encryption and settings; second: the cuts and how logins end; then the
/// client's bytes.
pub fn run(data: &[u8]) {
    let (choice, rest) = first(data);
    let (seed, wire) = first(rest);
    let encryption = match choice % 3 {
        0 => Encryption::Active,
        1 => Encryption::Offered,
        _ => Encryption::Absent,
    };
    let settings = Settings {
        session: SessionId::from_bits(7),
        mechanisms: Arc::from(offered(choice)),
        encryption,
        clear_login: choice & 0x10 != 0,
        tries: TRIES,
        syntax_errors: ERRORS,
        bye_on_unavailable: choice & 0x20 != 0,
        id_trusted: false,
    };
    let mut dice = Dice::new(seed);
    let mut talk = Talk::new(settings, seed);
    for read in pieces(wire, &mut || dice.read_len()) {
        if !talk.read(read) {
            return;
        }
    }
}

/// Passwords alone, tokens and proofs beside them, or those alone.
const fn offered(choice: u8) -> &'static [Mechanism] {
    use Mechanism::{Login, OAuthBearer, Plain, ScramSha1, ScramSha256, XOAuth2};
    match choice >> 6 {
        0 | 1 => &[Plain, Login],
        2 => &[ScramSha256, OAuthBearer, XOAuth2, Plain, Login],
        _ => &[ScramSha1, OAuthBearer, XOAuth2],
    }
}

/// What the next bytes are, as the model has it.
#[derive(Debug)]
enum Phase {
    Command,
    Exchange {
        tag: Vec<u8>,
        mechanism: Vec<u8>,
        user: Option<Vec<u8>>,
    },
    /// The client was told that its token names nobody.
    Refused {
        tag: Vec<u8>,
    },
    /// A backend has asked, and may ask so often again.
    Dialogue {
        tag: Vec<u8>,
        more: u8,
    },
}

/// What the model says that a step must be.
#[derive(Debug)]
enum Expected {
    Read,
    Continue,
    /// A tagged answer (untagged where there is no tag), after so many bytes.
    Answer {
        used: usize,
        tag: Option<Vec<u8>>,
        status: &'static str,
        budget: Budget,
    },
    Challenge {
        used: usize,
        line: Vec<u8>,
        next: Phase,
    },
    Login {
        used: usize,
        tag: Vec<u8>,
        authzid: Option<Vec<u8>>,
        user: Vec<u8>,
        password: Vec<u8>,
    },
    /// The first message of an exchange that a backend finishes.
    Opening {
        used: usize,
        tag: Vec<u8>,
        authzid: Option<Vec<u8>>,
        user: Vec<u8>,
        mechanism: Vec<u8>,
        message: Vec<u8>,
    },
    /// A login that can only fail.
    NoUser {
        used: usize,
        tag: Vec<u8>,
    },
    StartTls {
        used: usize,
        tag: Vec<u8>,
    },
    /// BYE, and all is dropped.
    Close,
    Logout {
        tag: Vec<u8>,
    },
}

/// What an answer counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Budget {
    Nothing,
    Error,
    Login,
}

/// How a backend's question was answered.
enum Talked {
    /// There is none.
    NotAsked,
    /// It was, or the exchange is over.
    Answered,
    /// Not yet: the line is not whole.
    Waits,
    /// The connection is at its end.
    Ended,
}

struct Talk {
    machine: PreLogin,
    inbox: Inbox,
    dice: Dice,
    clear_login: bool,
    mechanisms: Arc<[Mechanism]>,
    encryption: Encryption,
    bye_on_unavailable: bool,
    phase: Phase,
    granted: Vec<usize>,
    errors: u32,
    failed: u32,
}

impl Talk {
    fn new(settings: Settings, seed: u8) -> Self {
        Self {
            clear_login: settings.clear_login,
            mechanisms: Arc::clone(&settings.mechanisms),
            encryption: settings.encryption,
            bye_on_unavailable: settings.bye_on_unavailable,
            machine: PreLogin::new(settings),
            inbox: Inbox::new(),
            dice: Dice::new(seed.wrapping_add(1)),
            phase: Phase::Command,
            granted: Vec::new(),
            errors: 0,
            failed: 0,
        }
    }

    /// Takes a read and all steps that follow; whether the connection goes on.
    fn read(&mut self, bytes: &[u8]) -> bool {
        assert_eq!(self.inbox.push(bytes), bytes.len(), "no room");
        loop {
            let before = self.inbox.unread().to_vec();
            match self.answer_challenge(&before) {
                Talked::NotAsked => {}
                Talked::Answered => continue,
                Talked::Waits => return true,
                Talked::Ended => return false,
            }
            let expected = self.expect(&before);
            let step = self.machine.step(&mut self.inbox);
            let used = before.len() - self.inbox.unread().len();
            assert!(self.inbox.unread() == &before[used..], "bytes were changed");
            if matches!((&expected, &step), (Expected::Read, Step::Read)) {
                assert_eq!(used, 0);
                return true;
            }
            if !self.check(expected, step, used, before.len()) {
                return false;
            }
        }
    }

    fn takes_passwords(&self) -> bool {
        self.mechanisms.contains(&Mechanism::Plain)
    }

    fn offers(&self, mechanism: &[u8]) -> bool {
        self.mechanisms.iter().any(|offered| offered.name().as_bytes() == mechanism)
    }

    fn refuses_clear(&self) -> bool {
        self.encryption != Encryption::Active && !self.clear_login
    }

    fn expect(&mut self, buffer: &[u8]) -> Expected {
        match std::mem::replace(&mut self.phase, Phase::Command) {
            Phase::Command => self.expect_command(buffer),
            Phase::Dialogue { .. } => panic!("a step while a backend waits"),
            Phase::Refused { tag } => match model::exchange_line(buffer) {
                Frame::More => {
                    self.phase = Phase::Refused { tag };
                    Expected::Read
                }
                Frame::Close => Expected::Close,
                Frame::Command(end) if buffer[..end] == *b"*\r\n" => {
                    answer(end, &tag, "BAD", Budget::Nothing)
                }
                Frame::Command(end) if model::base64(&buffer[..end - 2]).is_some() => {
                    Expected::NoUser { used: end, tag }
                }
                Frame::Command(end) | Frame::Bad(end) | Frame::Announced(end) => {
                    answer(end, &tag, "BAD", Budget::Error)
                }
            },
            Phase::Exchange { tag, mechanism, user } => match model::exchange_line(buffer) {
                Frame::More => {
                    self.phase = Phase::Exchange { tag, mechanism, user };
                    Expected::Read
                }
                Frame::Close => Expected::Close,
                Frame::Command(end) if buffer[..end] == *b"*\r\n" => {
                    answer(end, &tag, "BAD", Budget::Nothing)
                }
                Frame::Command(end) => {
                    expect_message(end, tag, &mechanism, user, model::base64(&buffer[..end - 2]))
                }
                Frame::Bad(end) | Frame::Announced(end) => answer(end, &tag, "BAD", Budget::Error),
            },
        }
    }

    fn expect_command(&mut self, buffer: &[u8]) -> Expected {
        let frame = model::frame(buffer, &self.granted);
        if !matches!(frame, Frame::More | Frame::Announced(_)) {
            self.granted.clear();
        }
        match frame {
            Frame::More => Expected::Read,
            Frame::Close => Expected::Close,
            Frame::Bad(used) => Expected::Answer {
                used,
                tag: model::tag_of(buffer),
                status: "BAD",
                budget: Budget::Error,
            },
            Frame::Announced(end) => self.expect_literal(buffer, end),
            Frame::Command(end) => self.expect_whole(model::command(&buffer[..end]), end),
        }
    }

    fn expect_literal(&mut self, buffer: &[u8], end: usize) -> Expected {
        let tag = model::tag_of(buffer);
        let word = model::word_of(buffer).unwrap_or_default();
        let in_clear = word == b"LOGIN" && self.refuses_clear();
        if word == b"ID" || (word == b"LOGIN" && !in_clear && self.takes_passwords()) {
            self.granted.push(end);
            return Expected::Continue;
        }
        self.granted.clear();
        let (status, budget) = match &word[..] {
            _ if in_clear => ("NO", Budget::Login),
            b"LOGIN" if !self.takes_passwords() => ("NO", Budget::Nothing),
            b"" | b"CAPABILITY" | b"NOOP" | b"LOGOUT" | b"STARTTLS" | b"AUTHENTICATE" => {
                ("BAD", Budget::Error)
            }
            other => ("BAD", budget_of(other)),
        };
        Expected::Answer { used: end, tag, status, budget }
    }

    fn expect_whole(&self, command: Command, used: usize) -> Expected {
        match command {
            Command::NoTag => {
                Expected::Answer { used, tag: None, status: "BAD", budget: Budget::Error }
            }
            Command::Bad { tag, counts } => {
                answer(used, &tag, "BAD", if counts { Budget::Error } else { Budget::Nothing })
            }
            Command::Simple(tag, Word::Logout) => Expected::Logout { tag },
            Command::Simple(tag, Word::StartTls) if self.encryption == Encryption::Offered => {
                Expected::StartTls { used, tag }
            }
            Command::Simple(tag, Word::StartTls) => answer(used, &tag, "BAD", Budget::Error),
            Command::Simple(tag, _) => answer(used, &tag, "OK", Budget::Nothing),
            Command::Other(tag, word) => answer(used, &tag, "BAD", budget_of(&word)),
            Command::Login(tag, ..) | Command::Authenticate(tag, ..) if self.refuses_clear() => {
                answer(used, &tag, "NO", Budget::Login)
            }
            Command::Login(tag, ..) if !self.takes_passwords() => {
                answer(used, &tag, "NO", Budget::Nothing)
            }
            Command::Login(tag, user, password) => {
                Expected::Login { used, tag, authzid: None, user, password }
            }
            Command::Authenticate(tag, mechanism, _) if !self.offers(&mechanism) => {
                answer(used, &tag, "NO", Budget::Nothing)
            }
            Command::Authenticate(tag, mechanism, None) => challenge(used, tag, mechanism, None),
            Command::Authenticate(tag, mechanism, Some(text)) => {
                let message = if text == b"=" { Some(Vec::new()) } else { model::base64(&text) };
                expect_message(used, tag, &mechanism, None, message)
            }
        }
    }

    /// Holds a step against what was expected; whether the connection goes on.
    fn check(&mut self, expected: Expected, step: Step, used: usize, all: usize) -> bool {
        match (expected, step) {
            (Expected::Continue, Step::Reply(reply)) => {
                assert!(reply.starts_with(b"+ ") && used == 0);
                true
            }
            (Expected::Answer { used: wanted, tag, status, budget }, step) => {
                assert_eq!(used, wanted);
                self.check_answer(tag.as_deref(), status, budget, step)
            }
            (Expected::Challenge { used: wanted, line, next }, Step::Reply(reply)) => {
                assert_eq!((used, reply), (wanted, line));
                self.phase = next;
                true
            }
            (Expected::Login { used: wanted, tag, authzid, user, password }, Step::Login(got)) => {
                assert!(!self.refuses_clear(), "a login in clear text");
                assert_eq!((used, got.tag.as_bytes()), (wanted, &tag[..]));
                let Some(Proof::Credentials(given)) = &got.proof else {
                    panic!("no credentials in {got:?}")
                };
                assert_eq!((&given.authzid, &given.user), (&authzid, &user));
                assert_eq!(given.password.expose(), password);
                self.end_login(&got)
            }
            (Expected::NoUser { used: wanted, tag }, Step::Login(got)) => {
                assert_eq!((used, got.tag.as_bytes()), (wanted, &tag[..]));
                assert!(got.proof.is_none(), "a user in {got:?}");
                self.end_login(&got)
            }
            (
                Expected::Opening { used: wanted, tag, authzid, user, mechanism, message },
                Step::Login(got),
            ) => {
                assert!(!self.refuses_clear(), "a login in clear text");
                assert_eq!((used, got.tag.as_bytes()), (wanted, &tag[..]));
                let Some(Proof::Opening(opening)) = &got.proof else {
                    panic!("no opening in {got:?}")
                };
                let Opening { mechanism: named, authzid: acts_as, user: read, message: sent } =
                    opening;
                assert_eq!(
                    (acts_as, read, named.name().as_bytes()),
                    (&authzid, &user, &mechanism[..])
                );
                assert_eq!(sent.expose(), message);
                self.ask_or_end(CHALLENGES, got.tag.as_bytes())
            }
            (Expected::StartTls { used: wanted, tag }, Step::StartTls { reply }) => {
                assert_eq!((used, used), (wanted, all), "bytes behind STARTTLS were kept");
                assert_eq!(status_lines(&reply), [(Some(tag), "OK".to_owned())]);
                assert!(matches!(self.machine.step(&mut self.inbox), Step::Wait));
                self.after_tls();
                true
            }
            (Expected::StartTls { used: wanted, tag }, Step::Close { reply, .. }) => {
                assert!(wanted < all && used == all, "closed without bytes behind STARTTLS");
                assert_eq!(status_lines(&reply), [(Some(tag), "BAD".to_owned())]);
                self.ended()
            }
            (Expected::Close, Step::Close { reply, .. }) => {
                assert_eq!((used, status_lines(&reply)), (all, vec![(None, "BYE".to_owned())]));
                self.ended()
            }
            (Expected::Logout { tag }, Step::Close { reply, .. }) => {
                let wanted = [(None, "BYE".to_owned()), (Some(tag), "OK".to_owned())];
                assert_eq!((used, &status_lines(&reply)[..]), (all, &wanted[..]));
                self.ended()
            }
            (expected, step) => panic!("{expected:?} was expected, not {step:?}"),
        }
    }

    fn check_answer(
        &mut self,
        tag: Option<&[u8]>,
        status: &str,
        budget: Budget,
        step: Step,
    ) -> bool {
        let (reply, closed) = match step {
            Step::Reply(reply) => (reply, false),
            Step::Close { reply, .. } => (reply, true),
            other => panic!("no answer but {other:?}"),
        };
        let text = String::from_utf8_lossy(&reply).into_owned();
        self.spend(budget);
        let mut wanted = vec![(tag.map(<[u8]>::to_vec), status.to_owned())];
        let over = self.is_over();
        if over {
            wanted.push((None, "BYE".to_owned()));
        }
        assert_eq!(status_lines(&reply), wanted, "{text:?}");
        assert_eq!(closed, over, "the budget is not kept");
        if closed { self.ended() } else { true }
    }

    /// The backend decides; a success ends the talk.
    fn end_login(&mut self, attempt: &Attempt) -> bool {
        self.decide(attempt.tag.as_bytes())
    }

    fn decide(&mut self, tag: &[u8]) -> bool {
        assert!(matches!(self.machine.step(&mut self.inbox), Step::Wait), "not at rest");
        let answer = match self.dice.roll(4) {
            0 => return false,
            1 => Answer::AuthenticationFailed,
            2 => Answer::Unavailable,
            _ => Answer::Limit,
        };
        self.refuse(tag, &answer, "NO", Budget::Login)
    }

    /// The end of a login that did not come in; whether the connection goes on.
    fn refuse(&mut self, tag: &[u8], answer: &Answer, status: &str, budget: Budget) -> bool {
        let mut out = Vec::new();
        let closed = self.machine.login_failed(answer, &mut out).is_some();
        if self.bye_on_unavailable && answer.is_unavailable() {
            assert_eq!(status_lines(&out), [(None, "BYE".to_owned())]);
            return self.ended();
        }
        self.spend(budget);
        let mut wanted = vec![(Some(tag.to_vec()), status.to_owned())];
        if self.is_over() {
            wanted.push((None, "BYE".to_owned()));
        }
        assert_eq!(status_lines(&out), wanted);
        assert_eq!(closed, self.is_over());
        if closed { self.ended() } else { true }
    }

    /// The backend asks, up to so often, or says how the exchange ends.
    fn ask_or_end(&mut self, more: u8, tag: &[u8]) -> bool {
        assert!(matches!(self.machine.step(&mut self.inbox), Step::Wait), "not at rest");
        if more == 0 || self.dice.roll(3) == 0 {
            return self.decide(tag);
        }
        self.phase = Phase::Dialogue { tag: tag.to_vec(), more: more - 1 };
        true
    }

    /// What the client says where a backend has asked for it.
    fn answer_challenge(&mut self, buffer: &[u8]) -> Talked {
        let Phase::Dialogue { tag, more } = &self.phase else { return Talked::NotAsked };
        let (tag, more) = (tag.clone(), *more);
        let reply = self.machine.reply(&mut self.inbox);
        let used = buffer.len() - self.inbox.unread().len();
        assert!(self.inbox.unread() == &buffer[used..], "bytes were changed");
        let frame = model::exchange_line(buffer);
        let goes_on = match (frame, reply) {
            (Frame::More, Reply::Read) => {
                assert_eq!(used, 0);
                return Talked::Waits;
            }
            (Frame::Close, Reply::Close { .. }) => {
                assert_eq!(used, buffer.len());
                return Talked::Ended;
            }
            (Frame::Command(end), Reply::Message(message)) => {
                assert_eq!(used, end);
                assert_eq!(Some(message.expose()), model::base64(&buffer[..end - 2]).as_deref());
                self.phase = Phase::Command;
                self.ask_or_end(more, &tag)
            }
            (Frame::Command(end), Reply::Over(answer)) if buffer[..end] == *b"*\r\n" => {
                assert_eq!(used, end);
                assert!(matches!(answer, Answer::Cancelled), "{answer:?}");
                self.phase = Phase::Command;
                self.refuse(&tag, &answer, "BAD", Budget::Nothing)
            }
            (
                Frame::Command(end) | Frame::Bad(end) | Frame::Announced(end),
                Reply::Over(answer),
            ) => {
                assert_eq!(used, end);
                let is_base64 = matches!(frame, Frame::Command(_))
                    && model::base64(&buffer[..end - 2]).is_some();
                assert!(matches!(answer, Answer::Bad(_)) && !is_base64, "{answer:?}");
                self.phase = Phase::Command;
                self.refuse(&tag, &answer, "BAD", Budget::Error)
            }
            (frame, reply) => panic!("{frame:?} was expected, not {reply:?}"),
        };
        if goes_on { Talked::Answered } else { Talked::Ended }
    }

    const fn spend(&mut self, budget: Budget) {
        match budget {
            Budget::Nothing => {}
            Budget::Error => self.errors += 1,
            Budget::Login => self.failed += 1,
        }
    }

    const fn is_over(&self) -> bool {
        self.errors >= ERRORS || self.failed >= TRIES
    }

    fn after_tls(&mut self) {
        self.machine.after_tls();
        self.inbox = Inbox::new();
        self.encryption = Encryption::Active;
        (self.errors, self.failed) = (0, 0);
        self.granted.clear();
    }

    /// Nothing is said or taken after the end.
    fn ended(&mut self) -> bool {
        self.inbox.push(b"x NOOP\r\ny LOGIN a b\r\n");
        assert!(matches!(self.machine.step(&mut self.inbox), Step::Wait), "it goes on");
        false
    }
}

/// A word that is out of place is no noise; which those are is not the model's question.
fn budget_of(word: &[u8]) -> Budget {
    if command::Word::of(word) == command::Word::Later { Budget::Nothing } else { Budget::Error }
}

fn answer(used: usize, tag: &[u8], status: &'static str, budget: Budget) -> Expected {
    Expected::Answer { used, tag: Some(tag.to_vec()), status, budget }
}

fn challenge(used: usize, tag: Vec<u8>, mechanism: Vec<u8>, user: Option<Vec<u8>>) -> Expected {
    let line = match (&mechanism[..], &user) {
        (b"LOGIN", None) => &b"+ VXNlcm5hbWU6\r\n"[..],
        (b"LOGIN", Some(_)) => b"+ UGFzc3dvcmQ6\r\n",
        _ => b"+ \r\n",
    };
    Expected::Challenge {
        used,
        line: line.to_vec(),
        next: Phase::Exchange { tag, mechanism, user },
    }
}

/// What a client's message leads to; `None` is one that is not base64.
fn expect_message(
    used: usize,
    tag: Vec<u8>,
    mechanism: &[u8],
    user: Option<Vec<u8>>,
    message: Option<Vec<u8>>,
) -> Expected {
    let clean = |text: &[u8]| !text.iter().any(|byte| b"\0\r\n".contains(byte));
    let bad = |tag: &[u8]| answer(used, tag, "BAD", Budget::Error);
    let Some(message) = message else { return bad(&tag) };
    if mechanism == b"PLAIN" {
        let parts: Vec<&[u8]> = message.split(|byte| *byte == 0).collect();
        let [authzid, user, password] = parts[..] else { return bad(&tag) };
        if user.is_empty() || !parts.iter().all(|part| clean(part)) {
            return bad(&tag);
        }
        let authzid = (!authzid.is_empty()).then(|| authzid.to_vec());
        let (user, password) = (user.to_vec(), password.to_vec());
        return Expected::Login { used, tag, authzid, user, password };
    }
    if mechanism != b"LOGIN" {
        return match model::opening(mechanism, &message) {
            Opened::Bad => bad(&tag),
            Opened::ByToken => Expected::Challenge {
                used,
                line: b"+ eyJzdGF0dXMiOiJpbnZhbGlkX3JlcXVlc3QifQ==\r\n".to_vec(),
                next: Phase::Refused { tag },
            },
            Opened::Named { authzid, user } => {
                let mechanism = mechanism.to_vec();
                Expected::Opening { used, tag, authzid, user, mechanism, message }
            }
        };
    }
    match user {
        _ if !clean(&message) => bad(&tag),
        None if message.is_empty() => bad(&tag),
        None => challenge(used, tag, mechanism.to_vec(), Some(message)),
        Some(user) => Expected::Login { used, tag, authzid: None, user, password: message },
    }
}

/// The tagged lines, BYE and untagged BAD of a reply, which must be whole lines.
fn status_lines(reply: &[u8]) -> Vec<(Option<Vec<u8>>, String)> {
    let text = reply.strip_suffix(b"\r\n").expect("a reply ends its line");
    let lines = text.split(|byte| *byte == b'\n');
    let mut found = Vec::new();
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.contains(&b'\r'), "a bare CR in {line:?}");
        let mut words = line.split(|byte| *byte == b' ');
        let tag = words.next().unwrap_or_default();
        let status = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
        match tag {
            b"*" if status == "BYE" || status == "BAD" => found.push((None, status)),
            b"*" => {}
            tag => found.push((Some(tag.to_vec()), status)),
        }
    }
    found
}
