//! A request's configuration as record text: what sandbox and container store in containerd's record, and show,
//! unread. It is the JSON of [`super::gojson`], so containerd's own CRI plugin reads it too.

use crate::model::{Context, Result};

use super::{cri, gojson};

macro_rules! record {
    ($($noun:literal: $message:ty => $to:ident, $from:ident;)*) => {$(
        #[doc = concat!("The record text of a ", $noun, "'s configuration.")]
        ///
        /// # Errors
        /// `Internal` where a value cannot be written as JSON.
        pub fn $to(message: &$message) -> Result<String> {
            gojson::encode(message).context(|| concat!($noun, " record").to_owned())
        }

        #[doc = concat!("Reads what [`", stringify!($to), "`] or containerd's CRI plugin wrote.")]
        ///
        /// # Errors
        /// `Internal` where the text is none.
        pub fn $from(text: &str) -> Result<$message> {
            gojson::decode(text).context(|| concat!($noun, " record").to_owned())
        }
    )*};
}

record! {
    "pod": cri::PodSandboxConfig => pod_record, pod_from_record;
    "container": cri::ContainerConfig => container_record, container_from_record;
    "resource": cri::LinuxContainerResources => resources_record, resources_from_record;
}
