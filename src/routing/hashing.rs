//! Hashing of users: onto slots, and by weight onto the backends of a shard. Integers only,
//! so that every node, version and platform agrees.

use std::cmp::Ordering;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::log2_table::LOG2;
use crate::names::{BackendId, UserName};

/// Number of slots, fixed for the life of an installation.
pub const SLOTS: u16 = 16_384;

/// Bits of a hash that are not the slot's number.
const BELOW_SLOT_BITS: u32 = 64 - SLOTS.trailing_zeros();

/// Fraction bits of the logarithms.
const FRACTION_BITS: u32 = 32;

/// The slot of a canonical name, below [`SLOTS`]: the top 14 bits of xxh3-64 with seed 0.
pub fn slot(user: &UserName) -> u16 {
    let hash = xxh3_64(user.as_str().as_bytes());
    // 14 bits always fit.
    u16::try_from(hash >> BELOW_SLOT_BITS).unwrap_or(0)
}

/// How well a backend suits a routing key; the smallest is the best.
///
/// With h = xxh3-64 of key NUL backend as a fraction of 2^64, a backend's cost is
/// -log2(h) / weight: backends are the cheapest for a share of the keys equal to their share
/// of the weights, and a backend that comes or goes moves only its own keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// -log2(h) in units of 2^-32; never 0.
    cost: u64,
    /// The backend's weight.
    weight: u32,
    /// Breaks ties.
    hash: u64,
}

