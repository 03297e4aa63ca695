//! The rules of `[images]`.

use super::rules::Rules;
use super::units::Span;
use super::{file, settings};

/// Smaller pieces would be requests more than bytes.
const LEAST_RANGE: u64 = 256 * 1024;

impl Rules {
    pub(super) fn images(&mut self, file: &file::Images) -> settings::Images {
        if file.max_layer_bytes == 0 {
            self.broken("images.max_layer_bytes", "must be at least 1");
        }
        if file.range_size > 0 {
            if file.range_size < LEAST_RANGE {
                self.broken(
                    "images.range_size",
                    format!("must be 0 or at least {LEAST_RANGE}"),
                );
            }
            if file.range_memory < file.range_size {
                self.broken(
                    "images.range_memory",
                    "must be at least images.range_size, or that 0",
                );
            }
        }
        if file.pressure_limit > 100 {
            self.broken("images.pressure_limit", "must be a percentage, 0 to 100");
        }
        settings::Images {
            registry_config_path: self
                .directories("images.registry_config_path", &file.registry_config_path),
            max_concurrent_downloads: self.size(
                "images.max_concurrent_downloads",
                file.max_concurrent_downloads,
                1,
                64,
            ),
            progress_timeout: self.span(
                "images.progress_timeout",
                file.progress_timeout,
                Span::seconds(1),
            ),
            mirror_dial_timeout: self.span(
                "images.mirror_dial_timeout",
                file.mirror_dial_timeout,
                Span::millis(100),
            ),
            hedge_after: self.span("images.hedge_after", file.hedge_after, Span::seconds(0)),
            pinned: self.patterns("images.pinned", &file.pinned),
            max_layer_bytes: file.max_layer_bytes,
            max_unpacked_layer_bytes: file.max_unpacked_layer_bytes,
            max_unpacked_image_bytes: file.max_unpacked_image_bytes,
            range_size: file.range_size,
            range_memory: file.range_memory,
            unpack: file.unpack,
            pull_policy: file
                .pull_policy
                .iter()
                .map(|rule| self.pull_rule(rule))
                .collect(),
            verifiers: file
                .verifiers
                .iter()
                .map(|rule| self.verifier(rule))
                .collect(),
            lazy_snapshotters: file
                .lazy_snapshotters
                .iter()
                .map(|name| self.word("images.lazy_snapshotters", name))
                .collect(),
            credentials_file: self
                .optional_absolute("images.credentials_file", file.credentials_file.as_ref()),
            trusted_mirrors: file
                .trusted_mirrors
                .iter()
                .map(|host| self.authority("images.trusted_mirrors", host))
                .collect(),
            pressure_limit: file.pressure_limit,
        }
    }

    fn pull_rule(&mut self, rule: &file::PullRule) -> settings::PullRule {
        self.image_pattern("images.pull_policy", &rule.pattern);
        settings::PullRule {
            pattern: rule.pattern.clone(),
            policy: rule.policy,
            trust_local: rule.trust_local,
        }
    }

    fn verifier(&mut self, rule: &file::Verifier) -> settings::Verifier {
        self.image_pattern("images.verifiers", &rule.pattern);
        settings::Verifier {
            pattern: rule.pattern.clone(),
            program: self.absolute("images.verifiers.program", &rule.program),
            arguments: rule.arguments.clone(),
            timeout: self.span("images.verifiers.timeout", rule.timeout, Span::millis(100)),
        }
    }

    /// A host with or without a port, as `hosts.toml` names it behind the scheme.
    fn authority(&mut self, key: &str, text: &str) -> String {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        let is_literal = |host: &str| {
            let address = host
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
        };
        let is_name = |host: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
            !host.is_empty() && host.bytes().all(fits)
        };
        let is_authority = (is_name(host) || is_literal(host))
            && port.is_none_or(|port| port.parse::<u16>().is_ok());
        if !is_authority {
            self.broken(
                key,
                format!("{text:?} must be a host or host:port, without a scheme or a path"),
            );
        }
        text.to_ascii_lowercase()
    }

    fn image_pattern(&mut self, key: &str, pattern: &str) {
        if pattern.trim().is_empty() {
            self.broken(
                key,
                "every rule needs a pattern, such as \"registry.example/*\"",
            );
        }
    }
}
