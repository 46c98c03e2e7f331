//! The workloads. Each drives one proxy once and gives its samples.

pub(crate) mod commands;
pub(crate) mod idle;
pub(crate) mod login;
pub(crate) mod transfer;

use std::time::Duration;

use tokio::time::Instant;

use crate::client::Door;
use crate::process::CpuTime;
use crate::proxies::{Proxy, Site};
use crate::wire::Security;

/// How much of everything is done in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amounts {
    /// Logins in clear text; a third of it with TLS.
    pub(crate) logins: usize,
    /// Commands one after the other; six times as many pipelined.
    pub(crate) commands: usize,
    /// Commands and answers cut in two.
    pub(crate) split_commands: usize,
    /// Mails of 1 MiB, and 4 times as many of 64 KiB.
    pub(crate) mails: usize,
    /// Logins and mails one at a time, for their latency.
    pub(crate) alone: usize,
    /// Sessions in IDLE.
    pub(crate) sessions: usize,
    /// Wake-ups.
    pub(crate) wakes: usize,
    /// After this long a measurement does no more, and divides by what it has done.
    pub(crate) longest: Duration,
    /// Wait before memory is read, so that allocators give back what they mean to.
    pub(crate) settle: Duration,
}

/// One measurement's subject.
pub(crate) struct Subject<'a> {
    /// What all share.
    pub(crate) site: &'a Site,
    /// The proxy driven.
    pub(crate) proxy: &'a Proxy,
    /// How the clients connect.
    pub(crate) security: Security,
    /// How much.
    pub(crate) amounts: Amounts,
}

impl Subject<'_> {
    /// The way in.
    pub(crate) fn door(&self) -> crate::error::Result<Door> {
        self.proxy.door(self.security, &self.site.identity)
    }

    /// `verb, clear` or `verb, TLS`.
    pub(crate) fn named(&self, verb: &str) -> String {
        format!("{verb}, {}", self.security.label())
    }

    /// When a measurement that begins now has lasted long enough.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.amounts.longest
    }

    /// Starts the clocks.
    pub(crate) fn meter(&self) -> Meter<'_> {
        Meter { proxy: self.proxy, cpu: self.cpu(), started: Instant::now() }
    }

    fn cpu(&self) -> Option<CpuTime> {
        self.proxy.tree.as_ref().map(crate::process::Tree::cpu)
    }
}

/// Wall-clock time and the proxy's CPU time since it was made.
pub(crate) struct Meter<'a> {
    proxy: &'a Proxy,
    cpu: Option<CpuTime>,
    started: Instant,
}

impl Meter<'_> {
    /// Elapsed time, and CPU time where there is a proxy.
    pub(crate) fn stop(&self) -> (Duration, Option<Duration>) {
        let elapsed = self.started.elapsed();
        let now = self.proxy.tree.as_ref().map(crate::process::Tree::cpu);
        (elapsed, now.zip(self.cpu).map(|(now, then)| now.since(then)))
    }
}
