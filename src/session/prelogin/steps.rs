//! What the client's side before login asks of its caller, and the answer to each command.

use super::{Encryption, Inbox, Phase, PreLogin, Refused};
use crate::names::Secret;
use crate::protocol::command::{Body, Command, CommandError, IdPair, Tag};
use crate::protocol::strings;
use crate::sasl::{self, Credentials, Exchange, Mechanism, Progress, Proof, SaslError};
use crate::session::answer::Answer;
use crate::session::forwarded::{self, Forwarded};

/// What the caller does next.
#[derive(Debug)]
pub enum Step {
    /// Read more bytes into the inbox.
    Read,
    /// Nothing: a login or handshake is under way, or the connection is closed. Bytes that
    /// come meanwhile may be read into the inbox's room.
    Wait,
    /// Write this.
    Reply(Vec<u8>),
    /// A trusted proxy described its client, who is the client from here on; write this.
    Forwarded {
        /// The answer to the ID.
        reply: Vec<u8>,
        /// The client.
        client: Box<Forwarded>,
    },
    /// Write this, then do the TLS handshake, then call [`PreLogin::after_tls`]. Nothing of
    /// the client was read behind the command.
    StartTls {
        /// The tagged OK.
        reply: Vec<u8>,
    },
    /// Try this login, then answer the client: either through [`PreLogin::login_failed`],
    /// or with the backend's OK, and then what is left in the inbox is the backend's.
    Login(Attempt),
    /// Write this and close.
    Close {
        /// The last words.
        reply: Vec<u8>,
        /// Why.
        reason: CloseReason,
    },
}

/// What is needed to try a login.
#[derive(Debug)]
pub struct Attempt {
    /// The client's tag, for the answer.
    pub tag: Tag,
    /// How it came.
    pub method: LoginMethod,
    /// What came; `None` for a token that names no user, so that no backend can be found. An
    /// `authzid` that differs from the user counts as a master login. With [`Proof::Opening`]
    /// the backend's challenges are answered through [`PreLogin::reply`].
    pub proof: Option<Proof>,
    /// Whether the client had asked CAPABILITY itself; then the list is also answered
    /// untagged.
    pub asked_capability: bool,
}

/// How credentials came, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginMethod {
    /// The LOGIN command.
    Login,
    /// AUTHENTICATE with this mechanism.
    Sasl(Mechanism),
}

impl LoginMethod {
    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Sasl(Mechanism::ScramSha256) => "scram_sha_256",
            Self::Sasl(Mechanism::ScramSha1) => "scram_sha_1",
            Self::Sasl(Mechanism::OAuthBearer) => "oauthbearer",
            Self::Sasl(Mechanism::XOAuth2) => "xoauth2",
            Self::Sasl(Mechanism::Plain) => "plain",
            Self::Sasl(Mechanism::Login) => "sasl_login",
        }
    }
}

/// Why the connection is closed before login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client said LOGOUT.
    Logout,
    /// Bytes were sent behind STARTTLS.
    StartTlsInjection,
    /// The budget of syntax errors is used up.
    SyntaxErrors,
    /// The budget of failed logins is used up.
    LoginTries,
    /// A literal over the bound is on its way.
    LiteralTooBig,
    /// A line or command is over its bound.
    TooLong,
    /// A login could not be tried, and the operator wants BYE for it.
    Unavailable,
}

impl CloseReason {
    /// The metric label.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::StartTlsInjection => "starttls_injection",
            Self::SyntaxErrors => "syntax_errors",
            Self::LoginTries => "login_tries",
            Self::LiteralTooBig => "literal_too_big",
            Self::TooLong => "too_long",
            Self::Unavailable => "unavailable",
        }
    }
}

