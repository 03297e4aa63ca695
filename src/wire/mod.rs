//! Generated messages, their conversion to and from the model, and the Go-JSON codec of containerd's records.

mod convert;
pub mod gojson;
pub mod record;

/// What every message is: it knows its own length on the wire.
pub use prost::Message;

/// The Kubernetes Container Runtime Interface, `runtime.v1`: messages, servers and clients.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated from proto/cri.proto"
)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// podwright's own control channel, `podwright.admin.v1`: messages, server and client.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated from proto/admin.proto"
)]
pub mod admin {
    tonic::include_proto!("podwright.admin.v1");
}

/// Options of containerd's runc shim, `containerd.runc.v1`.
pub mod runc {
    tonic::include_proto!("containerd.runc.v1");

    /// Type URL of [`Options`], bare as containerd writes it.
    pub const OPTIONS_TYPE_URL: &str = "containerd.runc.v1.Options";
    /// Type URL of [`CheckpointOptions`].
    pub const CHECKPOINT_OPTIONS_TYPE_URL: &str = "containerd.runc.v1.CheckpointOptions";

    impl Options {
        /// The message's bytes, as containerd takes them.
        pub fn encoded(&self) -> Vec<u8> {
            prost::Message::encode_to_vec(self)
        }

        /// Reads the bytes back; `None` where they are none of this message.
        pub fn decoded(bytes: &[u8]) -> Option<Self> {
            prost::Message::decode(bytes).ok()
        }
    }
}

/// Options of shims with a configuration of their own, `runtimeoptions.v1`.
pub mod runtimeoptions {
    tonic::include_proto!("runtimeoptions.v1");

    /// Type URL of [`Options`], bare as containerd writes it.
    pub const OPTIONS_TYPE_URL: &str = "runtimeoptions.v1.Options";
}

#[cfg(test)]
mod facts;
#[cfg(test)]
pub(crate) mod interface;
#[cfg(test)]
pub(crate) mod probe;
