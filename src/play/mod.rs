//! `podwright play`: runs a Kubernetes Pod manifest on any CRI socket.