impl Score {
    /// The score of one backend for one key. A weight of 0 ranks behind all others.
    pub fn of(key: &UserName, backend: &BackendId, weight: u32) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(key.as_str().as_bytes());
        hasher.update(&[0]); // No name has a NUL, so no two pairs hash the same bytes.
        hasher.update(backend.as_str().as_bytes());
        let hash = hasher.digest();
        Self { cost: minus_log2(hash), weight, hash }
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        // cost / weight < other.cost / other.weight without dividing: costs are below 2^39.
        let mine = self.cost.saturating_mul(u64::from(other.weight));
        let theirs = other.cost.saturating_mul(u64::from(self.weight));
        mine.cmp(&theirs).then_with(|| other.hash.cmp(&self.hash))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The backends (name, weight) in the order in which a key prefers them. The order in which
/// they are given has no influence.
pub fn rank(key: &UserName, backends: &[(BackendId, u32)]) -> Vec<BackendId> {
    let mut scored: Vec<(Score, &BackendId)> =
        backends.iter().map(|(name, weight)| (Score::of(key, name, *weight), name)).collect();
    scored.sort_unstable();
    scored.into_iter().map(|(_, name)| name.clone()).collect()
}

/// -log2(hash / 2^64) in units of 2^-32, by linear interpolation in the committed table; at
/// most 2^-18 too high. At least 1, at most 64 * 2^32.
fn minus_log2(hash: u64) -> u64 {
    let hash = hash.max(1);
    let zeros = hash.leading_zeros();
    // The leading one is shifted out: 8 bits choose the table's row, 32 more interpolate.
    let mantissa = (hash << zeros) << 1;
    let row = usize::try_from(mantissa >> 56).unwrap_or(0);
    let between = (mantissa << 8) >> FRACTION_BITS;
    let low = LOG2.get(row).copied().unwrap_or(0);
    let high = LOG2.get(row + 1).copied().unwrap_or(low);
    let fraction = low + (((high - low) * between) >> FRACTION_BITS);
    let whole = u64::from(63 - zeros) << FRACTION_BITS;
    (64 << FRACTION_BITS) - (whole + fraction)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(name: &str) -> UserName {
        UserName::new(name)
    }

    fn backends(weights: &[u32]) -> Vec<(BackendId, u32)> {
        weights
            .iter()
            .enumerate()
            .map(|(at, weight)| (BackendId::new(format!("b{at}")), *weight))
            .collect()
    }

    /// The table is what it says it is, and the interpolation stays within its bound.
    #[test]
    #[allow(clippy::as_conversions, clippy::cast_precision_loss)]
    fn the_table_agrees_with_floating_point() {
        for (at, value) in LOG2.iter().enumerate() {
            let exact = (1.0 + at as f64 / 256.0).log2() * 4_294_967_296.0;
            assert!((exact - *value as f64).abs() <= 0.5001, "row {at}");
        }
        for hash in (0..4000_u64).map(|step| (step * 4_611_686_018_427_387 + 3) | 1) {
            let exact = 64.0 - (hash as f64).log2();
            let ours = minus_log2(hash) as f64 / 4_294_967_296.0;
            assert!((ours - exact).abs() < 4e-6, "{hash}: {ours} and {exact}");
        }
    }

    #[test]
    fn the_ends_of_the_hash_range_have_a_cost() {
        assert_eq!(minus_log2(0), 64 << 32);
        assert_eq!(minus_log2(1), 64 << 32);
        assert_eq!(minus_log2(1 << 63), 1 << 32);
        assert_eq!(minus_log2(u64::MAX), 1);
    }

    /// These values are the installation's: if one changes, users move.
    #[test]
    fn golden_slots_do_not_change() {
        let golden = [
            ("a", 14769), // xxh3-64 of "a" is e6c632b61e964e1f.
            ("bob", 1280),
            ("bob@example.org", 7275),
            ("user0001@mail.example.com", 15753),
            ("o'brien+lists@x.org", 8424),
        ];
        for (name, expected) in golden {
            assert_eq!(slot(&user(name)), expected, "{name}");
        }
    }

    /// These values are the installation's: if one changes, users move.
    #[test]
    fn golden_scores_and_ranks_do_not_change() {
        let golden = [
            ("bob@example.org", 0x0001_5a6c_80a8, 0x6433_fae2_8a79_3e86, "b1 b3 b2 b0"),
            ("a", 0x0001_3161_7b94, 0x6ffb_1065_fcc0_48fa, "b3 b2 b1 b0"),
            ("eve", 0x0001_c17f_7b2c, 0x4bcd_1f03_8798_4df7, "b1 b2 b0 b3"),
            ("mallory@example.org", 0x0001_debc_9f2f, 0x4608_1ada_51c8_fa20, "b2 b1 b3 b0"),
        ];
        let set = backends(&[1, 2, 3, 4]);
        for (name, cost, hash, ranked) in golden {
            let score = Score::of(&user(name), &BackendId::new("n1"), 1);
            assert_eq!((score.cost, score.hash), (cost, hash), "{name}");
            let order: Vec<String> =
                rank(&user(name), &set).iter().map(ToString::to_string).collect();
            assert_eq!(order.join(" "), ranked, "{name}");
        }
    }

    #[test]
    fn users_are_spread_over_all_slots() {
        let mut seen = vec![0_u32; usize::from(SLOTS)];
        for number in 0..200_000 {
            seen[usize::from(slot(&user(&format!("user{number}@example.org"))))] += 1;
        }
        assert!(seen.iter().all(|count| *count < 40), "one slot has too many users");
        assert!(seen.iter().filter(|count| **count == 0).count() < 5);
    }

    #[test]
    #[allow(clippy::as_conversions, clippy::cast_precision_loss)]
    fn users_follow_the_weights() {
        let weights = [1, 2, 3, 10, 100];
        let set = backends(&weights);
        let total: u32 = weights.iter().sum();
        let mut first = std::collections::HashMap::new();
        let users = 100_000_u32;
        for number in 0..users {
            let order = rank(&user(&format!("u{number}@example.org")), &set);
            *first.entry(order[0].clone()).or_insert(0_u32) += 1;
        }
        for (name, weight) in &set {
            let expected = f64::from(users) * f64::from(*weight) / f64::from(total);
            let got = f64::from(first[name]);
            // Five standard deviations of a binomial distribution.
            let tolerance = 5.0 * expected.sqrt();
            assert!((got - expected).abs() < tolerance, "{name}: {got} for {expected}");
        }
    }

    #[test]
    fn a_backend_of_weight_zero_is_the_last_choice() {
        let set = backends(&[0, 1, 0, 5]);
        for number in 0..200 {
            let order = rank(&user(&format!("u{number}")), &set);
            assert!(order[..2].iter().all(|name| ["b1", "b3"].contains(&name.as_str())));
        }
    }

    proptest! {
        #[test]
        fn removing_a_backend_moves_exactly_its_own_users(
            weights in prop::collection::vec(1_u32..1001, 2..9),
            gone in any::<prop::sample::Index>(),
            names in prop::collection::vec("[a-z]{1,12}", 1..60),
        ) {
            let all = backends(&weights);
            let gone = gone.index(all.len());
            let mut fewer = all.clone();
            let (removed, _) = fewer.remove(gone);
            for name in names {
                let mut before = rank(&user(&name), &all);
                let after = rank(&user(&name), &fewer);
                before.retain(|backend| *backend != removed);
                prop_assert_eq!(before, after);
            }
        }

        #[test]
        fn the_order_in_the_configuration_does_not_matter(
            weights in prop::collection::vec(0_u32..1001, 1..9),
            turn in 0_usize..8,
            name in "[a-z0-9@.]{1,30}",
        ) {
            let set = backends(&weights);
            let mut turned = set.clone();
            turned.rotate_left(turn % set.len());
            prop_assert_eq!(rank(&user(&name), &set), rank(&user(&name), &turned));
            turned.reverse();
            prop_assert_eq!(rank(&user(&name), &set), rank(&user(&name), &turned));
        }

        #[test]
        fn a_higher_hash_never_costs_more(one in any::<u64>(), other in any::<u64>()) {
            let (low, high) = (one.min(other), one.max(other));
            prop_assert!(minus_log2(low) >= minus_log2(high));
        }
    }
}
