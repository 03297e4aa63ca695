//! TOML and flags to validated, typed settings; each key declared `live` or `restart`.
//!
//! `file` is what may be written, with its defaults; `check` holds the rules that lead from there to [`Config`];
//! `keys` documents every key, and `render` makes the default file and the reference from it.

use std::path::{Path, PathBuf};

mod change;
mod check;
mod file;
mod images;
pub mod keys;
mod logs;
mod metrics;
mod plugins;
mod problem;
mod render;
mod rules;
pub mod settings;
mod snapshot;
mod stats;
mod streaming;
mod traces;
mod units;
mod values;

pub use change::Change;
pub use logs::LONGEST_LINE;
pub use problem::{Problem, Problems};
pub use render::{default_file, reference};
pub use settings::{Handler, LogQuota, PullRule, RUNC_SHIM, Verifier};
pub use snapshot::Shared;
pub use values::{
    CgroupDriver, IpPreference, LogFormat, OtlpProtocol, OverQuota, Policy, Unpacker,
};

use crate::model::{Context as _, Error, Kind, Result};

/// Where the file lies unless a flag says otherwise.
pub const DEFAULT_PATH: &str = "/etc/podwright/config.toml";
/// Largest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// The whole configuration. Made only from a file that breaks no rule.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`.
    pub server: settings::Server,
    /// `[diagnostics]`.
    pub diagnostics: settings::Diagnostics,
    /// `[containerd]`.
    pub containerd: settings::Containerd,
    /// `[managed_containerd]`.
    pub managed_containerd: settings::Managed,
    /// `[runtimes]`.
    pub runtimes: settings::Runtimes,
    /// `[sandbox]`.
    pub sandbox: settings::Sandbox,
    /// `[containers]`.
    pub containers: settings::Containers,
    /// `[cni]`.
    pub cni: settings::Cni,
    /// `[images]`.
    pub images: settings::Images,
    /// `[logs]`.
    pub logs: settings::Logs,
    /// `[operations]`.
    pub operations: settings::Operations,
    /// `[streaming]`.
    pub streaming: settings::Streaming,
    /// `[nri]`.
    pub nri: settings::Nri,
    /// `[metrics]`.
    pub metrics: settings::Metrics,
    /// `[tracing]`.
    pub tracing: settings::Tracing,
    /// `[stats]`.
    pub stats: settings::Stats,
    effective: serde_json::Value,
}

/// What flags say over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--managed-containerd`.
    pub managed_containerd: bool,
    /// `--managed-stop`.
    pub managed_stop: bool,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
}

impl Config {
    /// Reads and checks `text`.
    ///
    /// # Errors
    /// Everything that is wrong, each problem with its line, key and rule.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        Self::parse_with(text, &Overrides::default())
    }

    /// Reads `text`, puts `overrides` over it and checks the outcome.
    ///
    /// # Errors
    /// Everything that is wrong, each problem with its line, key and rule.
    pub fn parse_with(text: &str, overrides: &Overrides) -> Result<Self, Problems> {
        let locator = problem::Locator::new(text);
        let mut file: file::File = toml::from_str(text).map_err(|error| {
            let start = error.span().map(|span| span.start);
            Problems(vec![Problem {
                line: start.map(|offset| locator.line(offset)),
                key: start.map_or_else(String::new, |offset| locator.key_at(offset)),
                rule: error.message().trim().replace('\n', ", "),
            }])
        })?;
        file.apply(overrides);
        check::check(&file).map_err(|mut problems| {
            for problem in &mut problems {
                problem.line = locator.line_of(&problem.key);
            }
            Problems(problems)
        })
    }

    /// Reads the file at `path`, puts `overrides` over it and checks the outcome. No file at the default path is the
    /// default configuration.
    ///
    /// # Errors
    /// `InvalidArgument` with every problem, or why the file cannot be read.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self> {
        let (path, required) = path.map_or((Path::new(DEFAULT_PATH), false), |path| (path, true));
        let text = match read_limited(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
                String::new()
            }
            Err(error) => {
                let what = format!("read the configuration {}", path.display());
                return Err(Error::new(Kind::InvalidArgument, what).caused_by(error));
            }
        };
        Self::parse_with(&text, overrides)
            .map_err(Error::from)
            .context(|| format!("configuration {}", path.display()))
    }

    /// The whole configuration as it took effect, defaults filled in, as JSON.
    pub fn effective(&self) -> &serde_json::Value {
        &self.effective
    }

    /// What is allowed and yet worth a word.
    pub fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.containerd.allow_cri_plugin {
            out.push("containerd.allow_cri_plugin: two CRI servers on one containerd namespace damage each other".into());
        }
        for rule in self
            .images
            .pull_policy
            .iter()
            .filter(|rule| rule.trust_local && rule.policy != Policy::Always)
        {
            out.push(format!(
                "images.pull_policy {:?}: with trust_local a local image answers for any credentials, and kubelet records them as proven",
                rule.pattern
            ));
        }
        self.logs.warn(&mut out);
        self.streaming.warn(&mut out);
        self.metrics.warn(&mut out);
        if self.server.socket_group.is_some() {
            out.push(
                "server.socket_group: every member of the group is root on this node".to_owned(),
            );
        }
        out
    }
}

impl Default for Config {
    /// The configuration of an empty file.
    fn default() -> Self {
        #[expect(
            clippy::expect_used,
            reason = "the defaults are constants; a test proves that they break no rule"
        )]
        Self::parse("").expect("the defaults break no rule")
    }
}

impl file::File {
    fn apply(&mut self, overrides: &Overrides) {
        self.managed_containerd.enabled |= overrides.managed_containerd;
        self.managed_containerd.stop_at_exit |= overrides.managed_stop;
        if let Some(socket) = &overrides.socket {
            self.server.socket.clone_from(socket);
        }
        if let Some(level) = &overrides.log_level {
            self.diagnostics.level.clone_from(level);
        }
        if let Some(format) = overrides.log_format {
            self.diagnostics.format = format;
        }
    }
}

fn read_limited(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_MAX {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
