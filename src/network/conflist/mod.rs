//! Network configuration: which files of the directory count, and what one of them says.
//!
//! A list of plugins is kept as text, just as it was read: that text goes into the intent, and a DEL months later
//! works from it, whatever became of the file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::version::CniVersion;
use crate::model::{Classify, Context, Error, Kind, Result};
use crate::sys::errno::SysContext;
use crate::sys::files;

/// Longest configuration file.
const FILE_CAP: u64 = 1 << 20;
/// Most plugins in a list.
const PLUGINS_MAX: usize = 64;
/// Longest file name, hence longest plugin name.
const TYPE_MAX: usize = 255;

/// One network: a list of plugins, each fed by the one before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NetworkConfig {
    /// The network's name.
    pub(super) name: String,
    /// The version that plugins are spoken to in.
    pub(super) version: CniVersion,
    /// The plugins, in the order of ADD.
    pub(super) plugins: Vec<PluginConfig>,
    /// The whole list as JSON text: parsing it gives this value again.
    pub(super) text: String,
}

/// One plugin of a network.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PluginConfig {
    /// File name of its binary.
    pub(super) plugin_type: String,
    /// Its own object of the list, unknown keys included.
    pub(super) object: Map<String, Value>,
}

impl PluginConfig {
    /// Whether the configuration asks for capability `name`.
    pub(super) fn has_capability(&self, name: &str) -> bool {
        let capabilities = self.object.get("capabilities").and_then(Value::as_object);
        capabilities.and_then(|all| all.get(name)) == Some(&Value::Bool(true))
    }
}

/// Reads the networks that `dir` configures: the first `max` of its `.conf`, `.conflist` and `.json` files by name, all
/// of them where `max` is 0.
///
/// # Errors
/// `NotFound` where there is no such file; one that cannot be used makes the whole load fail, naming it.
pub(super) fn load_dir_blocking(dir: &Path, max: usize) -> Result<Vec<NetworkConfig>> {
    let mut paths = list_blocking(dir, &["conf", "conflist", "json"])?;
    if max > 0 {
        paths.truncate(max);
    }
    if paths.is_empty() {
        return Err(Error::not_found(format!(
            "no network config found in {}: cni plugin not initialized",
            dir.display()
        )));
    }
    paths
        .iter()
        .map(|path| load_file_blocking(dir, path).context(|| path.display().to_string()))
        .collect()
}

