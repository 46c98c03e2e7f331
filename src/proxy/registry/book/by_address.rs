//! A user's sessions by the client's address.

use std::collections::HashMap;
use std::net::IpAddr;

/// How many sessions each user has from each address. Rows are as many as there are sessions
/// at most.
#[derive(Debug, Default)]
pub(super) struct ByAddress(HashMap<(usize, IpAddr), FromAddress>);

/// A user's sessions from one address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FromAddress {
    pub(super) all: u32,
    /// Whose logins are not decided yet.
    pub(super) unproven: u32,
}

impl ByAddress {
    /// The counts of that entry and address; 0 where it has no session.
    pub(super) fn of(&self, entry: usize, address: IpAddr) -> FromAddress {
        self.0.get(&(entry, address)).copied().unwrap_or_default()
    }

    /// A login began.
    pub(super) fn entered(&mut self, entry: usize, address: IpAddr) {
        let count = self.0.entry((entry, address)).or_default();
        count.all += 1;
        count.unproven += 1;
    }

    /// A login was taken by the backend.
    pub(super) fn proved(&mut self, entry: usize, address: IpAddr) {
        if let Some(count) = self.0.get_mut(&(entry, address)) {
            count.unproven -= 1;
        }
    }

    /// A session is gone.
    pub(super) fn left(&mut self, entry: usize, address: IpAddr, proven: bool) {
        if let Some(count) = self.0.get_mut(&(entry, address)) {
            count.all -= 1;
            count.unproven -= u32::from(!proven);
            if count.all == 0 {
                self.0.remove(&(entry, address));
            }
        }
    }
}
