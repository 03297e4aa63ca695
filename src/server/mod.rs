//! Assembly order, sockets, signals, drain, the managed containerd.
