//! Connections to a directory: few, used by one lookup at a time, made when they are needed.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::config::Connections;
use crate::routing::query::{FailureReason, Query, SourceFailure, SourceResult};

/// A connection that was not used for so long is closed: many networks forget it soon after.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// What is at the other end.
pub(super) trait Directory: fmt::Debug + Send + Sync + 'static {
    /// A connection, signed in. Dropping it closes it, whatever it is doing.
    type Connection: Send;

    /// A new connection, within the connections' timeout for each server that is tried.
    fn dial(&self) -> impl Future<Output = Result<Self::Connection, SourceFailure>> + Send;

    /// Asks once.
    fn ask(
        &self,
        connection: &mut Self::Connection,
        query: &Query<'_>,
    ) -> impl Future<Output = SourceResult> + Send;

    /// How many new connections one lookup may try: as many as there are servers.
    fn tries(&self) -> usize {
        1
    }

    /// Whether the connection can be asked again after an answer.
    fn is_sound(_connection: &Self::Connection) -> bool {
        true
    }
}

/// Connections to one directory. One whose lookup was given up, or failed for a reason that
/// is not the answer's, is closed: what comes over it later would answer another question.
pub(super) struct Pool<D: Directory> {
    directory: D,
    places: Semaphore,
    idle: Mutex<Vec<Idle<D::Connection>>>,
}

struct Idle<C> {
    connection: C,
    since: Instant,
}

impl<D: Directory> Pool<D> {
    /// Connects nothing yet.
    pub(super) fn new(directory: D, limits: Connections) -> Self {
        let places = Semaphore::new(limits.most);
        Self { directory, places, idle: Mutex::default() }
    }

    /// Asks over a connection that waits, or over a new one. When the connection that waited
    /// turns out to be dead, so are the others, and a new one is asked.
    pub(super) async fn ask(&self, query: &Query<'_>) -> SourceResult {
        let Ok(_place) = self.places.acquire().await else {
            return Err(SourceFailure::new(FailureReason::Stopped, "the pool is closed"));
        };
        let given_up = GivenUp(self);
        let result = self.ask_some(query).await;
        std::mem::forget(given_up);
        result
    }

    async fn ask_some(&self, query: &Query<'_>) -> SourceResult {
        if let Some(mut connection) = self.take_idle() {
            let result = self.directory.ask(&mut connection, query).await;
            if !is_cut_off(&result) {
                return self.keep(connection, result);
            }
            self.idle().clear();
        }
        let mut left = self.directory.tries();
        loop {
            let mut connection = self.directory.dial().await?;
            let result = self.directory.ask(&mut connection, query).await;
            left = left.saturating_sub(1);
            if left == 0 || !is_cut_off(&result) {
                return self.keep(connection, result);
            }
        }
    }

    fn keep(&self, connection: D::Connection, result: SourceResult) -> SourceResult {
        let sound = match &result {
            Ok(_) => true,
            Err(failure) => failure.reason.is_about_the_user(),
        };
        if sound && D::is_sound(&connection) {
            self.idle().push(Idle { connection, since: Instant::now() });
        }
        result
    }

    fn take_idle(&self) -> Option<D::Connection> {
        let now = Instant::now();
        let mut idle = self.idle();
        // The last one is the youngest.
        idle.retain(|idle| now - idle.since < IDLE_MAX);
        idle.pop().map(|idle| idle.connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle<D::Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup whose time was over: the server hangs, and with it the connections that wait.
struct GivenUp<'p, D: Directory>(&'p Pool<D>);

impl<D: Directory> Drop for GivenUp<'_, D> {
    fn drop(&mut self) {
        self.0.idle().clear();
    }
}

/// The outcome of a dial, for which there is so much time.
pub(super) async fn within<C>(
    time: Duration,
    dial: impl Future<Output = Result<C, SourceFailure>>,
) -> Result<C, SourceFailure> {
    timeout(time, dial).await.unwrap_or_else(|_| {
        let detail = format!("no connection within {time:?}");
        Err(SourceFailure::new(FailureReason::Connect, detail))
    })
}

fn is_cut_off(result: &SourceResult) -> bool {
    matches!(result, Err(failure) if failure.reason == FailureReason::Connect)
}

impl<D: Directory> fmt::Debug for Pool<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("directory", &self.directory).finish_non_exhaustive()
    }
}
