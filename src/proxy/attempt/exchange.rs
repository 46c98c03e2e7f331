//! The login at the backend, with the client where the two of them finish an exchange.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::metrics::Stage;
use crate::names::UserName;
use crate::proxy::attempt::admission::Admitted;
use crate::proxy::attempt::{Attempt, Failure, Success, failure_of, rejected};
use crate::proxy::dialogue::{Dialogue, Said};
use crate::proxy::reaper::Leaving;
use crate::proxy::registry::{Live, ReserveError};
use crate::sasl::{Proof, echo};
use crate::session::answer::Answer;
use crate::upstream::backends::Backend;
use crate::upstream::capacity::Pass;
use crate::upstream::dial::{Challenged, DialError, Joined, Lost, Opened, Turn};
use crate::upstream::login::{LoginError, Rejection};

/// A login on its way from the connection to the backend's word.
#[derive(Debug)]
pub(super) struct Dialled {
    /// The connection.
    pub(super) opened: Opened,
    /// The session's row.
    pub(super) live: Live,
    /// Its part of the backend's capacity.
    pub(super) admitted: Admitted,
}

impl Attempt<'_> {
    /// Has the login decided at the backend that was opened.
    pub(super) async fn finish(
        &self,
        dialled: Dialled,
        backend: &Arc<Backend>,
        dialogue: &mut Dialogue<'_, '_>,
    ) -> Result<Success, Failure> {
        let Dialled { opened, live, admitted: Admitted { seat, pass } } = dialled;
        let warm = opened.connect.is_none();
        let led = lead(opened, pass, self.proof, dialogue).await;
        if warm {
            note_warm(backend, &led);
        }
        match led {
            Ok(joined) => {
                fail_on_purpose(&self.identity.user);
                self.shared.metrics.logins.stage(Stage::Auth, joined.auth);
                let user_max = self.limits.limits.sessions_per_user;
                if !live.proved(user_max) {
                    // Others of the user, from elsewhere, were taken while this was on its way.
                    let unseen = live.end_unseen();
                    self.leave(Leaving { socket: joined.stream.into_tcp(), unseen }, backend);
                    let error = ReserveError::UserLimit { max: user_max };
                    return Err(self.over_limit(error));
                }
                Ok(Success {
                    user: self.identity.user.clone(),
                    live,
                    backend: Arc::clone(backend),
                    stream: joined.stream,
                    leftover: joined.leftover,
                    answer: joined.answer,
                    seat,
                    route_pending: false,
                })
            }
            Err(Stop::Refused(rejection)) => {
                live.rejected();
                // Perhaps the user lives elsewhere by now.
                self.snapshot.table.doubt(&self.identity.user);
                tracing::debug!(
                    session = %self.client.session,
                    backend = %backend.name(),
                    text = loggable(self.proof, &rejection.text),
                    "the backend refused the login"
                );
                Err(rejected(rejection, backend.name()))
            }
            // The credentials may have been used: no second try. A backend that did not
            // close may have the session still; of one that did, nothing is left. What one
            // client's credentials did to its connection says nothing of the others', so
            // it is no outage: they decide themselves how the backend does.
            Err(Stop::Backend(Lost { error, socket })) => {
                self.cut_off(live, backend, &error, socket);
                Err(failure_of(error, backend.name()))
            }
            Err(Stop::Client(answer, told)) => {
                match told {
                    Some(Lost { error, socket }) if !error.is_refusal() => {
                        self.cut_off(live, backend, &error, socket);
                    }
                    _ => live.rejected(),
                }
                Err(Failure::new(answer, "client_gave_up"))
            }
        }
    }

    /// The login was given up without the backend's word.
    fn cut_off(&self, live: Live, backend: &Arc<Backend>, error: &DialError, socket: TcpStream) {
        if error.is_end() {
            live.rejected();
        } else {
            let unseen = live.end_unseen();
            // A connection that the system gave up shows no end any more, and who breaks the
            // protocol is not read on.
            if matches!(error, DialError::Timeout) {
                self.leave(Leaving { socket, unseen }, backend);
            }
        }
        self.count_failure(backend, error);
    }

    /// Has the backend's end waited for, where there is a place for its connection: the
    /// client keeps its own and may try again meanwhile.
    fn leave(&self, leaving: Leaving, backend: &Arc<Backend>) {
        let Ok(mut permit) = self.shared.descriptors.acquire() else { return };
        if permit.upgrade().is_ok() {
            self.client.reaper.watch(leaving, (permit, Arc::clone(backend)));
        }
    }
}

