//! Transports for exec, attach and port-forward.
