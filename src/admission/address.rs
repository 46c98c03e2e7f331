//! How many connections that are not logged in one address may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Limits;
use crate::net::cidr;

/// Counts the connections that are not logged in by address block. It holds one row for each
/// block that has such a connection, so it is bounded by the descriptor cap.
///
/// Permits are taken by the acceptor and given back by the workers, so it is behind a mutex,
/// held for one hash table step.
#[derive(Debug, Default)]
pub struct AddressTable {
    counts: Mutex<HashMap<IpAddr, u32>>,
}

impl AddressTable {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes a place for one more connection, or `None` where the address has as many as
    /// `limits.unauthenticated_per_address` allows. Exempt networks always get one.
    pub fn acquire(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<AddressPermit> {
        if cidr::any_contains(&limits.exempt, address) {
            return Some(AddressPermit { held: None });
        }
        let block = cidr::limit_key(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = counts.get(&block).copied().unwrap_or(0);
        if taken >= limits.unauthenticated_per_address {
            return None;
        }
        counts.insert(block, taken + 1);
        drop(counts);
        Some(AddressPermit { held: Some((Arc::clone(self), block)) })
    }

    /// Address blocks with at least one connection that is not logged in and not exempt.
    pub fn blocks(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn release(&self, block: IpAddr) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&block) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&block);
            }
        }
    }
}

/// A connection's place in the [`AddressTable`]; dropped at login or at the end.
#[derive(Debug)]
#[must_use = "dropping the permit gives the place back"]
pub struct AddressPermit {
    /// `None` for an exempt address.
    held: Option<(Arc<AddressTable>, IpAddr)>,
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Some((table, block)) = self.held.take() {
            table.release(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Network;
    use crate::config::{OnUnavailable, Silence};

    fn limits(max: u32, exempt: Vec<Network>) -> Limits {
        Limits {
            exempt,
            sessions_per_user: 100,
            sessions_per_user_address: 40,
            unauthenticated_per_address: max,
            held_logins: 20_000,
            failed_login_delay: Duration::from_secs(3),
            login_deadline: Duration::from_secs(60),
            tls_handshake: Duration::from_secs(10),
            proxy_header: Duration::from_secs(5),
            idle: None,
            login_tries: 5,
            silence: Silence {
                keepalive: Duration::from_secs(300),
                user_timeout: Duration::from_secs(600),
            },
            syntax_errors: 10,
            on_unavailable: OnUnavailable::No,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn network(text: &str, prefix_bits: u8) -> Network {
        Network { address: ip(text), prefix_bits }
    }

    #[test]
    fn an_address_gets_its_places_back_when_permits_drop() {
        let table = AddressTable::new();
        let limits = limits(2, Vec::new());
        let first = table.acquire(ip("192.0.2.1"), &limits).unwrap();
        let _second = table.acquire(ip("192.0.2.1"), &limits).unwrap();
        assert!(table.acquire(ip("192.0.2.1"), &limits).is_none());
        assert!(table.acquire(ip("192.0.2.2"), &limits).is_some());
        drop(first);
        assert!(table.acquire(ip("192.0.2.1"), &limits).is_some());
    }

    #[test]
    fn no_row_is_left_when_nobody_is_connected() {
        let table = AddressTable::new();
        let limits = limits(2, Vec::new());
        let permits: Vec<_> = (0..100_u8)
            .map(|last| table.acquire(IpAddr::from([192, 0, 2, last]), &limits).unwrap())
            .collect();
        assert_eq!(table.blocks(), 100);
        drop(permits);
        assert_eq!(table.blocks(), 0);
    }

    #[test]
    fn a_whole_ipv6_64_is_one_address_and_a_mapped_ipv4_is_ipv4() {
        let table = AddressTable::new();
        let limits = limits(1, Vec::new());
        let _v6 = table.acquire(ip("2001:db8:1:2::1"), &limits).unwrap();
        assert!(table.acquire(ip("2001:db8:1:2:ffff::9"), &limits).is_none());
        assert!(table.acquire(ip("2001:db8:1:3::1"), &limits).is_some());
        let _v4 = table.acquire(ip("::ffff:192.0.2.1"), &limits).unwrap();
        assert!(table.acquire(ip("192.0.2.1"), &limits).is_none());
        assert!(table.acquire(ip("::ffff:192.0.2.2"), &limits).is_some());
    }

    #[test]
    fn exempt_networks_have_no_limit() {
        let table = AddressTable::new();
        let limits = limits(0, vec![network("127.0.0.0", 8), network("::1", 128)]);
        for address in ["127.9.9.9", "::ffff:127.0.0.1", "::1"] {
            assert!(table.acquire(ip(address), &limits).is_some(), "{address}");
        }
        assert!(table.acquire(ip("128.0.0.1"), &limits).is_none());
        assert!(table.acquire(ip("::2"), &limits).is_none());
    }
}
