//! The rules of `[metrics]`.

use std::path::Path;

use super::check::SOCKET_PATH_MAX;
use super::file;
use super::rules::Rules;
use super::settings::{Metrics, MetricsAddress};

const KEY: &str = "metrics.address";
/// Before the path of a unix socket.
const UNIX: &str = "unix:";

impl Rules {
    pub(super) fn metrics(&mut self, file: &file::Metrics) -> Metrics {
        let text = file.address.as_str();
        let address = match (text, text.strip_prefix(UNIX)) {
            ("", _) => None,
            (_, Some(path)) => {
                if path.len() > SOCKET_PATH_MAX {
                    self.broken(
                        KEY,
                        format!("must not be longer than {SOCKET_PATH_MAX} bytes"),
                    );
                }
                Some(MetricsAddress::Unix(self.absolute(KEY, Path::new(path))))
            }
            (text, None) => match text.parse() {
                Ok(address) => Some(MetricsAddress::Tcp(address)),
                Err(_no_address) => {
                    self.broken(
                        KEY,
                        format!("{text:?} must be IP:PORT or unix:/PATH, or empty for no endpoint"),
                    );
                    None
                }
            },
        };
        if let Some(MetricsAddress::Tcp(tcp)) = address
            && tcp.port() == 0
        {
            self.broken(KEY, "must name a port: nobody would know where to scrape");
        }
        Metrics { address }
    }
}

impl Metrics {
    /// What is allowed and yet worth a word.
    pub(super) fn warn(&self, out: &mut Vec<String>) {
        if let Some(MetricsAddress::Tcp(address)) = self.address
            && !address.ip().is_loopback()
        {
            out.push(format!(
                "{KEY} {address}: whoever reaches it can read which registries this node asks and how it fares; listen on the loopback or a unix socket"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::config::Config;

    fn parse(address: &str) -> Result<Config, String> {
        let text = format!("[metrics]\naddress = {address:?}\n");
        Config::parse(&text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn there_is_no_endpoint_unless_one_is_named() {
        assert_eq!(Config::default().metrics.address, None);
        let tcp = parse("127.0.0.1:9464").unwrap();
        assert_eq!(
            tcp.metrics.address,
            Some(MetricsAddress::Tcp(([127, 0, 0, 1], 9464).into()))
        );
        let unix = parse("unix:/run/podwright/metrics.sock").unwrap();
        assert_eq!(
            unix.metrics.address,
            Some(MetricsAddress::Unix("/run/podwright/metrics.sock".into()))
        );
        assert!(tcp.warnings().is_empty() && unix.warnings().is_empty());
    }

    #[rstest]
    #[case::other_host("192.0.2.1:9464")]
    #[case::every_address("[::]:9464")]
    fn an_address_that_others_reach_is_worth_a_warning(#[case] address: &str) {
        let warnings = parse(address).unwrap().warnings();

        assert!(warnings[0].starts_with("metrics.address "), "{warnings:?}");
    }

    #[rstest]
    #[case::name("localhost:9464", "must be IP:PORT or unix:/PATH")]
    #[case::no_port("127.0.0.1", "must be IP:PORT or unix:/PATH")]
    #[case::port_of_chance("127.0.0.1:0", "must name a port")]
    #[case::relative("unix:metrics.sock", "must be an absolute path")]
    #[case::our_own("unix:/run/podwright/podwright.sock", "must not be server.socket")]
    #[case::of_plugins("unix:/var/run/nri/nri.sock", "must not be nri.socket")]
    fn what_cannot_be_listened_on_is_refused(#[case] address: &str, #[case] rule: &str) {
        let problems = parse(address).unwrap_err();

        assert!(problems.contains("line 2: metrics.address: "), "{problems}");
        assert!(problems.contains(rule), "{problems}");
    }
}
