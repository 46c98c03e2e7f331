//! What happens on one listener: its sessions and their logins.

use std::array;
use std::fmt;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result};

use super::catalogue::Handles;
use super::families::Families;
use super::labels::{LoginMechanism, LoginResult};
use super::series::{Life, Series, SessionGauge};

/// The families that every listener shares.
#[derive(Clone)]
pub(super) struct ListenerFamilies {
    sessions: IntGaugeVec,
    logins: IntCounterVec,
}

impl ListenerFamilies {
    pub(super) fn register(families: &Families<'_>) -> Result<Self> {
        Ok(Self {
            sessions: families.gauges(
                "pointsman_client_sessions",
                "Client connections, before and after login.",
                &["listener"],
            )?,
            logins: families.counters(
                "pointsman_logins_total",
                "Login attempts that ended, by result.",
                &["listener", "mechanism", "result"],
            )?,
        })
    }
}

/// One listener's series. When it leaves the configuration they stay until its last
/// session has ended.
pub struct ListenerHandles {
    name: String,
    families: ListenerFamilies,
    life: Life,
    sessions: IntGauge,
    logins: [[Series<IntCounter>; LoginResult::COUNT]; LoginMechanism::COUNT],
}

impl ListenerHandles {
    pub(super) fn new(name: &str, families: &ListenerFamilies) -> Self {
        let handles = Self {
            name: name.to_owned(),
            families: families.clone(),
            life: Life::new(),
            sessions: families.sessions.with_label_values(&[name]),
            logins: array::from_fn(|_| array::from_fn(|_| Series::unborn())),
        };
        // What alerts compare is there from the start, else `rate()` misses the first one.
        for mechanism in [LoginMechanism::Login, LoginMechanism::Plain] {
            for result in [LoginResult::Ok, LoginResult::AuthFailed, LoginResult::Unavailable] {
                let _ = handles.counter(mechanism, result);
            }
        }
        handles
    }

    /// The listener's configured name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a client connection until the guard is dropped.
    pub fn session(&self) -> SessionGauge {
        SessionGauge::enter(&self.sessions)
    }

    /// One login attempt ended. Several may end on one connection.
    pub fn login(&self, mechanism: LoginMechanism, result: LoginResult) {
        if let Some(counter) = self.counter(mechanism, result) {
            counter.inc();
        }
    }

    fn counter(&self, mechanism: LoginMechanism, result: LoginResult) -> Option<&IntCounter> {
        let series = self.logins.get(mechanism.index())?.get(result.index())?;
        let labels = [self.name.as_str(), mechanism.label(), result.label()];
        series.born(&self.life, || self.families.logins.with_label_values(&labels))
    }
}

impl fmt::Debug for ListenerHandles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerHandles").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Handles for ListenerHandles {
    fn busy(&self) -> bool {
        self.sessions.get() > 0
    }

    fn end(&self) {
        self.life.end(|| {
            let name = self.name.as_str();
            // Removing a series that was never born is an error without meaning here.
            let _ = self.families.sessions.remove_label_values(&[name]);
            for mechanism in LoginMechanism::ALL {
                for result in LoginResult::ALL {
                    let labels = [name, mechanism.label(), result.label()];
                    let _ = self.families.logins.remove_label_values(&labels);
                }
            }
        });
    }
}
