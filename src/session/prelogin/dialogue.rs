//! The client's messages in an exchange that a backend finishes.

use super::{Inbox, Phase, PreLogin};
use crate::names::Secret;
use crate::protocol::framer::FrameError;
use crate::protocol::strings;
use crate::sasl::{self, Mechanism, SaslError};
use crate::session::answer::Answer;
use crate::session::prelogin::CloseReason;

/// What a client says to a challenge.
#[derive(Debug)]
pub enum Reply {
    /// Nothing yet: read more bytes into the inbox.
    Read,
    /// A message, base64 taken off; may be empty.
    Message(Secret),
    /// No message: the exchange is over, and this is the answer for
    /// [`PreLogin::login_failed`].
    Over(Answer),
    /// No message, and the connection must be closed: say BYE with this text.
    Close {
        /// The text.
        text: &'static str,
        /// Why.
        reason: CloseReason,
    },
}

/// The line for a challenge of the backend (RFC 9051 section 6.2.2).
pub fn encode_challenge(challenge: &Secret) -> Secret {
    let text = strings::encode_base64_secret(challenge);
    Secret::new([b"+ ", text.expose(), b"\r\n"].concat())
}

impl PreLogin {
    /// The client's next line within the exchange of the last [`super::Step::Login`]. Uses up at
    /// most that line: what is pipelined behind it stays in the inbox.
    pub fn reply(&mut self, inbox: &mut Inbox) -> Reply {
        let Phase::LoggingIn { exchange: Some(mechanism), .. } = self.phase else {
            return Reply::Over(Answer::Bad("Nothing was asked."));
        };
        match self.next_reply(inbox, mechanism) {
            Ok(None) => Reply::Read,
            Ok(Some(message)) => Reply::Message(message),
            Err(reply) => reply,
        }
    }

    fn next_reply(
        &mut self,
        inbox: &mut Inbox,
        mechanism: Mechanism,
    ) -> Result<Option<Secret>, Reply> {
        let line = self.framer.next_line(inbox.unread(), mechanism.line_bytes_max());
        let Some(end) = line.map_err(|error| self.on_broken_line(error, inbox))? else {
            return Ok(None);
        };
        let line = inbox.unread().get(..end.saturating_sub(2)).unwrap_or_default();
        let message = sasl::decode_line(line);
        inbox.consume(end);
        message.map(Some).map_err(|error| {
            Reply::Over(match error {
                SaslError::Cancelled => Answer::Cancelled,
                _ => Answer::Bad("Invalid base64."),
            })
        })
    }

    fn on_broken_line(&mut self, error: FrameError, inbox: &mut Inbox) -> Reply {
        self.tally.over = error.bound();
        inbox.consume(error.resume_at().unwrap_or(usize::MAX));
        match error {
            FrameError::BareLineEnd { .. } | FrameError::LiteralTooBig { .. } => {
                Reply::Over(Answer::Bad("Lines end in CRLF."))
            }
            FrameError::LiteralInFlight { .. } => {
                Reply::Close { text: "Literal too big.", reason: CloseReason::LiteralTooBig }
            }
            FrameError::TooLong { .. } => {
                Reply::Close { text: "Line too long.", reason: CloseReason::TooLong }
            }
        }
    }
}
