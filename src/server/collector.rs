//! Where traces go: what the environment says, and where it is silent, what `[tracing]` says. Both end up as the variables
//! of the OpenTelemetry specification, which a managed containerd is given too.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use crate::config::{OtlpProtocol, settings};

/// How all of the specification's variables begin.
const OURS: &str = "OTEL_";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// What a managed containerd is called: it is none of podwright's spans that it sends.
const CONTAINERD: &str = "containerd";

/// The variables that say where traces go, and which.
#[derive(Clone, Default)]
pub(super) struct Variables(BTreeMap<String, String>);

/// Values are left out: headers may hold what lets one in.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Variables {
    /// Those of `environment`, and for what it does not say, of `tracing`.
    pub(super) fn gather(
        environment: impl Iterator<Item = (OsString, OsString)>,
        tracing: &settings::Tracing,
    ) -> Self {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let set = environment.map(|(name, value)| (text(name), text(value)));
        // An empty value counts as none (OpenTelemetry: Environment Variable Specification).
        let set = set.filter(|(name, value)| name.starts_with(OURS) && !value.trim().is_empty());
        let mut all: BTreeMap<String, String> = set.collect();
        let mut add = |name: &str, value: String| {
            all.entry(name.to_owned()).or_insert(value);
        };
        if let Some(endpoint) = &tracing.endpoint {
            add(ENDPOINT, endpoint.clone());
        }
        if tracing.protocol == OtlpProtocol::Grpc {
            add(PROTOCOL, "grpc".to_owned());
        }
        if let Some(ratio) = tracing.sampling_ratio()
            && !all.contains_key(SAMPLER)
        {
            all.insert(SAMPLER.to_owned(), "parentbased_traceidratio".to_owned());
            all.insert(SAMPLER_ARG.to_owned(), ratio.to_string());
        }
        Self(all)
    }

    /// The value of one.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// All of them as a managed containerd needs them: to the same collector, under its own name.
    pub(super) fn of_containerd(mut self) -> Self {
        if !self.0.is_empty() {
            self.0
                .insert(SERVICE_NAME.to_owned(), CONTAINERD.to_owned());
        }
        self
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn gather(set: &[(&str, &str)], tracing: &str) -> Variables {
        let config = Config::parse(&format!("[tracing]\n{tracing}")).unwrap();
        let set = set.iter().map(|(name, value)| (name.into(), value.into()));
        Variables::gather(set, &config.tracing)
    }

    fn shown(variables: &Variables) -> Vec<String> {
        let all = variables.iter();
        all.map(|(name, value)| format!("{name}={value}")).collect()
    }

    const FILE: &str = "endpoint = \"http://file:4317\"\nprotocol = \"grpc\"\nsampling_rate_per_million = 250000\n";

    #[test]
    fn the_file_says_what_the_environment_does_not() {
        assert!(shown(&gather(&[("HOME", "/")], "")).is_empty());
        assert_eq!(
            shown(&gather(&[(ENDPOINT, " ")], FILE)),
            [
                "OTEL_EXPORTER_OTLP_ENDPOINT=http://file:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
                "OTEL_TRACES_SAMPLER=parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG=0.25",
            ]
        );
        assert_eq!(
            shown(&gather(
                &[
                    (ENDPOINT, "http://variable"),
                    (PROTOCOL, "http/protobuf"),
                    (SAMPLER, "always_on"),
                ],
                FILE
            )),
            [
                "OTEL_EXPORTER_OTLP_ENDPOINT=http://variable",
                "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
                "OTEL_TRACES_SAMPLER=always_on",
            ]
        );
    }

    #[test]
    fn a_managed_containerd_has_a_name_of_its_own_and_the_rest() {
        let ours = gather(
            &[
                (ENDPOINT, "http://all"),
                (SERVICE_NAME, "node-7"),
                ("HOME", "/"),
            ],
            "",
        );

        assert_eq!(
            shown(&ours.of_containerd()),
            [
                "OTEL_EXPORTER_OTLP_ENDPOINT=http://all",
                "OTEL_SERVICE_NAME=containerd",
            ]
        );
        assert!(shown(&gather(&[], "").of_containerd()).is_empty());
    }
}
