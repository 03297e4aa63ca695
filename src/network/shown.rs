//! The network configuration as `crictl info` shows it, under the names that the CNI library gives it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::conflist::{NetworkConfig, PluginConfig};
use super::settings::NetworkSettings;

/// What is configured; the interfaces are those that the first pod network and those behind it get.
pub(super) fn shown(settings: &NetworkSettings, networks: &[NetworkConfig]) -> Value {
    let networks: Vec<Value> = networks
        .iter()
        .enumerate()
        .map(|(number, one)| json!({ "Config": list(one), "IFName": format!("eth{number}") }))
        .collect();
    let text = |path: &Path| path.display().to_string();
    json!({
        "PluginDirs": settings.bin_dirs.iter().map(|dir| text(dir)).collect::<Vec<_>>(),
        "PluginConfDir": text(&settings.conf_dir),
        "PluginMaxConfNum": settings.max_conf_num,
        "Prefix": "eth",
        "Networks": networks,
    })
}

fn list(network: &NetworkConfig) -> Value {
    json!({
        "Name": network.name,
        "CNIVersion": network.version.to_string(),
        "Plugins": network.plugins.iter().map(plugin).collect::<Vec<_>>(),
        "Source": network.text,
    })
}

fn plugin(plugin: &PluginConfig) -> Value {
    let mut main = Map::from_iter([("type".to_owned(), json!(plugin.plugin_type))]);
    let ipam = plugin.object.get("ipam").and_then(|ipam| ipam.get("type"));
    main.insert(
        "ipam".to_owned(),
        ipam.map_or_else(|| json!({}), |kind| json!({ "type": kind })),
    );
    if let Some(capabilities) = plugin.object.get("capabilities") {
        main.insert("capabilities".to_owned(), capabilities.clone());
    }
    json!({ "Network": main, "Source": Value::Object(plugin.object.clone()).to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::conflist;

    #[test]
    fn lists_are_shown_under_the_names_of_the_cni_library() {
        let network = conflist::parse(
            r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [
                {"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}},
                {"type": "portmap", "capabilities": {"portMappings": true}}]}"#,
        )
        .unwrap();
        let settings = NetworkSettings::default();

        let shown = shown(&settings, &[network]);

        assert_eq!(shown["PluginConfDir"], "/etc/cni/net.d");
        assert_eq!(shown["PluginDirs"][1], "/usr/lib/cni");
        assert_eq!(shown["PluginMaxConfNum"], 1);
        let first = &shown["Networks"][0];
        assert_eq!(first["IFName"], "eth0");
        assert_eq!(first["Config"]["Name"], "pods");
        assert_eq!(first["Config"]["CNIVersion"], "0.4.0");
        let plugins = &first["Config"]["Plugins"];
        assert_eq!(
            plugins[0]["Network"],
            json!({"type": "bridge", "ipam": {"type": "host-local"}})
        );
        assert_eq!(
            plugins[1]["Network"]["capabilities"]["portMappings"],
            json!(true)
        );
        let source: Value = serde_json::from_str(plugins[0]["Source"].as_str().unwrap()).unwrap();
        assert_eq!(source["ipam"]["subnet"], "10.1.0.0/16");
    }
}
