//! Bandwidth limits that a pod's annotations ask for.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::model::{Context, Error, Result};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What a rate may be, in bits per second.
const RATE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// The burst that goes with every rate: as much as the plugins' field holds.
const BURST: u64 = u32::MAX as u64;

/// The value of capability `bandwidth`; `None` where no annotation asks.
///
/// # Errors
/// `InvalidArgument` where a rate is no quantity or out of range.
pub(super) fn limits(annotations: &BTreeMap<String, String>) -> Result<Option<Value>> {
    let mut limits = Map::new();
    for (annotation, rate_key, burst_key) in [
        (INGRESS, "ingressRate", "ingressBurst"),
        (EGRESS, "egressRate", "egressBurst"),
    ] {
        if let Some(text) = annotations.get(annotation) {
            let rate = rate_of(text).context(|| format!("annotation {annotation}"))?;
            limits.insert(rate_key.to_owned(), rate.into());
            limits.insert(burst_key.to_owned(), BURST.into());
        }
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

fn rate_of(text: &str) -> Result<u64> {
    let rate = whole_units(text).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        Error::invalid(format!("{shown:?} is not a quantity such as 10M"))
    })?;
    u64::try_from(rate)
        .ok()
        .filter(|rate| RATE.contains(rate))
        .ok_or_else(|| Error::invalid(format!("{rate} bit/s is outside 1k to 1P")))
}

/// A Kubernetes quantity in whole units, rounded away from zero; `None` where the text is none, or beyond any use.
fn whole_units(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || number.len() > 24 {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?; // a second dot fails here
    let decimals = i32::try_from(fraction.len()).ok()?;
    let (base, power) = scale_of(suffix)?;
    let scale = i128::from(base).checked_pow(power.unsigned_abs())?;
    let (above, below) = if power < 0 { (1, scale) } else { (scale, 1) };
    let below = below.checked_mul(10_i128.checked_pow(decimals.unsigned_abs())?)?;
    let value = digits.checked_mul(above)?;
    let rounded = value
        .checked_add(below.checked_sub(1)?)?
        .checked_div(below)?;
    Some(if negative { -rounded } else { rounded })
}

/// Base and power of a suffix.
fn scale_of(suffix: &str) -> Option<(i16, i32)> {
    Some(match suffix {
        "n" => (10, -9),
        "u" => (10, -6),
        "m" => (10, -3),
        "" => (10, 0),
        "k" => (10, 3),
        "M" => (10, 6),
        "G" => (10, 9),
        "T" => (10, 12),
        "P" => (10, 15),
        "E" => (10, 18),
        "Ki" => (1024, 1),
        "Mi" => (1024, 2),
        "Gi" => (1024, 3),
        "Ti" => (1024, 4),
        "Pi" => (1024, 5),
        "Ei" => (1024, 6),
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-18..=18).contains(&power).then_some((10, power))?
        }
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::model::Kind;

    #[rstest]
    #[case("1k", 1_000)]
    #[case("10M", 10_000_000)]
    #[case("1P", 1_000_000_000_000_000)]
    #[case("1.5M", 1_500_000)]
    #[case("1Mi", 1_048_576)]
    #[case("2e6", 2_000_000)]
    #[case("+1E3", 1_000)]
    #[case("1000.1", 1_001)]
    #[case("5000000m", 5_000)]
    #[case(".5Gi", 536_870_912)]
    fn quantities_are_read(#[case] text: &str, #[case] rate: u64) {
        assert_eq!(rate_of(text).unwrap(), rate);
    }

    #[rstest]
    #[case::below("999")]
    #[case::above("1000000000000001")]
    #[case::negative("-1M")]
    #[case::words("fast")]
    #[case::empty("")]
    #[case::dot(".")]
    #[case::dots("1.2.3M")]
    #[case::space("10 M")]
    #[case::suffix("10Mbit")]
    #[case::huge("99999999999999999999999999999999999999E")]
    #[case::exponent("1e99")]
    #[case::sign("+")]
    fn other_text_is_refused(#[case] text: &str) {
        assert_eq!(rate_of(text).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn only_the_directions_that_are_asked_for_are_limited() {
        let annotations = |pairs: &[(&str, &str)]| {
            let owned = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            owned.collect::<BTreeMap<String, String>>()
        };

        assert_eq!(limits(&annotations(&[("a", "b")])).unwrap(), None);
        let ingress = limits(&annotations(&[(INGRESS, "1M")])).unwrap().unwrap();
        assert_eq!(
            ingress,
            serde_json::json!({"ingressRate": 1_000_000, "ingressBurst": 4_294_967_295_u64})
        );
        assert!(limits(&annotations(&[(INGRESS, "1M"), (EGRESS, "x")])).is_err());
    }
}
