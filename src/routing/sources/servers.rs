//! Several servers of one directory, tried in the operator's order; those that failed a
//! moment ago come last.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A server that failed comes behind the others for so long.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// The servers, and when each failed.
#[derive(Debug)]
pub(super) struct Servers<S> {
    servers: Vec<(S, Mutex<Option<Instant>>)>,
}

impl<S> Servers<S> {
    pub(super) fn new(servers: Vec<S>) -> Self {
        Self { servers: servers.into_iter().map(|server| (server, Mutex::default())).collect() }
    }

    pub(super) const fn len(&self) -> usize {
        self.servers.len()
    }

    /// Each once with its place, in the order of this moment: what fails meanwhile changes
    /// nothing.
    pub(super) fn in_order(&self) -> Vec<(usize, &S)> {
        let now = Instant::now();
        let has_failed = |failed: &Mutex<Option<Instant>>| {
            let failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.is_some_and(|failed| now - failed < LEFT_ALONE)
        };
        let mut order: Vec<(bool, usize, &S)> = self
            .servers
            .iter()
            .enumerate()
            .map(|(place, (server, failed))| (has_failed(failed), place, server))
            .collect();
        order.sort_by_key(|(failed, place, _)| (*failed, *place));
        order.into_iter().map(|(_, place, server)| (place, server)).collect()
    }

    /// Work with a server begins: it has failed unless it is said to serve.
    pub(super) fn begin(&self, place: usize) -> Working<'_, S> {
        Working { servers: self, place }
    }

    fn note(&self, place: usize, failed: Option<Instant>) {
        if let Some((_, at)) = self.servers.get(place) {
            *at.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        }
    }
}

/// Work with a server; dropped, also with a lookup whose time is over, it counts as failed.
pub(super) struct Working<'s, S> {
    servers: &'s Servers<S>,
    place: usize,
}

impl<S> Working<'_, S> {
    /// The server did what it is for.
    pub(super) fn serves(self) {
        self.servers.note(self.place, None);
        std::mem::forget(self);
    }
}

impl<S> Drop for Working<'_, S> {
    fn drop(&mut self) {
        self.servers.note(self.place, Some(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(servers: &Servers<&'static str>) -> String {
        servers.in_order().iter().map(|(_, name)| **name).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_failed_comes_last_for_a_while() {
        let servers = Servers::new(vec!["a", "b", "c"]);
        assert_eq!(order(&servers), "a b c");
        drop(servers.begin(0));
        assert_eq!(order(&servers), "b c a");
        drop(servers.begin(1));
        assert_eq!(order(&servers), "c a b");
        servers.begin(0).serves();
        assert_eq!(order(&servers), "a c b");
        let mut tried = 0;
        for (place, _) in servers.in_order() {
            drop(servers.begin(place));
            tried += 1;
        }
        assert_eq!(tried, 3, "none is tried twice because it failed just now");
        tokio::time::advance(LEFT_ALONE).await;
        assert_eq!(order(&servers), "a b c");
    }
}
