//! Plugins of the node's own: programs that are started with the server, each with a socket as descriptor 3.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, oneshot};

use super::join::{Origin, check_name};
use super::set::Nri;
use crate::model::{Classify as _, Context as _, Error, Kind, Result};
use crate::sys;

/// Longest configuration of a plugin.
const CONFIG_MAX: u64 = 1 << 20;
/// Connections at the same time.
const CONNECTIONS: usize = 64;
/// Pause after a connection that could not be accepted.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// How programs for another kind of machine begin.
const WASM: &[u8] = b"\0asm";

/// A program in the plugin directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Where it lies.
    pub path: PathBuf,
    /// Its index.
    pub index: String,
    /// Its name.
    pub name: String,
}

/// A program that is no plugin, and why.
pub type Misfit = (PathBuf, String);

/// The plugins in `dir`, in order, and what lies there and is none, with the reason.
///
/// # Errors
/// `Internal` where the directory is there and cannot be read.
pub fn installed_blocking(dir: &Path) -> Result<(Vec<Installed>, Vec<Misfit>)> {
    let reading = || format!("read the directory of NRI plugins {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
        entries => entries.classify(Kind::Internal, reading)?,
    };
    let (mut plugins, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry.classify(Kind::Internal, reading)?.path();
        // A file that was just removed is not there.
        let Ok(meta) = std::fs::metadata(&path) else {
            continue;
        };
        if meta.is_dir() || meta.permissions().mode() & 0o111 == 0 {
            continue;
        }
        // It runs as root, so nobody else may say what it does.
        let named = if meta.permissions().mode() & 0o022 == 0 {
            named(&path)
        } else {
            Err("its group or everybody may write it".to_owned())
        };
        match named {
            Ok((index, name)) => plugins.push(Installed { path, index, name }),
            Err(why) => others.push((path, why)),
        }
    }
    plugins.sort_by(|a, b| (&a.index, &a.name).cmp(&(&b.index, &b.name)));
    others.sort();
    Ok((plugins, others))
}

fn named(path: &Path) -> Result<(String, String), String> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((index, name)) = file.split_once('-') else {
        return Err("its name must be NN-NAME".to_owned());
    };
    check_name(index, name)?;
    let mut start = [0_u8; 4];
    let begins = std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
    if begins.is_ok() && start == WASM {
        return Err("WebAssembly plugins are not supported".to_owned());
    }
    Ok((index.to_owned(), name.to_owned()))
}

impl Nri {
    /// Starts the plugins of the node and waits until each takes part, or does not.
    pub async fn launch(self: &Arc<Self>) {
        let settings = self.settings();
        if !settings.enabled {
            return;
        }
        let (dir, configs) = (
            settings.plugin_dir.clone(),
            settings.plugin_config_dir.clone(),
        );
        let found = sys::off_thread("look for NRI plugins", move || {
            let (plugins, others) = installed_blocking(&dir)?;
            let with_config = |plugin: Installed| {
                let config = config_blocking(&configs, &plugin);
                (plugin, config)
            };
            Ok((
                plugins.into_iter().map(with_config).collect::<Vec<_>>(),
                others,
            ))
        });
        let (plugins, others) = match found.await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the NRI plugins of this node are not started");
                return;
            }
        };
        for (path, why) in others {
            tracing::warn!(path = %path.display(), why, "this is no NRI plugin");
        }
        let mut joining = Vec::new();
        for (plugin, config) in plugins {
            let started = config.and_then(|config| self.start(&plugin, config));
            match started {
                Ok(joined) => joining.push(joined),
                Err(error) => {
                    tracing::warn!(plugin = %plugin.path.display(), %error, "an NRI plugin is not started");
                }
            }
        }
        let limit =
            settings.registration_timeout + settings.request_timeout + settings.synchronize_timeout;
        // One that fails drops its end, which is an answer too.
        drop(tokio::time::timeout(limit, join_all(joining)).await);
    }

    fn start(
        self: &Arc<Self>,
        plugin: &Installed,
        config: String,
    ) -> Result<oneshot::Receiver<()>> {
        let (ours, theirs) =
            UnixStream::pair().classify(Kind::Internal, || "make a pair of sockets".to_owned())?;
        let child = spawn(plugin, theirs.into())?;
        let (tell, told) = oneshot::channel();
        let origin = Origin {
            launched: Some((plugin.index.clone(), plugin.name.clone())),
            config,
        };
        let (this, title) = (Arc::clone(self), plugin.path.display().to_string());
        self.supervisor.watch("NRI plugin", async move {
            this.attend(ours, origin, Some(tell)).await;
            end(child, &title).await;
        });
        Ok(told)
    }

    /// Lets plugins connect at `listener`, until that fails.
    ///
    /// # Errors
    /// `Internal` where the listener cannot be used.
    pub async fn serve(self: &Arc<Self>, listener: UnixListener) -> Result<()> {
        let using = || "use the NRI socket".to_owned();
        listener
            .set_nonblocking(true)
            .classify(Kind::Internal, using)?;
        let listener =
            tokio::net::UnixListener::from_std(listener).classify(Kind::Internal, using)?;
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let socket = match listener.accept().await {
                Ok((socket, _address)) => socket.into_std().classify(Kind::Internal, using)?,
                Err(error) => {
                    tracing::warn!(%error, "an NRI plugin could not connect");
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                tracing::warn!(
                    "{CONNECTIONS} NRI plugins are connected; another one is turned away"
                );
                continue;
            };
            let this = Arc::clone(self);
            self.supervisor.watch("NRI plugin", async move {
                this.attend(socket, Origin::default(), None).await;
                drop(permit);
            });
        }
    }
}