impl PreLogin {
    pub(super) fn on_command(
        &mut self,
        parsed: Result<Command, CommandError>,
        inbox: &mut Inbox,
    ) -> Step {
        let Command { tag, body } = match parsed {
            Ok(command) => command,
            Err(error) => return self.bad(error.tag(), bad_text(&error), error.counts()),
        };
        match body {
            Body::Capability => self.on_capability(&tag),
            Body::Noop => Step::Reply(line(&tag, " OK NOOP completed.")),
            Body::Logout => self.on_logout(&tag, inbox),
            Body::StartTls => self.on_starttls(&tag, inbox),
            Body::Id(fields) => self.on_id(&tag, fields),
            Body::Login { .. } if self.refuses_clear() => {
                self.refuse_in_clear(&tag, Some(LoginMethod::Login))
            }
            Body::Authenticate { mechanism, .. } if self.refuses_clear() => {
                self.refuse_in_clear(&tag, Mechanism::of(&mechanism).map(LoginMethod::Sasl))
            }
            Body::Login { .. } if !self.takes_passwords() => {
                self.refuse_method(&tag, Some(LoginMethod::Login))
            }
            Body::Login { user, password } => {
                let credentials = Credentials { authzid: None, user, password };
                self.login(tag, LoginMethod::Login, Some(Proof::Credentials(credentials)))
            }
            Body::Authenticate { mechanism, initial } => {
                self.on_authenticate(tag, &mechanism, initial)
            }
            Body::Other { known: true } => self.bad(Some(&tag), "Log in first.", false),
            Body::Other { known: false } => self.bad(Some(&tag), "Unknown command.", true),
        }
    }

    pub(super) fn on_progress(&mut self, tag: Tag, progress: Progress) -> Step {
        match progress {
            Progress::Challenge { text, next } => {
                self.phase = Phase::Exchange { tag, exchange: next };
                Step::Reply(format!("+ {}\r\n", strings::encode_base64(text)).into_bytes())
            }
            Progress::Done(mechanism, credentials) => {
                let proof = Proof::Credentials(credentials);
                self.login(tag, LoginMethod::Sasl(mechanism), Some(proof))
            }
            Progress::Opened(opening) => {
                let method = LoginMethod::Sasl(opening.mechanism);
                self.login(tag, method, Some(Proof::Opening(opening)))
            }
            Progress::Refused(mechanism) => self.login(tag, LoginMethod::Sasl(mechanism), None),
        }
    }

    pub(super) fn on_sasl_error(
        &mut self,
        tag: &Tag,
        mechanism: Mechanism,
        error: SaslError,
    ) -> Step {
        let refused = match error {
            SaslError::Cancelled => Refused::Cancelled,
            SaslError::NotBase64 | SaslError::Malformed(_) | SaslError::ChannelBinding => {
                Refused::Malformed
            }
        };
        self.tally.refused = Some((Some(LoginMethod::Sasl(mechanism)), refused));
        match error {
            SaslError::Cancelled => Step::Reply(self.answer(tag, &Answer::Cancelled)),
            SaslError::NotBase64 => self.bad(Some(tag), "Invalid base64.", true),
            SaslError::Malformed(_) => self.bad(Some(tag), "Malformed message.", true),
            SaslError::ChannelBinding => {
                self.bad(Some(tag), "Channel binding is not offered.", true)
            }
        }
    }

    /// Answers BAD, tagged where a tag is known, and closes when the budget of syntax
    /// errors is used up.
    pub(super) fn bad(&mut self, tag: Option<&Tag>, text: &'static str, counts: bool) -> Step {
        let mut reply = match tag {
            Some(tag) => self.answer(tag, &Answer::Bad(text)),
            None => format!("* BAD {text}\r\n").into_bytes(),
        };
        let over = if counts { self.count_syntax_error(&mut reply) } else { None };
        match over {
            None => Step::Reply(reply),
            Some(reason) => Step::Close { reply, reason },
        }
    }

    /// Refuses a login in clear text; counted, so that a client cannot go on for ever.
    pub(super) fn refuse_in_clear(&mut self, tag: &Tag, method: Option<LoginMethod>) -> Step {
        self.tally.refused = Some((method, Refused::InClear));
        let mut reply = self.answer(tag, &Answer::PrivacyRequired);
        match self.count_failed_login(&mut reply) {
            None => Step::Reply(reply),
            Some(reason) => Step::Close { reply, reason },
        }
    }

    /// Says BYE and drops all that came.
    pub(super) fn close(&mut self, inbox: &mut Inbox, text: &str, reason: CloseReason) -> Step {
        inbox.consume(usize::MAX);
        self.phase = Phase::Closed;
        Step::Close { reply: format!("* BYE {text}\r\n").into_bytes(), reason }
    }

    fn on_capability(&mut self, tag: &Tag) -> Step {
        self.asked_capability = true;
        let mut reply = b"* CAPABILITY ".to_vec();
        self.encode_offer(&mut reply);
        reply.extend_from_slice(b"\r\n");
        reply.extend_from_slice(&line(tag, " OK CAPABILITY completed."));
        Step::Reply(reply)
    }

