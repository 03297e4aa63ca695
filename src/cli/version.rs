//! `podwright version`.

use std::process::ExitCode;

use crate::model::Result;

/// Prints the version.
pub(super) fn run() -> Result<ExitCode> {
    super::print(concat!("podwright ", env!("CARGO_PKG_VERSION"), "\n"))?;
    Ok(ExitCode::SUCCESS)
}
