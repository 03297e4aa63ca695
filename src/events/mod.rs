//! containerd's events to facts of ours.
