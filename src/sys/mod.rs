//! The only unsafe code and the only `/proc`: namespaces, mounts, cgroups, pidfds, atomic files.
//!
//! Functions that end in `_blocking` do system calls that may wait: call them from threads made for that, never from
//! an async worker.

pub mod apparmor;
pub mod append_file;
pub mod cgroup;
mod copy;
pub mod devices;
pub mod errno;
pub mod fifo;
pub mod files;
pub mod fingerprint;
pub mod host_facts;
pub mod image_tree;
pub mod layer_tree;
pub mod links;
pub mod memory;
pub mod mounts;
pub mod netns;
pub mod new_file;
mod off_thread;
pub mod open_files;
pub mod openat2;
pub mod own_usage;
pub mod pressure;
pub mod process;
pub mod program;
pub mod project_quota;
pub mod readiness;
pub mod rootfs;
pub mod selinux;
pub mod sockets;
pub mod spawn;
pub mod survey;
pub mod tools;
mod trees;
pub mod userns;
mod xattr;

pub use copy::copy_dir_blocking;
pub use off_thread::off_thread;
pub use trees::remove_tree_blocking;