    fn on_logout(&mut self, tag: &Tag, inbox: &mut Inbox) -> Step {
        inbox.consume(usize::MAX);
        self.phase = Phase::Closed;
        let mut reply = b"* BYE Logging out.\r\n".to_vec();
        reply.extend_from_slice(&line(tag, " OK LOGOUT completed."));
        Step::Close { reply, reason: CloseReason::Logout }
    }

    /// Any byte behind the command was not sent inside TLS, whoever sent it: it must
    /// never be taken for one that was.
    fn on_starttls(&mut self, tag: &Tag, inbox: &mut Inbox) -> Step {
        match self.settings.encryption {
            Encryption::Active => return self.bad(Some(tag), "TLS is active already.", true),
            Encryption::Absent => return self.bad(Some(tag), "TLS is not available.", true),
            Encryption::Offered => {}
        }
        if !inbox.is_empty() {
            inbox.consume(usize::MAX);
            self.phase = Phase::Closed;
            let reply = self.answer(tag, &Answer::Bad("Nothing may follow STARTTLS."));
            return Step::Close { reply, reason: CloseReason::StartTlsInjection };
        }
        self.phase = Phase::Handshake;
        Step::StartTls { reply: line(tag, " OK Begin TLS now.") }
    }

    /// Keeps what may be told to a backend: `x-*` fields are how proxies vouch for a
    /// client, so a client's own are not believed.
    fn on_id(&mut self, tag: &Tag, fields: Option<Vec<IdPair>>) -> Step {
        let mut fields = fields.unwrap_or_default();
        self.trace.add(&fields);
        let first = !std::mem::replace(&mut self.identified, true);
        let forwarded = (self.settings.id_trusted && first).then(|| Forwarded::parse(&fields));
        fields.retain(|(key, _)| !forwarded::is_proxy_field(key));
        self.client_id = fields;
        let mut reply = b"* ID (\"name\" \"Pointsman\")\r\n".to_vec();
        reply.extend_from_slice(&line(tag, " OK ID completed."));
        match forwarded {
            None => Step::Reply(reply),
            Some(Ok(client)) => Step::Forwarded { reply, client: Box::new(client) },
            Some(Err(error)) => {
                self.tally.bad_field = Some(error.field);
                self.bad(Some(tag), "A field about the client cannot be used.", false)
            }
        }
    }

    fn on_authenticate(&mut self, tag: Tag, mechanism: &[u8], initial: Option<Secret>) -> Step {
        let offered = |known: &Mechanism| self.settings.mechanisms.contains(known);
        let known = Mechanism::of(mechanism);
        let Some(mechanism) = known.filter(offered) else {
            return self.refuse_method(&tag, known.map(LoginMethod::Sasl));
        };
        let exchange = Exchange::new(mechanism);
        let Some(text) = initial else {
            return self.on_progress(tag, exchange.open());
        };
        let message = sasl::decode_initial(text.expose());
        match message.and_then(|message| exchange.step(&message)) {
            Ok(progress) => self.on_progress(tag, progress),
            Err(error) => self.on_sasl_error(&tag, mechanism, error),
        }
    }

    /// A code, since a bare NO makes clients ask for the password again. Clients that try
    /// all they know must get as far as LOGIN, so it counts as no error; the deadline bounds it.
    pub(super) fn refuse_method(&mut self, tag: &Tag, method: Option<LoginMethod>) -> Step {
        self.tally.refused = Some((method, Refused::NotOffered));
        let text = match method {
            Some(LoginMethod::Login) => " NO [CANNOT] LOGIN is disabled.",
            Some(LoginMethod::Sasl(_)) | None => " NO [CANNOT] Mechanism not supported.",
        };
        Step::Reply(line(tag, text))
    }

    fn answer(&self, tag: &Tag, answer: &Answer) -> Vec<u8> {
        let mut reply = Vec::new();
        answer.encode(tag, &self.settings.session, &mut reply);
        reply
    }
}

const fn bad_text(error: &CommandError) -> &'static str {
    match error {
        CommandError::NoTag => "No valid tag.",
        CommandError::NoWord { .. } => "No command.",
        CommandError::Arguments { .. } => "Bad arguments.",
    }
}

fn line(tag: &Tag, text: &str) -> Vec<u8> {
    let mut out = tag.as_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
    out
}
