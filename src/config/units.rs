//! Durations (`500ms`, `5s`, `15m`, `2h`, `1d`) and sizes (`65536`, `64KiB`, `1MiB`).

use std::time::Duration;

/// What a duration looks like, for messages.
pub(super) const DURATION_FORM: &str = "a duration such as 500ms, 5s, 15m, 2h or 1d";

/// What a size looks like, for messages.
pub(super) const SIZE_FORM: &str = "a size such as 65536, 64KiB or 1MiB";

/// `duration = 1*DIGIT ("ms" / "s" / "m" / "h" / "d")`
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (count, unit) = parse_count(text)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count.checked_mul(unit_ms).map(Duration::from_millis)
}

/// `size = 1*DIGIT ["B" / "KiB" / "MiB" / "GiB"]`, in bytes.
pub(super) fn parse_size(text: &str) -> Option<usize> {
    let (count, unit) = parse_count(text)?;
    let unit_bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    count.checked_mul(unit_bytes).and_then(|bytes| usize::try_from(bytes).ok())
}

/// A duration as an operator would type it, in the largest unit that divides it.
pub(super) fn show_duration(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    units
        .into_iter()
        .find(|(unit_ms, _)| ms > 0 && ms.is_multiple_of(*unit_ms))
        .map_or_else(|| format!("{ms}ms"), |(unit_ms, unit)| format!("{}{unit}", ms / unit_ms))
}

/// Splits `12abc` into 12 and `abc`.
fn parse_count(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at_checked(digits)?;
    Some((count.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_take_one_number_and_one_unit() {
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(parse_duration("15m"), Some(Duration::from_secs(900)));
        assert_eq!(parse_duration("2h"), Some(Duration::from_secs(7200)));
        assert_eq!(parse_duration("1d"), Some(Duration::from_secs(86_400)));
        for wrong in ["", "5", "s", "5 s", "-5s", "5S", "1h30m", "0x5s", "18446744073709551615d"] {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        assert_eq!(parse_size("65536"), Some(65536));
        assert_eq!(parse_size("64KiB"), Some(65536));
        assert_eq!(parse_size("1MiB"), Some(1_048_576));
        assert_eq!(parse_size("2GiB"), Some(2_147_483_648));
        for wrong in ["", "KiB", "64kb", "64 KiB", "-1", "99999999999999999999", "99999999999GiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back_as_itself(ms in 0_u64..10_000_000_000) {
            let time = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&show_duration(time)), Some(time));
        }
    }
}
