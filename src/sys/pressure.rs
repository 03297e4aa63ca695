//! Pressure stall information: how much of their time the tasks of this node lose to waiting.
//!
//! Source: the kernel's Documentation/accounting/psi.rst.

use std::fs;
use std::io;

use crate::model::{Error, Kind, Result};

const FILES: [&str; 3] = [
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/pressure/cpu",
];

/// The largest share of time, in percent over the last ten seconds, that some task lost to waiting for disk, memory or
/// processor. `None` where this kernel does not tell.
///
/// # Errors
/// `Internal` where a file is there and cannot be understood.
pub fn some_blocking() -> Result<Option<f32>> {
    let mut most: Option<f32> = None;
    for file in FILES {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            // Kernels that are built with it and started without answer EOPNOTSUPP.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) =>
            {
                continue;
            }
            Err(error) => {
                return Err(Error::new(Kind::Internal, format!("read {file}")).caused_by(error));
            }
        };
        let share = some_avg10(&text)
            .ok_or_else(|| Error::internal(format!("{file}: it has no line \"some avg10=\"")))?;
        most = Some(most.map_or(share, |most| most.max(share)));
    }
    Ok(most)
}

/// The average over ten seconds of the line `some`.
fn some_avg10(text: &str) -> Option<f32> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let field = line
        .split(' ')
        .find_map(|field| field.strip_prefix("avg10="))?;
    field.parse().ok().filter(|share: &f32| share.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_some_over_ten_seconds_is_read() {
        let text = "some avg10=12.50 avg60=3.00 avg300=0.10 total=123\n\
                    full avg10=99.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(some_avg10(text), Some(12.5));
        for wrong in [
            "",
            "full avg10=1.00\n",
            "some avg60=1.00\n",
            "some avg10=x\n",
        ] {
            assert_eq!(some_avg10(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn this_kernel_tells_a_share_or_nothing() {
        let share = some_blocking().unwrap();
        assert!(share.is_none_or(|share| (0.0..=100.0).contains(&share)));
    }
}
