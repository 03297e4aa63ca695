//! What an image says about the processes made from it. All of it is hostile until a rule has judged it.

/// The `config` object of an OCI image configuration, as far as a container's spec follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// Command prefix.
    pub entrypoint: Vec<String>,
    /// Command, or arguments of the entrypoint.
    pub cmd: Vec<String>,
    /// Environment as `KEY=value` lines, in the image's order.
    pub env: Vec<String>,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// Paths that the image declares as volumes.
    pub volumes: Vec<String>,
    /// Signal that asks the process to stop, as the image spells it.
    pub stop_signal: Option<String>,
}
