//! The rules of `[tracing]`.

use super::file;
use super::rules::Rules;
use super::settings::Tracing;

const ENDPOINT: &str = "tracing.endpoint";
const RATE: &str = "tracing.sampling_rate_per_million";
const MILLION: u32 = 1_000_000;

impl Rules {
    pub(super) fn tracing(&mut self, file: &file::Tracing) -> Tracing {
        let endpoint = Some(file.endpoint.clone()).filter(|text| !text.is_empty());
        if endpoint.as_deref().is_some_and(|text| !is_address(text)) {
            // It may hold a password, so it is not shown.
            self.broken(
                ENDPOINT,
                "must be an address as http://HOST:PORT or https://HOST:PORT, without a user: headers with credentials belong into OTEL_EXPORTER_OTLP_HEADERS",
            );
        }
        if file.sampling_rate_per_million > MILLION {
            self.broken(RATE, format!("must lie between 0 and {MILLION}"));
        }
        Tracing {
            endpoint,
            protocol: file.protocol,
            sampling_rate_per_million: file.sampling_rate_per_million,
        }
    }
}

/// Whether it is a web address whose every character may stand there.
fn is_address(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split('/').next());
    let may_stand = |c: char| c.is_ascii_alphanumeric() || "-._~%:/[]".contains(c);
    host.is_some_and(|host| !host.is_empty() && !host.starts_with(':'))
        && text.chars().all(may_stand)
}

impl Tracing {
    /// The share of the calls that are traced although their caller does not; `None` is all.
    pub fn sampling_ratio(&self) -> Option<f64> {
        let rate = self.sampling_rate_per_million;
        (rate < MILLION).then(|| f64::from(rate) / f64::from(MILLION))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use crate::config::{Config, OtlpProtocol};

    #[test]
    fn there_are_no_traces_unless_a_collector_is_named() {
        let off = Config::default().tracing;
        assert_eq!((&off.endpoint, off.sampling_ratio()), (&None, None));
        assert_eq!(off.protocol, OtlpProtocol::Http);
    }

    #[rstest]
    #[case("endpoint = \"http://127.0.0.1:4318\"", "")]
    #[case("endpoint = \"https://[::1]:4317/way\"", "")]
    #[case(
        "endpoint = \"127.0.0.1:4318\"",
        "tracing.endpoint: must be an address"
    )]
    #[case("endpoint = \"http://:4318\"", "tracing.endpoint: must be an address")]
    #[case(
        "endpoint = \"http://me:secret@host\"",
        "tracing.endpoint: must be an address"
    )]
    #[case("endpoint = \"http://a b\"", "tracing.endpoint: must be an address")]
    #[case("protocol = \"grpc\"", "")]
    #[case("protocol = \"http/json\"", "protocol")]
    #[case("sampling_rate_per_million = 0", "")]
    #[case(
        "sampling_rate_per_million = 1000001",
        "must lie between 0 and 1000000"
    )]
    fn what_no_collector_could_be_reached_by_is_refused(#[case] line: &str, #[case] says: &str) {
        let read = Config::parse(&format!("[tracing]\n{line}\n"));
        let complaint = read.err().map(|problems| problems.to_string());
        let complaint = complaint.unwrap_or_default();
        assert_eq!(complaint.is_empty(), says.is_empty(), "{complaint}");
        assert!(complaint.contains(says), "{complaint}");
        assert!(!complaint.contains("secret"), "{complaint}");
    }

    #[test]
    fn a_rate_is_a_share_of_all_calls() {
        let ratio = |rate: u32| {
            let text = format!("[tracing]\nsampling_rate_per_million = {rate}\n");
            Config::parse(&text).unwrap().tracing.sampling_ratio()
        };
        assert_eq!(ratio(0), Some(0.0));
        assert_eq!(ratio(250_000), Some(0.25));
        assert_eq!(ratio(1_000_000), None);
    }
}
