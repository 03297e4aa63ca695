//! Generated messages, their conversion to and from the model, and the Go-JSON codec of containerd's records.
