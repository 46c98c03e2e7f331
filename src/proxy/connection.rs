//! One client connection from accept to close: PROXY header, TLS, the conversation
//! before login, then the relay. The choices are the state machine's; here are the
//! sockets, the clocks and the log line.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::admission::{DescriptorPermit, PlacePermit};
use crate::metrics::SessionGauge;
use crate::names::SessionId;
use crate::proxy::accept::Accepted;
use crate::proxy::front::Front;
use crate::proxy::orders::CloseReason;
use crate::proxy::relay::{Parts, Relay};
use crate::proxy::shared::Shared;
use crate::proxy::story::Story;
use crate::proxy::worker::{Place, Worker};
use crate::upstream::backends::Backend;
use crate::upstream::capacity::Seat;

/// A session whose login was taken, ready for the relay.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) parts: Parts,
    pub(super) permit: DescriptorPermit,
    pub(super) place_at_listener: Option<PlacePermit>,
    pub(super) backend_gauge: SessionGauge,
    /// Its place at the backend.
    pub(super) seat: Seat,
    /// Held so that the user's next login can join it after a reload took it out.
    pub(super) backend: Arc<Backend>,
    pub(super) pending_gauge: Option<SessionGauge>,
}

/// Drives a connection to its end.
pub(super) async fn run(accepted: Box<Accepted>, worker: Rc<Worker>, place: Place) {
    let shared = Arc::clone(&worker.shared);
    let running = shared.drain.running();
    let gauge = accepted.listener.metrics.session();
    let session = place.cell.session;
    let listener = &accepted.listener.config.name;
    let mut story = Box::new(Story::new(session, listener, accepted.peer, Instant::now()));
    let _watch = FaultWatch { shared: &shared, session };
    // What comes before the relay lives in a box of its own, so that the task of a
    // sleeping session keeps no room for TLS handshakes and logins.
    let joined = Box::pin(Front::run(*accepted, &worker, &place, &mut story)).await;
    let reason = match joined {
        Ok(joined) => relay(joined, &worker, &place, &mut story).await,
        Err(reason) => reason,
    };
    story.tell(reason, &shared);
    drop((gauge, running));
}

/// Counts a session that a fault of the proxy itself ends. The worker's runtime contains
/// the panic: its other sessions go on, and what this one held is given back by `Drop`.
struct FaultWatch<'a> {
    shared: &'a Shared,
    session: SessionId,
}

impl Drop for FaultWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = CloseReason::Fault.label();
            self.shared.metrics.sessions.closed(reason);
            tracing::error!(session = %self.session, reason, "session ended");
        }
    }
}

/// Relays to the end.
async fn relay(
    joined: Box<Joined>,
    worker: &Worker,
    place: &Place,
    story: &mut Story,
) -> CloseReason {
    let Joined { parts, permit, place_at_listener, backend_gauge, seat, pending_gauge, backend } =
        *joined;
    place.cell.set_logged_in(true);
    let (end, leaving) = Relay::new(parts, Rc::clone(&place.cell)).run().await;
    drop((place_at_listener, backend_gauge, seat, pending_gauge));
    if let Some(leaving) = leaving {
        // The backend is held so that its user, who is bound to it, can still join it.
        worker.reaper.watch(leaving, (permit, backend));
    }
    story.end = Some(end);
    end.reason
}
