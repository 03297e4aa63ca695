//! The deadline that a request brings with it (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

/// Where it stands.
pub const HEADER: &str = "grpc-timeout";

/// What the header's value allows: up to eight digits and a unit. `None` where it is malformed.
pub fn parse(value: &str) -> Option<Duration> {
    let (amount, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if !(1..=8).contains(&amount.len()) || !amount.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = amount.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(amount.saturating_mul(60))),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_is_read_in_every_unit_and_nonsense_is_none() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("3M"), Some(Duration::from_secs(180)));
        assert_eq!(parse("4S"), Some(Duration::from_secs(4)));
        assert_eq!(parse("5m"), Some(Duration::from_millis(5)));
        assert_eq!(parse("998u"), Some(Duration::from_micros(998)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for nonsense in ["", "S", "+1S", "123456789S", "1", "1s", "1.5S", "-1S"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }
}
