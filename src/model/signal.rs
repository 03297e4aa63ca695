//! Signals by the names that images and the CRI use (OCI image-spec `StopSignal`, CRI `Signal`).

use std::fmt;
use std::str::FromStr;

use super::error::{Error, Result};

/// A Linux signal number, 1..=64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(u8);

const RTMIN: u8 = 34;
const RTMAX: u8 = 64;
const NAMES: [(&str, u8); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

impl Signal {
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM, the default of a graceful stop.
    pub const TERM: Self = Self(15);

    /// The signal of a number; `None` past what Linux has.
    pub fn of_number(number: i32) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (1..=RTMAX).contains(&number).then_some(Self(number))
    }

    /// The kernel's number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = Error;

    /// Reads a decimal number, or a name in any case with or without `SIG` (`15`, `quit`, `SIGRTMIN+3`).
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "signal {text:?}: want a number from 1 to 64 or a name such as SIGTERM"
            ))
        };
        if let Ok(number) = text.parse::<u8>() {
            return if (1..=RTMAX).contains(&number) {
                Ok(Self(number))
            } else {
                Err(bad())
            };
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let offset = |digits: &str| {
            if digits.is_empty() {
                Some(0)
            } else {
                digits.parse::<u8>().ok()
            }
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            let plus = if rest.is_empty() {
                rest
            } else {
                rest.strip_prefix('+').ok_or_else(bad)?
            };
            offset(plus).and_then(|plus| RTMIN.checked_add(plus))
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            let minus = if rest.is_empty() {
                rest
            } else {
                rest.strip_prefix('-').ok_or_else(bad)?
            };
            offset(minus).and_then(|minus| RTMAX.checked_sub(minus))
        } else {
            None
        };
        number
            .filter(|number| (RTMIN..=RTMAX).contains(number))
            .map(Self)
            .ok_or_else(bad)
    }
}

impl fmt::Display for Signal {
    /// `SIGTERM`, `SIGRTMIN+3`; the form that containerd's records hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            RTMIN => f.write_str("SIGRTMIN"),
            RTMAX => f.write_str("SIGRTMAX"),
            n if n > RTMIN && n <= RTMIN + 15 => write!(f, "SIGRTMIN+{}", n - RTMIN),
            n if n > RTMIN => write!(f, "SIGRTMAX-{}", RTMAX - n),
            n => match NAMES.iter().find(|(_, number)| *number == n) {
                Some((name, _)) => write!(f, "SIG{name}"),
                None => write!(f, "{n}"),
            },
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_in_any_case_parse() {
        for (text, number) in [
            ("15", 15),
            ("quit", 3),
            ("SIGRTMIN+3", 37),
            ("sigterm", 15),
            ("RTMAX-2", 62),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGNOPE", "RTMIN+31", "RTMIN-1", "-1", "SIG"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_signal_prints_a_name_that_parses_back() {
        for number in (1..32).chain(34..=64) {
            assert_eq!(
                Signal(number).to_string().parse::<Signal>().unwrap(),
                Signal(number)
            );
        }
    }
}
