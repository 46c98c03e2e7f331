//! IP networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a network looks like, for messages.
pub(super) const NETWORK_FORM: &str =
    "a network such as 10.0.0.0/8 or 2001:db8::/32, with no bits set behind the prefix";

/// An IP network in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The network's address; bits behind the prefix are zero.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub prefix_bits: u8,
}

impl Network {
    /// `network = address ["/" prefix]`; without a prefix it is that one address.
    /// Bits behind the prefix are refused: they are a typing error more often than not.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().ok().filter(|bits| *bits <= bits_max)?
            }
            Some(_) => return None,
            None => bits_max,
        };
        (cut(address, prefix_bits) == address).then_some(Self { address, prefix_bits })
    }
}

/// The address with all bits behind the prefix cleared.
fn cut(address: IpAddr, prefix_bits: u8) -> IpAddr {
    let keep = u32::from(prefix_bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - keep.min(32)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - keep.min(128)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_an_address_and_a_prefix() {
        let ten = Network { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), prefix_bits: 8 };
        assert_eq!(Network::parse("10.0.0.0/8"), Some(ten));
        assert_eq!(Network::parse("::1").map(|one| one.prefix_bits), Some(128));
        assert_eq!(Network::parse("0.0.0.0/0").map(|all| all.prefix_bits), Some(0));
        assert_eq!(Network::parse("::/0").map(|all| all.prefix_bits), Some(0));
        assert_eq!(Network::parse("2001:db8::/32").map(|net| net.prefix_bits), Some(32));
    }

    #[test]
    fn malformed_networks_are_refused() {
        for wrong in [
            "",
            "/8",
            "10.0.0.0/33",
            "::/129",
            "10.1.0.0/8",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
        ] {
            assert_eq!(Network::parse(wrong), None, "{wrong:?}");
        }
    }
}