fn list_blocking(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let what = || format!("read directory {}", dir.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).sys(what)? {
        let path = entry.sys(what)?.path();
        let known = path
            .extension()
            .is_some_and(|extension| extensions.iter().any(|known| extension == *known));
        if known && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn load_file_blocking(dir: &Path, path: &Path) -> Result<NetworkConfig> {
    let text = read_text_blocking(path)?;
    if path
        .extension()
        .is_some_and(|extension| extension == "conflist")
    {
        let list = object_of(&text)?;
        let inlined_only = list.get("loadOnlyInlinedPlugins") == Some(&Value::Bool(true));
        let name = name_of(&list)?;
        let added = match inlined_only {
            true => Vec::new(),
            false => load_plugins_blocking(&dir.join(name))?,
        };
        if added.is_empty() {
            parse(&text)
        } else {
            parse(&with_plugins(list, added)?)
        }
    } else {
        parse(&list_of_one(&object_of(&text)?)?)
    }
}

/// Administrators put configuration behind links, so these are followed; what is read is a regular file all the same.
fn read_text_blocking(path: &Path) -> Result<String> {
    let resolved = path
        .canonicalize()
        .sys(|| format!("resolve {}", path.display()))?;
    let bytes = files::read_capped_blocking(&resolved, FILE_CAP)?;
    String::from_utf8(bytes).classify(Kind::InvalidArgument, || "read as JSON".to_owned())
}

/// The plugins that packages dropped into `<dir>/<network name>/`.
fn load_plugins_blocking(dir: &Path) -> Result<Vec<Value>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    list_blocking(dir, &["conf"])?
        .iter()
        .map(|path| {
            read_text_blocking(path)
                .and_then(|text| object_of(&text))
                .map(Value::Object)
                .context(|| path.display().to_string())
        })
        .collect()
}

fn with_plugins(mut list: Map<String, Value>, added: Vec<Value>) -> Result<String> {
    let plugins = list
        .entry("plugins")
        .or_insert_with(|| Value::Array(Vec::new()));
    plugins
        .as_array_mut()
        .ok_or_else(|| Error::invalid("`plugins` is not an array"))?
        .extend(added);
    list.insert("loadOnlyInlinedPlugins".to_owned(), Value::Bool(true));
    Ok(Value::Object(list).to_string())
}

fn list_of_one(plugin: &Map<String, Value>) -> Result<String> {
    if !plugin.contains_key("type") {
        return Err(Error::invalid(
            "no `type`; a list of plugins needs a file name that ends in .conflist",
        ));
    }
    let mut list = Map::new();
    for key in ["name", "cniVersion"] {
        if let Some(value) = plugin.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    let plugins = Value::Array(vec![Value::Object(plugin.clone())]);
    list.insert("plugins".to_owned(), plugins);
    Ok(Value::Object(list).to_string())
}

fn object_of(text: &str) -> Result<Map<String, Value>> {
    serde_json::from_str(text)
        .classify(Kind::InvalidArgument, || "read as a JSON object".to_owned())
}

fn name_of(list: &Map<String, Value>) -> Result<&str> {
    let name = list.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut bytes = name.bytes();
    let first = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        Ok(name)
    } else {
        Err(Error::invalid(format!(
            "`name` is {name:?}: want a letter or digit, then letters, digits, `_`, `.` and `-`"
        )))
    }
}

/// Reads a list of plugins.
///
/// # Errors
/// `InvalidArgument` naming the key that is wrong.
pub(super) fn parse(text: &str) -> Result<NetworkConfig> {
    let list = object_of(text)?;
    let name = name_of(&list)?.to_owned();
    let version = version_of(&list)?;
    let plugins = list
        .get("plugins")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    if plugins.is_empty() || plugins.len() > PLUGINS_MAX {
        return Err(Error::invalid(format!(
            "network {name}: {} plugins; want 1 to {PLUGINS_MAX}",
            plugins.len()
        )));
    }
    let plugins = plugins.iter().map(plugin_of).collect::<Result<_>>();
    Ok(NetworkConfig {
        plugins: plugins.context(|| format!("network {name}"))?,
        name,
        version,
        text: text.to_owned(),
    })
}

fn version_of(list: &Map<String, Value>) -> Result<CniVersion> {
    let string = |key: &str, value: &Value| {
        let text = value.as_str();
        text.ok_or_else(|| Error::invalid(format!("`{key}` is not a string")))?
            .parse::<CniVersion>()
            .context(|| format!("`{key}`"))
    };
    let single = list
        .get("cniVersion")
        .map(|value| string("cniVersion", value))
        .transpose()?;
    let Some(offered) = list.get("cniVersions") else {
        return Ok(single.unwrap_or_default());
    };
    let offered = offered
        .as_array()
        .ok_or_else(|| Error::invalid("`cniVersions` is not an array"))?
        .iter()
        .map(|value| string("cniVersions", value))
        .collect::<Result<Vec<_>>>()?;
    let spoken = offered.into_iter().chain(single.clone());
    Ok(spoken
        .filter(|version| *version <= CniVersion::newest())
        .max()
        .or(single)
        .unwrap_or_default())
}

fn plugin_of(plugin: &Value) -> Result<PluginConfig> {
    let object = plugin
        .as_object()
        .ok_or_else(|| Error::invalid("a plugin is not a JSON object"))?;
    let plugin_type = type_of(object)?;
    if let Some(ipam) = object.get("ipam").and_then(Value::as_object)
        && ipam.contains_key("type")
    {
        type_of(ipam).context(|| format!("plugin {plugin_type}: ipam"))?;
    }
    Ok(PluginConfig {
        plugin_type,
        object: object.clone(),
    })
}

/// The name of a binary, which must not lead out of the plugin directories.
fn type_of(object: &Map<String, Value>) -> Result<String> {
    let name = object
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let ok = !matches!(name, "" | "." | "..")
        && name.len() <= TYPE_MAX
        && !name.chars().any(|c| c == '/' || c.is_control());
    if ok {
        Ok(name.to_owned())
    } else {
        let shown: String = name.chars().take(40).collect();
        Err(Error::invalid(format!(
            "`type` is {shown:?}: want the file name of a plugin, without a path"
        )))
    }
}

#[cfg(test)]
mod tests;
