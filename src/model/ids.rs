//! Identifiers as types of their own, so that a container id never lands where a sandbox id belongs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::error::{Error, Result};

const HEX_LEN: usize = 64;

fn random_hex() -> Result<Arc<str>> {
    let mut bytes = [0_u8; HEX_LEN / 2];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::internal("read random bytes for an id").caused_by(e))?;
    Ok(bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into())
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A fresh id from 32 random bytes.
            ///
            /// # Errors
            /// `Internal` where the kernel gives no random bytes.
            pub fn generate() -> Result<Self> {
                random_hex().map(Self)
            }

            /// The 64 hex digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits, as people-facing tools show them.
            pub fn short(&self) -> &str {
                self.0.get(..13).unwrap_or(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let ok = text.len() == HEX_LEN && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if ok { Ok(Self(text.into())) } else {
                    Err(Error::invalid(concat!($noun, " id: want 64 lower-case hex digits")))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}({})", stringify!($name), &self.0) }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str { &self.0 }
        }
    };
}

hex_id! {
    /// Names a pod sandbox; also the id of its pause container in containerd.
    SandboxId, "sandbox"
}
hex_id! {
    /// Names a workload container, in CRI and in containerd alike.
    ContainerId, "container"
}
hex_id! {
    /// Names one further process in a running task.
    ExecId, "exec"
}

/// A process id on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_parse_back() {
        let id = SandboxId::generate().unwrap();
        assert_eq!(id.as_str().parse::<SandboxId>().unwrap(), id);
    }

    #[test]
    fn anything_but_64_lower_case_hex_digits_is_refused() {
        for bad in [
            "",
            "..",
            "ABC",
            &"A".repeat(64),
            &"g".repeat(64),
            &"a".repeat(63),
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
