//! A look at the network configuration for people: what is configured, and which plugins could not be run.

use super::conflist;
use super::plugin::find_blocking;
use super::settings::NetworkSettings;
use crate::model::Result;

/// One configured network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyedNetwork {
    /// Its name.
    pub name: String,
    /// What is wrong with its plugins, a sentence each; empty where all could be run.
    pub broken_plugins: Vec<String>,
}

/// Reads the networks that pods would be attached to now. Runs nothing.
///
/// # Errors
/// `NotFound` without a configuration; otherwise what is wrong with it.
pub fn survey_blocking(settings: &NetworkSettings) -> Result<Vec<SurveyedNetwork>> {
    let networks = conflist::load_dir_blocking(&settings.conf_dir, settings.max_conf_num)?;
    let surveyed = networks.iter().map(|network| SurveyedNetwork {
        name: network.name.clone(),
        broken_plugins: network
            .plugins
            .iter()
            .filter_map(|plugin| find_blocking(&settings.bin_dirs, &plugin.plugin_type).err())
            .map(|error| error.chain())
            .collect(),
    });
    Ok(surveyed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn a_missing_plugin_is_named_and_a_missing_configuration_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let settings = NetworkSettings {
            conf_dir: dir.path().to_owned(),
            bin_dirs: vec![dir.path().join("bin")],
            ..NetworkSettings::default()
        };
        let empty = survey_blocking(&settings).unwrap_err();
        std::fs::write(
            dir.path().join("10-pods.conflist"),
            r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "absent"}]}"#,
        )
        .unwrap();

        let networks = survey_blocking(&settings).unwrap();

        assert_eq!(empty.kind(), Kind::NotFound);
        assert_eq!(networks[0].name, "pods");
        assert!(networks[0].broken_plugins[0].contains("absent"));
    }
}
