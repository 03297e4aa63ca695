//! The image configuration: JSON of hostile origin, read within limits into what a container needs of it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::model::{Classify, Digest, Error, ImageDefaults, Kind, Result};
use crate::registry::platform::Platform;

const MAX_LABELS: usize = 10_000;
/// As many mounts as a container may have.
const MAX_VOLUMES: usize = 4_096;
/// Entries of one list: environment, command or entry point.
const MAX_ENTRIES: usize = 10_000;
/// Bytes of one list, of its entries together; execve(2) takes no more than some of it anyway.
const MAX_LIST_BYTES: usize = 1 << 20;
/// No user name, working directory or signal of a runnable image is longer.
const MAX_TEXT: usize = 4_096;
/// The longest user name that a passwd file can be asked for.
const MAX_USER_NAME: usize = 255;
const MAX_UID: i64 = i32::MAX as i64;

/// What an image says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// What its processes start from.
    pub defaults: ImageDefaults,
    /// Labels. They never become labels of a containerd object.
    pub labels: BTreeMap<String, String>,
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
    /// What it runs on.
    pub platform: Platform,
}

/// Who an image's process runs as, in the CRI's either-or.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageUser {
    /// The image does not say, or says something that is no user.
    #[default]
    Unset,
    /// A numeric id.
    Uid(i64),
    /// A name.
    Name(String),
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(flatten)]
    platform: Platform,
    #[serde(default)]
    config: Option<RawConfig>,
    #[serde(default)]
    rootfs: Option<RawRootfs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

impl RawConfig {
    /// Says which list or text is beyond its limit.
    fn within_limits(&self) -> Result<(), String> {
        let lists = [
            ("Env", &self.env),
            ("Entrypoint", &self.entrypoint),
            ("Cmd", &self.cmd),
        ];
        for (name, list) in lists {
            let list = list.as_deref().unwrap_or_default();
            let bytes: usize = list.iter().map(String::len).sum();
            if list.len() > MAX_ENTRIES || bytes > MAX_LIST_BYTES {
                return Err(format!(
                    "{name} has more than {MAX_ENTRIES} entries or {MAX_LIST_BYTES} bytes"
                ));
            }
        }
        let volumes = self.volumes.as_ref();
        if volumes.is_some_and(|volumes| volumes.len() > MAX_VOLUMES) {
            return Err(format!("more than {MAX_VOLUMES} volumes"));
        }
        let texts = [
            ("User", &self.user),
            ("WorkingDir", &self.working_dir),
            ("StopSignal", &self.stop_signal),
        ];
        for (name, text) in texts {
            if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
                return Err(format!("{name} is longer than {MAX_TEXT} bytes"));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageConfig {
    /// Reads the configuration blob `digest`.
    ///
    /// # Errors
    /// `InvalidArgument` where it is not the configuration of a runnable image, or beyond the limits.
    pub fn parse(digest: &Digest, bytes: &[u8]) -> Result<Self> {
        let raw: RawImage = serde_json::from_slice(bytes)
            .classify(Kind::InvalidArgument, || {
                format!("image configuration {digest}: not the JSON of one")
            })?;
        let bad = |why: &str| Error::invalid(format!("image configuration {digest}: {why}"));
        let rootfs = raw
            .rootfs
            .ok_or_else(|| bad("it has no rootfs; this is not a runnable image"))?;
        if !matches!(rootfs.kind.as_str(), "" | "layers") {
            return Err(bad("its rootfs is not made of layers"));
        }
        let mut config = raw.config.unwrap_or_default();
        let labels = config.labels.take().unwrap_or_default();
        if labels.len() > MAX_LABELS {
            return Err(bad("more than 10000 labels"));
        }
        config.within_limits().map_err(|why| bad(&why))?;
        Ok(Self {
            defaults: ImageDefaults {
                entrypoint: config.entrypoint.unwrap_or_default(),
                cmd: config.cmd.unwrap_or_default(),
                env: config.env.unwrap_or_default(),
                working_dir: config.working_dir.unwrap_or_default(),
                user: config.user.unwrap_or_default(),
                volumes: config.volumes.unwrap_or_default().into_keys().collect(),
                stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
            },
            labels,
            diff_ids: rootfs.diff_ids.unwrap_or_default(),
            platform: raw.platform,
        })
    }

    /// The user part of `User`. Digits that are no user id name nobody: they must not be looked up as a name, since
    /// the image's own passwd could then make them root (CVE-2026-46680).
    pub fn user(&self) -> ImageUser {
        let user = self.defaults.user.split(':').next().unwrap_or_default();
        let is_no_name = |c: char| c.is_control() || c.is_whitespace();
        if user.is_empty() || user.len() > MAX_USER_NAME || user.chars().any(is_no_name) {
            return ImageUser::Unset;
        }
        let digits = user.strip_prefix(['+', '-']).unwrap_or(user);
        if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            return match user.parse::<i64>() {
                Ok(uid) if (0..=MAX_UID).contains(&uid) && digits == user => ImageUser::Uid(uid),
                _ => ImageUser::Unset,
            };
        }
        ImageUser::Name(user.to_owned())
    }

    /// The chain ID of each layer, bottom first: the names of the committed snapshots.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            let next = match chain.last() {
                None => diff_id.clone(),
                Some(below) => Digest::from_sha256(&Sha256::digest(format!("{below} {diff_id}"))),
            };
            chain.push(next);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parse(json: &str) -> Result<ImageConfig> {
        ImageConfig::parse(&Digest::sha256(b""), json.as_bytes())
    }

    #[rstest]
    #[case("", ImageUser::Unset)]
    #[case("1002", ImageUser::Uid(1002))]
    #[case("1003:users", ImageUser::Uid(1003))]
    #[case("www-data", ImageUser::Name("www-data".into()))]
    #[case("www-data:www", ImageUser::Name("www-data".into()))]
    #[case("0", ImageUser::Uid(0))]
    #[case("00", ImageUser::Uid(0))]
    #[case("2147483647", ImageUser::Uid(2_147_483_647))]
    #[case("2147483648", ImageUser::Unset)]
    #[case("4294967296", ImageUser::Unset)]
    #[case("99999999999999999999999", ImageUser::Unset)]
    #[case("-1", ImageUser::Unset)]
    #[case("+0", ImageUser::Unset)]
    #[case(" 0", ImageUser::Unset)]
    #[case("0x0", ImageUser::Name("0x0".into()))]
    #[case("a\nb", ImageUser::Unset)]
    fn a_user_is_an_id_or_a_name_and_never_a_number_as_a_name(
        #[case] user: &str,
        #[case] want: ImageUser,
    ) {
        let mut config = ImageConfig::default();
        config.defaults.user = user.into();
        assert_eq!(config.user(), want);
    }

    #[test]
    fn a_configuration_reads_with_nulls_and_unknown_fields() {
        let config = parse(
            r#"{"architecture":"amd64","os":"linux","history":[{}],
               "config":{"Env":["A=1"],"Cmd":null,"Entrypoint":["/e"],"Volumes":{"/v":{}},
                         "WorkingDir":"/w","StopSignal":"SIGQUIT","Labels":{"k":"v"}},
               "rootfs":{"type":"layers","diff_ids":null}}"#,
        )
        .unwrap();

        assert_eq!(config.defaults.entrypoint, ["/e"]);
        assert_eq!(config.defaults.volumes, ["/v"]);
        assert_eq!(config.defaults.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.platform.architecture, "amd64");
        assert!(config.chain_ids().is_empty());
    }

