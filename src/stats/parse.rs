//! What the kernel's files say: pure functions over their text. What cannot be read as it should is `None`, never a
//! number that nobody wrote.

/// At and above this, v1 means "no limit": it rounds the largest number down to whole pages.
pub(super) const UNLIMITED: u64 = 1 << 62;
/// Microseconds to the kernel are nanoseconds to the CRI.
const NS_PER_US: u64 = 1_000;

/// Pressure of one kind on a group: what share of time was lost to waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some task waited.
    pub some: PressureLine,
    /// All tasks waited.
    pub full: PressureLine,
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PressureLine {
    /// Nanoseconds lost since the group was made.
    pub total_ns: u64,
    /// Percent over ten seconds.
    pub avg10: f64,
    /// Percent over a minute.
    pub avg60: f64,
    /// Percent over five minutes.
    pub avg300: f64,
}

/// A file that holds one number.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A file that holds a limit; `None` also where there is no limit.
pub(super) fn limit(text: &str) -> Option<u64> {
    number(text).filter(|limit| *limit < UNLIMITED)
}

/// The number after `key` in a file of lines `key number`.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ').map(str::to_owned);
    number(&text.lines().find_map(value)?)
}

/// A pressure file. The processor's had no line `full` before Linux 5.13.
pub(super) fn pressure(text: &str) -> Option<Pressure> {
    let line = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind));
    Some(Pressure {
        some: pressure_line(line("some ")?)?,
        full: line("full ").and_then(pressure_line).unwrap_or_default(),
    })
}

fn pressure_line(text: &str) -> Option<PressureLine> {
    let value = |key: &str| {
        let mut pairs = text
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    let share = |key| {
        value(key)?
            .parse()
            .ok()
            .filter(|share: &f64| share.is_finite())
    };
    let total_us: u64 = value("total")?.parse().ok()?;
    Some(PressureLine {
        total_ns: total_us.saturating_mul(NS_PER_US),
        avg10: share("avg10")?,
        avg60: share("avg60")?,
        avg300: share("avg300")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_limits_and_fields_are_read_and_nothing_else() {
        assert_eq!(number("42\n"), Some(42));
        assert_eq!(limit("1048576\n"), Some(1 << 20));
        for unlimited in [
            "max\n",
            "9223372036854771712\n",
            "18446744073709551615\n",
            "",
        ] {
            assert_eq!(limit(unlimited), None, "{unlimited:?}");
        }
        let stat = "total_rss_huge 5\ntotal_rss 7\nbroken\nodd x\n";
        assert_eq!(field(stat, "total_rss"), Some(7));
        for absent in ["rss", "broken", "odd", ""] {
            assert_eq!(field(stat, absent), None, "{absent:?}");
        }
    }

    #[test]
    fn pressure_is_told_in_nanoseconds() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.03 total=123\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure_of = pressure(text).unwrap();
        assert_eq!(pressure_of.some.total_ns, 123_000);
        assert_eq!(pressure_of.full.total_ns, 7_000);
        assert!((pressure_of.some.avg10 - 1.5).abs() < 1e-9);

        let old = pressure(text.lines().next().unwrap()).unwrap();
        assert_eq!(old.full, PressureLine::default());
        for wrong in [
            "",
            "full avg10=0 avg60=0 avg300=0 total=0\n",
            "some avg10=0.00\n",
        ] {
            assert_eq!(pressure(wrong), None, "{wrong:?}");
        }
    }
}
