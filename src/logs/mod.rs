//! CRI log framing, writer, reopen, and the pump that never loses a byte.
