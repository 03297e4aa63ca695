//! The messages of NRI and of ttrpc, generated from `proto/nri.proto` and `proto/ttrpc.proto`.

/// `nri.pkg.api.v1alpha1`: what runtime and plugins tell each other.
pub mod api {
    include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));
}

/// The envelope of ttrpc.
pub mod envelope {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}
