//! The podwright program: `cli` parses and dispatches, the verbs do the rest.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Installed once, before anything opens a TLS connection; a second installation is refused and harmless.
    drop(rustls::crypto::ring::default_provider().install_default());
    podwright::cli::main(std::env::args_os())
}
