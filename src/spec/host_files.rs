//! The text of a sandbox's files: hostname, hosts, resolv.conf (contract: pods 3.2). Each is a line format that parts of
//! a request are put into, so a part that could end a line or a word is refused, never repaired.

use crate::model::pod::DnsConfig;
use crate::model::{Error, Result};

const MAX_HOSTNAME_BYTES: usize = 64;
const MAX_LABEL_BYTES: usize = 63;
const MAX_DOMAIN_BYTES: usize = 253;
const MAX_ENTRIES: usize = 32;
const MAX_ENTRY_BYTES: usize = 255;
const MAX_SEARCH_BYTES: usize = 2048;
/// The hosts file of a pod whose node has none.
const LOOPBACK_HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Judges a pod's host name.
///
/// # Errors
/// `InvalidArgument` beyond 64 bytes, or with anything but letters, digits, `-` and `.`.
pub fn check_hostname(hostname: &str) -> Result<()> {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if hostname.is_empty()
        || hostname.len() <= MAX_HOSTNAME_BYTES && hostname.split('.').all(is_label)
    {
        return Ok(());
    }
    Err(refused(
        "hostname",
        hostname,
        "want at most 64 letters, digits, `-` and `.`",
    ))
}

/// `/etc/hostname`: the pod's name, or the node's where it has none.
///
/// # Errors
/// As [`check_hostname`].
pub fn hostname(asked: &str, node: &str) -> Result<String> {
    check_hostname(asked)?;
    let name = if asked.is_empty() { node } else { asked };
    Ok(format!("{name}\n"))
}

/// `/etc/hosts`: a copy of the node's.
pub fn hosts(node: Option<&str>) -> String {
    node.unwrap_or(LOOPBACK_HOSTS).to_owned()
}

/// `/etc/resolv.conf`: what the pod asks, which may be nothing at all, or a copy of the node's where it does not ask.
///
/// # Errors
/// `InvalidArgument` where an entry is no server, domain or option, or there are too many.
pub fn resolv_conf(asked: Option<&DnsConfig>, node: &str) -> Result<String> {
    let Some(dns) = asked else {
        return Ok(node.to_owned());
    };
    check_dns(dns)?;
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
}

/// Judges a pod's resolver settings.
///
/// # Errors
/// As [`resolv_conf`].
pub fn check_dns(dns: &DnsConfig) -> Result<()> {
    let lists = [
        ("DNS server", &dns.servers),
        ("DNS search domain", &dns.searches),
        ("DNS option", &dns.options),
    ];
    for (what, entries) in lists {
        if entries.len() > MAX_ENTRIES {
            return Err(Error::invalid(format!(
                "{what}: {} entries, at most {MAX_ENTRIES} are accepted",
                entries.len()
            )));
        }
        for entry in entries {
            let is_word = (1..=MAX_ENTRY_BYTES).contains(&entry.len())
                && entry.bytes().all(|b| b.is_ascii_graphic());
            if !is_word {
                return Err(refused(what, entry, "want one word of printable ASCII"));
            }
        }
    }
    for domain in &dns.searches {
        let bare = domain.strip_suffix('.').unwrap_or(domain);
        let fits = |label: &str| (1..=MAX_LABEL_BYTES).contains(&label.len());
        if bare.len() > MAX_DOMAIN_BYTES || !bare.is_empty() && !bare.split('.').all(fits) {
            return Err(refused(
                "DNS search domain",
                domain,
                "want labels of 1 to 63 bytes, 253 in all",
            ));
        }
    }
    let total: usize = dns.searches.iter().map(|domain| domain.len() + 1).sum();
    if total > MAX_SEARCH_BYTES + 1 {
        return Err(Error::invalid(format!(
            "DNS search domains: more than {MAX_SEARCH_BYTES} bytes in all"
        )));
    }
    Ok(())
}

fn refused(what: &str, given: &str, wanted: &str) -> Error {
    let shown: String = given.chars().take(80).collect();
    Error::invalid(format!("{what} {shown:?}: {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    fn words(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resolv_conf_has_a_line_for_each_kind_that_is_asked() {
        let dns = DnsConfig {
            servers: words(&["10.0.0.10", "fe80::1%eth0"]),
            searches: words(&["shop.svc.cluster.local", "."]),
            options: words(&["ndots:5", "edns0"]),
        };

        assert_eq!(
            resolv_conf(Some(&dns), "node").unwrap(),
            "search shop.svc.cluster.local .\nnameserver 10.0.0.10\nnameserver fe80::1%eth0\noptions ndots:5 edns0\n"
        );
        assert_eq!(resolv_conf(None, "node").unwrap(), "node");
        assert_eq!(
            resolv_conf(Some(&DnsConfig::default()), "node").unwrap(),
            ""
        );
    }

    #[test]
    fn nothing_ends_a_line_or_a_word_of_resolv_conf() {
        for bad in [
            "",
            "x\nnameserver 6.6.6.6",
            "x\ry",
            "x\0",
            "x y",
            "x\ty",
            "x\u{b}y",
            "x\u{85}y",
            "x\u{2028}y",
            "ü",
            &"x".repeat(MAX_ENTRY_BYTES + 1),
        ] {
            let list = || vec![bad.to_owned()];
            for dns in [
                DnsConfig {
                    servers: list(),
                    ..DnsConfig::default()
                },
                DnsConfig {
                    searches: list(),
                    ..DnsConfig::default()
                },
                DnsConfig {
                    options: list(),
                    ..DnsConfig::default()
                },
            ] {
                let error = resolv_conf(Some(&dns), "").unwrap_err();
                assert_eq!(error.kind(), Kind::InvalidArgument, "{bad:?}");
            }
        }
    }

    #[test]
    fn search_domains_hold_their_limits_at_the_edge() {
        let search = |searches: Vec<String>| {
            check_dns(&DnsConfig {
                searches,
                ..DnsConfig::default()
            })
        };
        let label = |len: usize| "a".repeat(len);
        let domain = |last: usize| [label(63), label(63), label(63), label(last)].join(".");

        assert!(search(vec![label(63)]).is_ok());
        assert!(search(vec![label(64)]).is_err());
        assert!(search(vec![domain(61)]).is_ok());
        assert!(search(vec![domain(62)]).is_err());
        assert!(search(vec!["a..b".into()]).is_err());
        assert!(search(vec!["a".into(); MAX_ENTRIES]).is_ok());
        assert!(search(vec!["a".into(); MAX_ENTRIES + 1]).is_err());
        assert!(search(vec![domain(61); 8]).is_ok());
        assert!(search(vec![domain(61); 9]).is_err());
    }

    #[test]
    fn host_names_are_words_of_letters_digits_and_dashes() {
        assert_eq!(hostname("", "node").unwrap(), "node\n");
        assert_eq!(hostname("web-0.Shop", "node").unwrap(), "web-0.Shop\n");
        assert!(check_hostname(&"a".repeat(64)).is_ok());
        for bad in [
            "a\nb",
            "a b",
            "a\0",
            "-a",
            "a-",
            "a..b",
            ".",
            "a_b",
            "ü",
            &"a".repeat(65),
        ] {
            assert!(check_hostname(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_node_without_hosts_still_gives_localhost() {
        assert_eq!(hosts(Some("x")), "x");
        assert!(hosts(None).starts_with("127.0.0.1 localhost\n"));
    }
}
