//! Which manifest of an index this machine runs: a preference vector, best first, as containerd builds it.

use serde::Deserialize;

use super::manifest::Child;

/// What a manifest runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Architecture in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(default)]
    pub variant: String,
    /// Features of the system that the image needs.
    #[serde(default, rename = "os.features")]
    pub os_features: Vec<String>,
}

impl Platform {
    fn linux(architecture: &str, variant: &str) -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os_features: Vec::new(),
        }
    }

    /// The same platform in one spelling.
    fn normalised(&self) -> Self {
        let os = self.os.to_ascii_lowercase();
        let variant = self.variant.to_ascii_lowercase();
        let (architecture, variant) = match self.architecture.to_ascii_lowercase().as_str() {
            "i386" => ("386".to_owned(), String::new()),
            "x86_64" | "x86-64" | "amd64" => (
                "amd64".to_owned(),
                if variant == "v1" {
                    String::new()
                } else {
                    variant
                },
            ),
            "aarch64" | "arm64" => (
                "arm64".to_owned(),
                if matches!(variant.as_str(), "8" | "v8") {
                    String::new()
                } else {
                    variant
                },
            ),
            "armhf" => ("arm".to_owned(), "v7".to_owned()),
            "armel" => ("arm".to_owned(), "v6".to_owned()),
            "arm" => (
                "arm".to_owned(),
                match variant.as_str() {
                    "" | "7" => "v7".to_owned(),
                    "5" | "6" | "8" => format!("v{variant}"),
                    _ => variant,
                },
            ),
            other => (other.to_owned(), variant),
        };
        Self {
            os,
            architecture,
            variant,
            os_features: self.os_features.clone(),
        }
    }
}

/// The platforms that this machine runs, best first.
#[derive(Clone, Debug)]
pub struct PlatformVector {
    accepted: Vec<Platform>,
}

impl PlatformVector {
    /// The vector of the machine that this program was built for.
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self::of(architecture, "")
    }

    /// The vector of a host of `architecture` and `variant`, in Go's words.
    pub fn of(architecture: &str, variant: &str) -> Self {
        let host = Platform::linux(architecture, variant).normalised();
        let mut accepted = Vec::new();
        match (host.architecture.as_str(), host.variant.as_str()) {
            ("amd64", variant) => {
                let level = level(variant).unwrap_or(1);
                accepted.extend(
                    (2..=level)
                        .rev()
                        .map(|level| Platform::linux("amd64", &format!("v{level}"))),
                );
                accepted.push(Platform::linux("amd64", ""));
                accepted.push(Platform::linux("386", ""));
            }
            ("arm64", variant) => {
                let (major, minor) = arm64_version(variant);
                accepted.extend(
                    (1..=minor)
                        .rev()
                        .map(|minor| Platform::linux("arm64", &format!("v{major}.{minor}"))),
                );
                if major > 8 {
                    accepted.push(Platform::linux("arm64", &format!("v{major}")));
                }
                accepted.push(Platform::linux("arm64", ""));
                accepted.extend(
                    (5..=8_u32)
                        .rev()
                        .map(|level| Platform::linux("arm", &format!("v{level}"))),
                );
            }
            ("arm", variant) => {
                let level = level(variant).unwrap_or(7);
                accepted.extend(
                    (5..=level)
                        .rev()
                        .map(|level| Platform::linux("arm", &format!("v{level}"))),
                );
            }
            _ => accepted.push(host),
        }
        Self { accepted }
    }

    /// How far from the best this platform is; `None` where this machine does not run it.
    pub fn rank(&self, platform: &Platform) -> Option<usize> {
        let platform = platform.normalised();
        if !platform.os_features.is_empty() {
            return None;
        }
        self.accepted
            .iter()
            .position(|accepted| *accepted == platform)
    }

    /// The children that may run here, best first; those that name no platform come last, in the index's order.
    pub fn choose<'a>(&self, children: &'a [Child]) -> Vec<&'a Child> {
        let mut ranked: Vec<(usize, &Child)> = children
            .iter()
            .filter_map(|child| match &child.platform {
                None => Some((usize::MAX, child)),
                Some(platform) => self.rank(platform).map(|rank| (rank, child)),
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, child)| child).collect()
    }
}

impl std::fmt::Display for PlatformVector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, platform) in self.accepted.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let slash = if platform.variant.is_empty() { "" } else { "/" };
            write!(
                f,
                "{comma}{}/{}{slash}{}",
                platform.os, platform.architecture, platform.variant
            )?;
        }
        Ok(())
    }
}

fn level(variant: &str) -> Option<u32> {
    variant
        .strip_prefix('v')?
        .parse()
        .ok()
        .filter(|level| *level <= 9)
}

fn arm64_version(variant: &str) -> (u32, u32) {
    let text = variant.strip_prefix('v').unwrap_or("8");
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    (
        major.parse().unwrap_or(8),
        minor.parse().unwrap_or(0).min(15),
    )
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::model::{Descriptor, Digest};

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next().unwrap_or_default(),
            os_features: Vec::new(),
        }
    }

    #[rstest]
    #[case("amd64", "", "linux/amd64, linux/386")]
    #[case(
        "amd64",
        "v3",
        "linux/amd64/v3, linux/amd64/v2, linux/amd64, linux/386"
    )]
    #[case(
        "arm64",
        "v8",
        "linux/arm64, linux/arm/v8, linux/arm/v7, linux/arm/v6, linux/arm/v5"
    )]
    #[case("arm", "", "linux/arm/v7, linux/arm/v6, linux/arm/v5")]
    #[case("riscv64", "", "linux/riscv64")]
    fn vectors_are_best_first(#[case] arch: &str, #[case] variant: &str, #[case] want: &str) {
        assert_eq!(PlatformVector::of(arch, variant).to_string(), want);
    }

    #[rstest]
    #[case("linux/x86_64", Some(0))]
    #[case("linux/amd64/v1", Some(0))]
    #[case("linux/386", Some(1))]
    #[case("linux/amd64/v2", None)]
    #[case("linux/arm64", None)]
    #[case("windows/amd64", None)]
    #[case("unknown/unknown", None)]
    fn a_plain_amd64_host_runs_amd64_then_386(#[case] text: &str, #[case] rank: Option<usize>) {
        assert_eq!(PlatformVector::of("amd64", "").rank(&platform(text)), rank);
    }

    #[test]
    fn an_image_that_needs_a_feature_is_not_chosen() {
        let mut needy = platform("linux/amd64");
        needy.os_features.push("win32k".into());
        assert_eq!(PlatformVector::of("amd64", "").rank(&needy), None);
    }

    #[test]
    fn the_best_platform_comes_first_and_the_unnamed_last() {
        let child = |size: u64, text: Option<&str>| Child {
            descriptor: Descriptor {
                media_type: String::new(),
                digest: Digest::sha256(b""),
                size,
                annotations: std::collections::BTreeMap::new(),
            },
            platform: text.map(platform),
        };
        let children = [
            child(1, None),
            child(2, Some("linux/386")),
            child(3, Some("linux/arm64")),
            child(4, Some("linux/amd64")),
            child(5, Some("unknown/unknown")),
        ];

        let vector = PlatformVector::of("amd64", "");
        let order: Vec<u64> = vector
            .choose(&children)
            .iter()
            .map(|child| child.descriptor.size)
            .collect();

        assert_eq!(order, [4, 2, 1]);
    }
}