/// On a connection that was made ahead the answer is the backend's first sign of life. Where
/// there is none, those that were made with it may be as dead: they are given up, and the next
/// login's own connection shows how the backend does.
fn note_warm(backend: &Backend, led: &Result<Joined, Stop>) {
    match led {
        Ok(_) | Err(Stop::Refused(_)) => backend.note_success(Instant::now()),
        Err(Stop::Backend(_)) => {
            if let Some(pool) = backend.warm() {
                pool.distrust();
            }
        }
        Err(Stop::Client(..)) => {}
    }
}

/// A backend's words, unless they quote what the client sent.
fn loggable<'t>(proof: &Proof, text: &'t str) -> &'t str {
    if echo::repeats(proof, text) { "(withheld: it repeats the credentials)" } else { text }
}

/// A debug build panics at the login of the user that `POINTSMAN_FAULT_USER` names: so a
/// test sees that a fault ends one session and nothing else.
fn fail_on_purpose(user: &UserName) {
    if cfg!(debug_assertions) {
        let chosen = std::env::var("POINTSMAN_FAULT_USER");
        assert_ne!(chosen.as_deref(), Ok(user.as_str()), "asked for by the environment");
    }
}

/// Why a backend did not take a login.
#[derive(Debug)]
enum Stop {
    /// Its own word.
    Refused(Rejection),
    /// No word of it, or none that decides.
    Backend(Lost),
    /// The client's doing: what it is told, and how the backend took it where it was told.
    Client(Answer, Option<Lost>),
}

impl From<Box<Lost>> for Stop {
    fn from(lost: Box<Lost>) -> Self {
        match *lost {
            Lost { error: DialError::Login(LoginError::Rejected(rejection)), .. } => {
                Self::Refused(rejection)
            }
            lost => Self::Backend(lost),
        }
    }
}

/// Sends the credentials or the first message and leads what follows to its end. The backend
/// and the client have the word in turn: nobody is asked twice, and no message goes out twice.
async fn lead(
    opened: Opened,
    pass: Pass,
    proof: &Proof,
    dialogue: &mut Dialogue<'_, '_>,
) -> Result<Joined, Stop> {
    let mut turn = opened.log_in().await?;
    // While the client is asked the backend is not busy with this login.
    drop(pass);
    let mut number = 0_u32;
    loop {
        let challenged = match turn {
            Turn::Joined(joined) => return Ok(joined),
            Turn::Challenge(challenged) => challenged,
        };
        number += 1;
        let message = match dialogue.ask(&challenged.challenge).await {
            Said::Message(message) => message,
            Said::Over(answer) => return Err(cancel(challenged, proof, answer).await),
            // The backend waits for the client: without it, it has no session.
            Said::Gone if proof.is_token() => {
                return Err(Stop::Client(Answer::AuthenticationFailed, None));
            }
            Said::Gone => return Err(Stop::Client(Answer::Unavailable, None)),
        };
        let allowed = matches!(proof, Proof::Opening(opening) if opening.allows(number, &message));
        if !allowed {
            return Err(cancel(challenged, proof, Answer::Bad("Malformed message.")).await);
        }
        turn = challenged.answer(&message).await?;
    }
}

/// What a server asks about a token is an error: the login has failed then, whatever the client
/// says to it.
async fn cancel(challenged: Box<Challenged>, proof: &Proof, answer: Answer) -> Stop {
    let answer = if proof.is_token() { answer.of_refused() } else { answer };
    Stop::Client(answer, Some(challenged.cancel().await))
}
