//! Signals: the CRI's alphabet to the kernel's numbers, by name.

use crate::model::{Error, Result, Signal};
use crate::wire::cri;

use super::check::known;

const PREFIX: &str = "SIGNAL_";

/// `None` leaves the choice to the image.
pub(super) fn stop_signal(number: i32) -> Result<Option<Signal>> {
    let signal: cri::Signal = known("stop_signal", number)?;
    match signal {
        cri::Signal::RuntimeDefault => Ok(None),
        named => named
            .as_str_name()
            .replace(PREFIX, "")
            .replace("PLUS", "+")
            .replace("MINUS", "-")
            .parse()
            .map(Some),
    }
}

impl TryFrom<cri::Signal> for Signal {
    type Error = Error;

    /// # Errors
    /// `InvalidArgument` for the runtime's default, which names no signal.
    fn try_from(signal: cri::Signal) -> Result<Self> {
        stop_signal(signal.into())?
            .ok_or_else(|| Error::invalid("stop_signal: want a signal, got the default"))
    }
}

impl From<Signal> for cri::Signal {
    /// The two real-time signals that the C library keeps have no name in the CRI and become the default.
    fn from(signal: Signal) -> Self {
        let name = signal
            .to_string()
            .replace('+', "PLUS")
            .replace('-', "MINUS");
        Self::from_str_name(&format!("{PREFIX}{name}")).unwrap_or(Self::RuntimeDefault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_interface_is_a_signal() {
        for number in 1..=65 {
            let wire = cri::Signal::try_from(number).unwrap();
            let signal = Signal::try_from(wire).unwrap();
            assert_eq!(
                Signal::try_from(cri::Signal::from(signal)).unwrap(),
                signal,
                "{wire:?}"
            );
        }
    }

    #[test]
    fn the_numbers_are_an_alphabet_and_not_the_kernels() {
        assert_eq!(
            stop_signal(cri::Signal::Sigterm.into()).unwrap(),
            Some(Signal::TERM)
        );
        assert_eq!(stop_signal(13).unwrap(), Some(Signal::KILL));
        assert_eq!(stop_signal(0).unwrap(), None);
        assert!(stop_signal(66).is_err());
        assert_eq!(cri::Signal::from(Signal::TERM), cri::Signal::Sigterm);
    }
}
