//! The commands of a login, as bytes for the backend.

use super::{
    LITERAL_MINUS_BYTES_MAX, LOGIN_MESSAGE_BYTES_MAX, Login, LoginError, Sent, Step, joined,
};
use crate::config::Pipelining;
use crate::names::Secret;
use crate::protocol::strings;
use crate::sasl::{Mechanism, Proof, plain};

impl Login {
    /// The first bytes: ID and login, in one write where that is allowed.
    pub fn begin(&mut self) -> Result<Step, LoginError> {
        let Some(id) = self.id_command() else { return self.send_login() };
        // SASL-IR in the greeting's own list is the mark of a server that reads ahead;
        // Exchange, which does not, lists nothing in its greeting.
        let together = self.leg.pipelining == Pipelining::Auto
            && self.reads_ahead
            && self.has("SASL-IR")
            && self.lists(self.mechanism());
        if !together {
            return Ok(Step::Send(id));
        }
        match self.send_login()? {
            Step::Send(login) => Ok(Step::Send(joined(&[id.expose(), login.expose()]))),
            other => Ok(other),
        }
    }

    fn id_command(&mut self) -> Option<Secret> {
        if self.plan.id.is_empty() || !self.has("ID") {
            return None;
        }
        let mut fields = Vec::with_capacity(512);
        fields.extend_from_slice(b"ID (");
        for (place, (key, value)) in self.plan.id.iter().enumerate() {
            if place > 0 {
                fields.push(b' ');
            }
            strings::encode_quoted(key, &mut fields);
            fields.push(b' ');
            match value {
                Some(value) => strings::encode_quoted(value, &mut fields),
                None => fields.extend_from_slice(b"NIL"),
            }
        }
        fields.push(b')');
        Some(self.command(Sent::Id, &[&fields]))
    }

    pub(super) fn send_login(&mut self) -> Result<Step, LoginError> {
        match self.plan.proof {
            Proof::Credentials(_) => self.send_password(),
            Proof::Opening(_) => self.send_opening(),
        }
    }

    /// The mechanism that is used where the backend lists it.
    fn mechanism(&self) -> Mechanism {
        match &self.plan.proof {
            Proof::Credentials(_) => Mechanism::Plain,
            Proof::Opening(opening) => opening.mechanism,
        }
    }

    fn lists(&self, mechanism: Mechanism) -> bool {
        self.has(&format!("AUTH={}", mechanism.name()))
    }

    fn lists_channel_binding(&self) -> bool {
        let is_plus = |atom: &[u8]| {
            let plus = atom.len().checked_sub(5).and_then(|at| atom.get(at..)).unwrap_or_default();
            plus.eq_ignore_ascii_case(b"-PLUS")
        };
        self.capabilities.as_ref().is_some_and(|list| list.iter().any(is_plus))
    }

    /// Begins the client's exchange. A message over the usual bound of a command line goes
    /// behind the backend's `+`, where servers take longer ones.
    fn send_opening(&mut self) -> Result<Step, LoginError> {
        let mechanism = self.mechanism();
        if !self.lists(mechanism) {
            return Err(LoginError::NotListed(mechanism));
        }
        if mechanism.is_scram() && self.lists_channel_binding() {
            return Err(LoginError::ChannelBinding);
        }
        let initial = self.has("SASL-IR");
        self.listed.clear();
        let words = format!("AUTHENTICATE {}", mechanism.name());
        let message = self.initial_response();
        if !initial || message.expose().len() > LOGIN_MESSAGE_BYTES_MAX {
            return Ok(self.send_command(Sent::Authenticate, words.as_bytes()));
        }
        let out = self.command(Sent::Exchange, &[words.as_bytes(), b" ", message.expose()]);
        Ok(self.send_secret(out))
    }

    fn send_password(&mut self) -> Result<Step, LoginError> {
        // What is listed before the login says nothing of what is offered after it.
        let plain = self.lists(Mechanism::Plain);
        let initial = self.has("SASL-IR");
        let (minus, plus) = (self.has("LITERAL-"), self.has("LITERAL+"));
        let disabled = self.has("LOGINDISABLED");
        self.listed.clear();
        if plain && initial {
            let response = self.initial_response();
            let out =
                self.command(Sent::AuthenticateAll, &[b"AUTHENTICATE PLAIN ", response.expose()]);
            return Ok(self.send_secret(out));
        }
        if plain {
            return Ok(self.send_command(Sent::Authenticate, b"AUTHENTICATE PLAIN"));
        }
        if disabled || self.plan.needs_authzid {
            return Err(LoginError::NoMechanism);
        }
        let user = self.plan.proof.user().to_vec();
        let password = Secret::new(self.password().to_vec());
        let longest = user.len().max(password.expose().len());
        if plus || (minus && longest <= LITERAL_MINUS_BYTES_MAX) {
            let user_head = format!("LOGIN {{{}+}}\r\n", user.len());
            let password_head = format!(" {{{}+}}\r\n", password.expose().len());
            let words: [&[u8]; 4] =
                [user_head.as_bytes(), &user, password_head.as_bytes(), password.expose()];
            let out = self.command(Sent::LoginAll, &words);
            return Ok(self.send_secret(out));
        }
        let words = format!("LOGIN {{{}}}", user.len());
        Ok(self.send_command(Sent::LoginUser, words.as_bytes()))
    }

    /// The password; empty where there is none.
    pub(super) fn password(&self) -> &[u8] {
        match &self.plan.proof {
            Proof::Credentials(credentials) => credentials.password.expose(),
            Proof::Opening(_) => b"",
        }
    }

    /// The first message in base64: as an initial response or a line.
    pub(super) fn initial_response(&self) -> Secret {
        match &self.plan.proof {
            Proof::Credentials(credentials) => plain::message_base64(credentials),
            Proof::Opening(opening) => strings::encode_base64_secret(&opening.message),
        }
    }

    pub(super) fn send_secret(&mut self, out: Secret) -> Step {
        self.credentials_sent = true;
        Step::Send(out)
    }

    pub(super) fn send_command(&mut self, sent: Sent, words: &[u8]) -> Step {
        Step::Send(self.command(sent, &[words]))
    }

    /// A whole command with the proxy's next tag.
    fn command(&mut self, sent: Sent, words: &[&[u8]]) -> Secret {
        let number = self.next_tag;
        self.next_tag += 1;
        self.sent.push_back((number, sent));
        let tag = self.tag(number);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(words.len() + 3);
        parts.extend([tag.as_bytes(), b" "]);
        parts.extend(words);
        parts.push(b"\r\n");
        joined(&parts)
    }

    pub(super) fn has(&self, capability: &str) -> bool {
        self.capabilities.as_ref().is_some_and(|list| list.has(capability))
    }

    pub(super) fn tag(&self, number: u32) -> String {
        self.leg.tag(number)
    }
}