/// The plugin's configuration: `NN-NAME.conf`, else `NAME.conf`, else nothing.
fn config_blocking(dir: &Path, plugin: &Installed) -> Result<String> {
    let Installed { index, name, .. } = plugin;
    for file in [format!("{index}-{name}.conf"), format!("{name}.conf")] {
        match sys::files::read_capped_blocking(&dir.join(&file), CONFIG_MAX) {
            Ok(bytes) => {
                return String::from_utf8(bytes)
                    .map_err(|_not_text| Error::invalid(format!("{file}: it is not UTF-8")));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::new())
}

fn spawn(plugin: &Installed, socket: OwnedFd) -> Result<Child> {
    let mut command = std::process::Command::new(&plugin.path);
    command
        .env_clear()
        .env("NRI_PLUGIN_NAME", &plugin.name)
        .env("NRI_PLUGIN_IDX", &plugin.index)
        .env("NRI_PLUGIN_SOCKET", "3")
        .current_dir("/")
        .stdin(Stdio::null());
    sys::spawn::as_stranger_with(&mut command, socket);
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
        .spawn()
        .classify(Kind::FailedPrecondition, || "start the program".to_owned())
        .context(|| format!("NRI plugin {}", plugin.path.display()))
}

/// SIGKILL, and takes note of the end.
async fn end(mut child: Child, title: &str) {
    match child.kill().await {
        Ok(()) => tracing::debug!(plugin = title, "the NRI plugin's process has ended"),
        Err(error) => {
            tracing::warn!(plugin = title, %error, "an NRI plugin's process would not end")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, name: &str, mode: u32, text: &[u8]) {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn programs_are_found_in_order_and_what_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path();
        program(here, "20-a", 0o755, b"#!");
        program(here, "10-b-c", 0o700, b"#!");
        program(here, "10-a", 0o755, b"#!");
        program(here, "30-notes", 0o644, b"");
        program(here, "plugin", 0o755, b"");
        program(here, "1-x", 0o755, b"");
        program(here, "40-w", 0o755, b"\0asm....");
        program(here, "60-open", 0o775, b"#!");
        std::fs::create_dir(here.join("50-dir")).unwrap();

        let (plugins, others) = installed_blocking(here).unwrap();

        let names: Vec<_> = plugins
            .iter()
            .map(|plugin| format!("{}-{}", plugin.index, plugin.name))
            .collect();
        assert_eq!(names, ["10-a", "10-b-c", "20-a"]);
        assert_eq!(others.len(), 4);
        assert_eq!(installed_blocking(&here.join("none")).unwrap().0, []);
    }

    #[test]
    fn the_configuration_with_the_index_wins() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = Installed {
            path: "/p/10-a".into(),
            index: "10".into(),
            name: "a".into(),
        };
        let config = || config_blocking(dir.path(), &plugin).unwrap();

        assert_eq!(config(), "");
        std::fs::write(dir.path().join("a.conf"), "plain").unwrap();
        assert_eq!(config(), "plain");
        std::fs::write(dir.path().join("10-a.conf"), "own").unwrap();
        assert_eq!(config(), "own");
        std::fs::write(dir.path().join("10-a.conf"), [0xff]).unwrap();
        assert!(config_blocking(dir.path(), &plugin).is_err());
    }
}
