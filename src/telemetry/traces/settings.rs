//! What is said about traces in variables of the OpenTelemetry specification, as containerd reads them.

use std::path::PathBuf;

use opentelemetry_sdk::trace::Sampler;
use tonic::codegen::http::Uri;

use crate::model::{Error, Result};

/// What we are called where nobody says otherwise.
const SERVICE: &str = "podwright";
/// Where a collector takes traces, below an endpoint that is meant for all signals.
const HTTP_PATH: &str = "v1/traces";

const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const ENDPOINT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOL: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const CERTIFICATE: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];
const TIMEOUT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// How spans travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Protobuf in HTTP requests.
    Http,
    /// gRPC.
    Grpc,
}

/// Where traces go and which are taken.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) protocol: Protocol,
    /// The whole address, path included.
    pub(super) endpoint: String,
    /// Who signs the collector's certificate, beside those whom the host trusts.
    pub(super) certificate: Option<PathBuf>,
    pub(super) sampler: Sampler,
    pub(super) service: String,
}

impl Settings {
    /// Reads the variables through `get`, which answers `None` for what is not set. `None` where no traces are wanted:
    /// without an endpoint there are none.
    ///
    /// # Errors
    /// `InvalidArgument` for a value that makes no sense, naming the variable.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        // An empty value counts as none (OpenTelemetry: Environment Variable Specification).
        let get = |name: &str| {
            let value = get(name)?.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let first = |names: [&'static str; 2]| {
            let mut set = names.into_iter();
            set.find_map(|name| get(name).map(|value| (name, value)))
        };
        if is_disabled(get(DISABLED))? || !is_otlp(get(EXPORTER))? {
            return Ok(None);
        }
        let Some((variable, endpoint)) = first(ENDPOINT) else {
            return Ok(None);
        };
        let protocol = match first(PROTOCOL) {
            Some((variable, name)) => protocol(variable, &name)?,
            None => Protocol::Http,
        };
        if let Some((variable, millis)) = first(TIMEOUT)
            && millis.parse::<u32>().is_err()
        {
            return Err(wrong(variable, &millis, "milliseconds"));
        }
        // The address for all signals is a beginning, the one for traces is whole.
        let is_whole = variable == ENDPOINT[0] || protocol == Protocol::Grpc;
        Ok(Some(Self {
            protocol,
            endpoint: address(variable, endpoint, is_whole)?,
            certificate: first(CERTIFICATE).map(|(_, path)| path.into()),
            sampler: sampler(get(SAMPLER), get(SAMPLER_ARG))?,
            service: service(get(SERVICE_NAME), get(RESOURCE)),
        }))
    }
}

fn is_disabled(value: Option<String>) -> Result<bool> {
    match value {
        None => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(text) => Err(wrong(DISABLED, &text, "true or false")),
    }
}

fn is_otlp(value: Option<String>) -> Result<bool> {
    match value.as_deref() {
        None | Some("otlp") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => Err(wrong(EXPORTER, other, "otlp or none")),
    }
}

fn protocol(variable: &str, name: &str) -> Result<Protocol> {
    match name {
        "http/protobuf" => Ok(Protocol::Http),
        "grpc" => Ok(Protocol::Grpc),
        other => Err(wrong(variable, other, "http/protobuf or grpc")),
    }
}

/// The address to send to. It may hold a password, so no error shows it.
fn address(variable: &str, endpoint: String, is_whole: bool) -> Result<String> {
    let uri: Option<Uri> = endpoint.parse().ok();
    let is_good = uri.as_ref().is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    match is_good {
        true if is_whole => Ok(endpoint),
        true => Ok(format!("{}/{HTTP_PATH}", endpoint.trim_end_matches('/'))),
        false => Err(Error::invalid(format!(
            "{variable}: want an address as http://host:port or https://host:port"
        ))),
    }
}

fn sampler(name: Option<String>, argument: Option<String>) -> Result<Sampler> {
    let ratio = || match argument.as_deref().map(str::parse::<f64>) {
        None => Ok(1.0),
        Some(Ok(ratio)) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        Some(_) => Err(wrong(
            SAMPLER_ARG,
            argument.as_deref().unwrap_or_default(),
            "a number from 0 to 1",
        )),
    };
    let by_parent = |otherwise| Sampler::ParentBased(Box::new(otherwise));
    match name.as_deref() {
        None | Some("parentbased_always_on") => Ok(by_parent(Sampler::AlwaysOn)),
        Some("parentbased_always_off") => Ok(by_parent(Sampler::AlwaysOff)),
        Some("parentbased_traceidratio") => Ok(by_parent(Sampler::TraceIdRatioBased(ratio()?))),
        Some("always_on") => Ok(Sampler::AlwaysOn),
        Some("always_off") => Ok(Sampler::AlwaysOff),
        Some("traceidratio") => Ok(Sampler::TraceIdRatioBased(ratio()?)),
        Some(other) => Err(wrong(
            SAMPLER,
            other,
            "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or parentbased_traceidratio",
        )),
    }
}

