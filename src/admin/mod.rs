//! Our own control service, `podwright.admin.v1`, on the same root-only socket.
