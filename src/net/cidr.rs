//! Networks and addresses: membership, one form per address, the key for limits.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::Network;

/// Bits of an IPv6 address that belong to one subscriber; the rest is theirs to vary.
const IPV6_SUBSCRIBER_BITS: u32 = 64;

/// One form per address: an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`, what a
/// dual-stack listener sees of an IPv4 client) becomes the IPv4 address.
pub fn normalise(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// [`normalise`] for an address with its port.
pub fn normalise_socket(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(normalise(address.ip()), address.port())
}

/// Whether `network` holds `address`. Both are normalised first, so that `10.0.0.0/8`
/// holds `::ffff:10.1.2.3`, and `::ffff:10.0.0.0/104` means `10.0.0.0/8`. An IPv4
/// address lies in no other IPv6 network (not even in `::/0`), and the reverse.
pub fn contains(network: &Network, address: IpAddr) -> bool {
    let (base, prefix_bits) = canonical_network(network);
    match (base, normalise(address)) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            same_prefix(u32::from(base).into(), u32::from(address).into(), 32, prefix_bits)
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            same_prefix(u128::from(base), u128::from(address), 128, prefix_bits)
        }
        _ => false,
    }
}

/// Whether one of `networks` holds `address`.
pub fn any_contains(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| contains(network, address))
}

/// What limits per address count by: the IPv4 address, or the /64 of an IPv6 address.
pub fn limit_key(address: IpAddr) -> IpAddr {
    match normalise(address) {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - IPV6_SUBSCRIBER_BITS);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

/// An IPv4-mapped network as the IPv4 network that it is.
fn canonical_network(network: &Network) -> (IpAddr, u32) {
    let prefix_bits = u32::from(network.prefix_bits);
    match (network.address, normalise(network.address)) {
        (IpAddr::V6(_), mapped @ IpAddr::V4(_)) if prefix_bits >= 96 => (mapped, prefix_bits - 96),
        (address, _) => (address, prefix_bits),
    }
}

fn same_prefix(left: u128, right: u128, width_bits: u32, prefix_bits: u32) -> bool {
    let host_bits = width_bits.saturating_sub(prefix_bits);
    // A shift by the whole width is no shift that the machine knows: prefix 0 of IPv6.
    (left ^ right).checked_shr(host_bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(address: &str, prefix_bits: u8) -> Network {
        Network { address: address.parse().unwrap(), prefix_bits }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_mapped_client_is_in_the_ipv4_network() {
        assert!(contains(&network("10.0.0.0", 8), ip("::ffff:10.1.2.3")));
        assert!(!contains(&network("10.0.0.0", 8), ip("::ffff:11.1.2.3")));
        assert!(contains(&network("::ffff:10.0.0.0", 104), ip("10.9.9.9")));
    }

    #[test]
    fn the_empty_prefix_holds_all_of_its_family_only() {
        assert!(contains(&network("0.0.0.0", 0), ip("203.0.113.9")));
        assert!(contains(&network("::", 0), ip("2001:db8::1")));
        assert!(!contains(&network("::", 0), ip("203.0.113.9")));
        assert!(!contains(&network("0.0.0.0", 0), ip("2001:db8::1")));
    }

    #[test]
    fn a_full_prefix_holds_one_address() {
        assert!(contains(&network("::1", 128), ip("::1")));
        assert!(!contains(&network("::1", 128), ip("::2")));
        assert!(!contains(&network("192.0.2.1", 32), ip("192.0.2.0")));
    }

    #[test]
    fn limits_count_ipv6_by_its_64() {
        assert_eq!(limit_key(ip("2001:db8:1:2:3:4:5:6")), ip("2001:db8:1:2::"));
        assert_eq!(limit_key(ip("::ffff:192.0.2.7")), ip("192.0.2.7"));
        assert_ne!(limit_key(ip("192.0.2.7")), limit_key(ip("192.0.2.8")));
    }

    proptest! {
        #[test]
        fn membership_equals_comparing_the_leading_bits(
            base in any::<u32>(), other in any::<u32>(), prefix_bits in 0_u8..=32,
        ) {
            let network = Network { address: IpAddr::V4(base.into()), prefix_bits };
            let bits = |value: u32| format!("{value:032b}")[..usize::from(prefix_bits)].to_owned();
            prop_assert_eq!(
                contains(&network, IpAddr::V4(other.into())),
                bits(base) == bits(other)
            );
        }
    }
}