    #[rstest]
    #[case("{}")]
    #[case(r#"{"rootfs":{"type":"blocks"}}"#)]
    #[case(r#"{"rootfs":{"diff_ids":["sha256:x"]}}"#)]
    #[case("[")]
    fn what_is_no_runnable_image_is_refused(#[case] json: &str) {
        assert!(parse(json).is_err());
    }

    #[test]
    fn lists_and_texts_are_limited() {
        let many = |count: usize| vec!["x"; count];
        let volumes = |count: usize| -> BTreeMap<String, BTreeMap<(), ()>> {
            (0..count)
                .map(|n| (format!("/{n}"), BTreeMap::new()))
                .collect()
        };
        let long = "x".repeat(MAX_LIST_BYTES + 1);
        let parsed = |config: serde_json::Value| {
            parse(&serde_json::json!({"rootfs": {}, "config": config}).to_string())
        };

        for refused in [
            serde_json::json!({"Env": many(MAX_ENTRIES + 1)}),
            serde_json::json!({"Cmd": many(MAX_ENTRIES + 1)}),
            serde_json::json!({"Entrypoint": [&long]}),
            serde_json::json!({"Volumes": volumes(MAX_VOLUMES + 1)}),
            serde_json::json!({"User": &long}),
            serde_json::json!({"WorkingDir": &long}),
        ] {
            let error = parsed(refused).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        }
        let most = serde_json::json!({"Env": many(MAX_ENTRIES), "Volumes": volumes(MAX_VOLUMES)});
        assert_eq!(parsed(most).unwrap().defaults.volumes.len(), MAX_VOLUMES);
        let user = parsed(serde_json::json!({"User": "x".repeat(MAX_USER_NAME + 1)})).unwrap();
        assert_eq!(user.user(), ImageUser::Unset);
    }

    #[test]
    fn labels_are_limited() {
        let with = |count: usize| {
            let labels: BTreeMap<String, String> =
                (0..count).map(|n| (n.to_string(), String::new())).collect();
            parse(&serde_json::json!({"rootfs": {}, "config": {"Labels": labels}}).to_string())
        };
        assert!(with(MAX_LABELS).is_ok());
        assert!(with(MAX_LABELS + 1).is_err());
    }

    #[test]
    fn chain_ids_hash_the_chain_below() {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let config = ImageConfig {
            diff_ids: vec![a.clone(), b.clone()],
            ..ImageConfig::default()
        };

        let chain = config.chain_ids();

        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::sha256(format!("{a} {b}").as_bytes()));
    }
}
