//! The client's part in a login under way, where the backend asks it something.

use tokio::time::Instant;

use crate::names::Secret;
use crate::proxy::front::Front;
use crate::proxy::link::{Link, part};
use crate::proxy::orders::CloseReason;
use crate::session::answer::Answer;
use crate::session::prelogin::{PreLogin, Reply, encode_challenge};

/// What the client says to a challenge.
#[derive(Debug)]
pub(super) enum Said {
    /// A message, base64 taken off.
    Message(Secret),
    /// It gave up or broke the rules: what it is told when the backend knows.
    Over(Answer),
    /// Nothing: its connection is over.
    Gone,
}

/// The client, who waits for its login.
pub(super) struct Dialogue<'d, 'f> {
    front: &'d mut Front<'f>,
    link: &'d mut Link,
    prelogin: &'d mut PreLogin,
    asked: bool,
    closed: Option<CloseReason>,
}

impl<'d, 'f> Dialogue<'d, 'f> {
    /// A client that waits since [`Front::hold`] was called.
    pub(super) fn new(
        front: &'d mut Front<'f>,
        link: &'d mut Link,
        prelogin: &'d mut PreLogin,
    ) -> Self {
        Self { front, link, prelogin, asked: false, closed: None }
    }

    /// Passes a challenge on and waits for the answer; meanwhile the client's own deadline
    /// runs, and it counts as one that is not logged in.
    pub(super) async fn ask(&mut self, challenge: &Secret) -> Said {
        self.asked = true;
        self.front.release();
        let said = self.converse(challenge).await;
        self.front.hold(Instant::now());
        said.unwrap_or_else(|reason| {
            self.closed = Some(reason);
            Said::Gone
        })
    }

    /// Whether the client was asked anything: then its first message alone is worth nothing.
    pub(super) const fn has_asked(&self) -> bool {
        self.asked
    }

    /// Why the connection is over, where it is.
    pub(super) const fn closed(&self) -> Option<CloseReason> {
        self.closed
    }

    async fn converse(&mut self, challenge: &Secret) -> Result<Said, CloseReason> {
        let line = encode_challenge(challenge);
        self.front.write(&mut self.link.stream, line.expose()).await?;
        loop {
            match self.prelogin.reply(&mut self.link.inbox) {
                Reply::Read => self.front.read(self.link).await?,
                Reply::Message(message) => return Ok(Said::Message(message)),
                Reply::Over(answer) => return Ok(Said::Over(answer)),
                Reply::Close { text, reason } => {
                    self.front.tally(self.prelogin);
                    let bye = format!("* BYE {text}\r\n");
                    self.front.write(&mut self.link.stream, bye.as_bytes()).await?;
                    return Err(part(&mut self.link.stream, reason.into()).await);
                }
            }
        }
    }
}