/// The name by which collectors know us. A name of its own goes before one among the attributes.
fn service(name: Option<String>, attributes: Option<String>) -> String {
    let among = || {
        let attributes = attributes.as_deref().unwrap_or_default();
        let mut pairs = attributes
            .split(',')
            .filter_map(|pair| pair.split_once('='));
        let (_, name) = pairs.find(|(key, _)| key.trim() == "service.name")?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    };
    name.or_else(among).unwrap_or_else(|| SERVICE.to_owned())
}

fn wrong(variable: &str, value: &str, want: &str) -> Error {
    const SHOWN: usize = 64;
    let value: String = value.chars().take(SHOWN).collect();
    Error::invalid(format!("{variable}: {value:?}: want {want}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::model::Kind;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>> {
        Settings::from_variables(|name| {
            let mut all = variables.iter();
            let (_, value) = all.find(|(key, _)| *key == name)?;
            Some((*value).to_owned())
        })
    }

    const ON: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

    #[rstest]
    #[case::nothing(&[])]
    #[case::an_empty_endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")])]
    #[case::none_wanted(&[ON, ("OTEL_TRACES_EXPORTER", "none")])]
    #[case::switched_off(&[ON, ("OTEL_SDK_DISABLED", "True")])]
    #[case::off_whatever_else_is_wrong(&[ON, ("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_SAMPLER", "dice")])]
    fn traces_are_off(#[case] variables: &[(&str, &str)]) {
        assert!(read(variables).unwrap().is_none());
    }

    #[test]
    fn an_endpoint_alone_is_enough() {
        let settings = read(&[ON, ("OTEL_SDK_DISABLED", "false")])
            .unwrap()
            .unwrap();

        assert_eq!(settings.endpoint, "http://collector:4318/v1/traces");
        assert_eq!(settings.protocol, Protocol::Http);
        assert_eq!(settings.service, "podwright");
        assert!(matches!(
            settings.sampler,
            Sampler::ParentBased(root) if format!("{root:?}") == "AlwaysOn"
        ));
    }

    #[rstest]
    #[case::of_traces_is_whole(&[ON, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/t")], "https://other/t")]
    #[case::of_grpc_is_whole(&[ON, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "http://collector:4318/")]
    #[case::of_traces_alone_may_be_http(
        &[ON, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")],
        "http://collector:4318/v1/traces"
    )]
    fn the_address(#[case] variables: &[(&str, &str)], #[case] address: &str) {
        assert_eq!(read(variables).unwrap().unwrap().endpoint, address);
    }

    #[rstest]
    #[case("OTEL_SDK_DISABLED", "yes")]
    #[case("OTEL_TRACES_EXPORTER", "zipkin")]
    #[case("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318")]
    #[case("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///run/collector.sock")]
    #[case("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]
    #[case("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "GRPC")]
    #[case("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")]
    #[case("OTEL_TRACES_SAMPLER", "dice")]
    fn a_wrong_value_is_an_error_that_names_it(#[case] variable: &str, #[case] value: &str) {
        let error = read(&[ON, (variable, value)]).unwrap_err();

        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().starts_with(variable), "{error}");
    }

    #[test]
    fn an_address_may_hold_a_password_and_is_not_shown() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://me:secret@host");

        assert!(
            !read(&[endpoint])
                .unwrap_err()
                .to_string()
                .contains("secret")
        );
    }

    #[rstest]
    #[case("0.25", true)]
    #[case("1.5", false)]
    #[case("NaN", false)]
    #[case("a half", false)]
    fn a_ratio_lies_between_none_and_all(#[case] ratio: &str, #[case] is_good: bool) {
        let sampler = ("OTEL_TRACES_SAMPLER", "traceidratio");

        let read = read(&[ON, sampler, ("OTEL_TRACES_SAMPLER_ARG", ratio)]);

        assert_eq!(read.is_ok(), is_good);
    }

    #[test]
    fn the_services_own_name_goes_before_the_one_among_attributes() {
        let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=node-runtime");
        let name = |variables: &[(&str, &str)]| read(variables).unwrap().unwrap().service;

        assert_eq!(name(&[ON, attributes]), "node-runtime");
        assert_eq!(
            name(&[ON, attributes, ("OTEL_SERVICE_NAME", "mine")]),
            "mine"
        );
    }
}
