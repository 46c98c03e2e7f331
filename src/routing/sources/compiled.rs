//! A compiled users map as a source: a page that is not in memory must hold up no session, so
//! lookups run on threads of their own, a bounded number.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config::{BreakerPolicy, CachePolicy, LookupGuard, OnFailure};
use crate::metrics::LookupSource;
use crate::routing::maps::MapFile;
use crate::routing::query::{
    FailureReason, Found, Pending, Query, RemoteSource, SourceFailure, SourceResult,
};

/// Threads that one map may hold at a time, also those that a hanging disk does not give back.
const THREADS: usize = 16;

/// Lookups in one map.
#[derive(Debug)]
pub(in super::super) struct CompiledUsers {
    file: Arc<MapFile>,
    threads: Arc<Semaphore>,
}

impl CompiledUsers {
    pub(in super::super) fn new(file: Arc<MapFile>) -> Self {
        Self { file, threads: Arc::new(Semaphore::new(THREADS)) }
    }

    /// What guards it: nothing is cached, since the map itself is as fast, and a new
    /// generation holds at once.
    pub(in super::super) const fn guard() -> LookupGuard {
        LookupGuard {
            timeout: Duration::from_secs(2),
            in_flight: 4 * THREADS,
            on_failure: OnFailure::Unavailable,
            cache: CachePolicy {
                found: Duration::ZERO,
                miss: Duration::ZERO,
                stale: Duration::ZERO,
                entries: 0,
            },
            breaker: BreakerPolicy { failures: 5, open: Duration::from_secs(1) },
        }
    }

    async fn ask(&self, query: &Query<'_>) -> SourceResult {
        let stopped = |why: &str| SourceFailure::new(FailureReason::Stopped, why);
        let threads = Arc::clone(&self.threads).acquire_owned();
        let thread = threads.await.map_err(|_| stopped("the map is closed"))?;
        let (file, user) = (Arc::clone(&self.file), query.user.clone());
        let looked_up = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            file.lookup(user.as_str())
        });
        match looked_up.await {
            Ok(Ok(shard)) => Ok(shard.map(Found::on)),
            Ok(Err(detail)) => Err(SourceFailure::new(FailureReason::Protocol, detail)),
            Err(_) => Err(stopped("the thread of a lookup ended")),
        }
    }
}

impl RemoteSource for CompiledUsers {
    fn label(&self) -> LookupSource {
        LookupSource::Users
    }

    fn lookup<'a>(&'a self, query: &'a Query<'a>) -> Pending<'a> {
        Box::pin(self.ask(query))
    }
}
