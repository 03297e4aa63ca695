//! cgroup sampling.
