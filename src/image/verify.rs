//! Verifiers: programs of the operator that say whether an image may be pulled, called as containerd calls its image
//! verifiers. They decide about the digest that the registry named for these credentials, before a byte of it comes.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tokio::time::Instant;

use super::pattern;
use crate::config::Verifier;
use crate::model::{Classify as _, Descriptor, Error, Kind, Reference, Result};
use crate::sys::off_thread;
use crate::sys::program::{self, Ended, PATH, Run};

/// The word that kubelet knows a refused image by; it must come first, with the code `Unknown`.
pub(super) const REFUSED: &str = "SignatureValidationFailed";
const DESCRIPTOR: &str = "application/vnd.oci.descriptor.v1+json";
/// Most of a reason that is shown.
const REASON_CAP: u64 = 4 << 10;

/// The programs of `verifiers` that would refuse every image because they cannot be run, and why.
pub fn broken_verifiers_blocking(verifiers: &[Verifier]) -> Vec<(PathBuf, String)> {
    let mut programs: Vec<&PathBuf> = verifiers.iter().map(|rule| &rule.program).collect();
    programs.sort();
    programs.dedup();
    programs
        .into_iter()
        .filter_map(|program| {
            let error = program::trusted_blocking(program).err()?;
            Some((program.clone(), error.chain()))
        })
        .collect()
}

/// Asks every verifier whose pattern matches, in order, until one refuses.
///
/// # Errors
/// `Unknown`, beginning with `SignatureValidationFailed`, with the program and its reason. One that cannot be run, that
/// fails or that takes too long has refused.
pub(super) async fn verify(
    verifiers: &[Verifier],
    reference: &Reference,
    target: &Descriptor,
) -> Result<()> {
    let name = reference.to_string();
    for verifier in verifiers {
        if !pattern::means(&verifier.pattern, &name) {
            continue;
        }
        match ask(verifier, &name, target).await {
            Ok(reason) => {
                let program = verifier.program.display();
                tracing::info!(image = %name, digest = %target.digest, %program, %reason, "image accepted");
            }
            Err(error) => {
                return Err(Error::new(
                    Kind::Unknown,
                    format!(
                        "{REFUSED}: pull {name}: {}: {}",
                        verifier.program.display(),
                        error.chain()
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// What the verifier said when it accepted.
async fn ask(verifier: &Verifier, name: &str, target: &Descriptor) -> Result<String> {
    let program = verifier.program.clone();
    off_thread("look at a verifier", move || {
        program::trusted_blocking(&program)
    })
    .await?;
    let input = serde_json::to_vec(&json!({
        "mediaType": target.media_type,
        "digest": target.digest,
        "size": target.size,
    }))
    .classify(Kind::Internal, || "encode the descriptor".to_owned())?;
    let run = Run {
        name: "verifier",
        command: || command_of(&verifier.program, &verifier.arguments, name, target),
        input: &input,
        stdout_cap: REASON_CAP,
        stderr_cap: REASON_CAP,
        deadline: Instant::now() + verifier.timeout,
    };
    match run.to_end().await? {
        None => Err(Error::precondition(format!(
            "it did not answer within {:?}",
            verifier.timeout
        ))),
        Some(ended) if ended.status.success() => Ok(reason(&ended)),
        Some(ended) => Err(Error::precondition(match reason(&ended).as_str() {
            "" => format!("it refused ({}) without a reason", ended.status),
            reason => format!("it refused: {reason}"),
        })),
    }
}

fn command_of(program: &Path, arguments: &[String], name: &str, target: &Descriptor) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["-name", name, "-digest", target.digest.as_str()])
        .args(["-stdin-media-type", DESCRIPTOR])
        .current_dir("/")
        .env_clear()
        .env("PATH", PATH);
    command
}

/// Its standard output, else its standard error, as text without control characters.
fn reason(ended: &Ended) -> String {
    let said = [&ended.stdout, &ended.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let [out, err] = said.each_ref().map(|text| text.trim());
    let text = if out.is_empty() { err } else { out };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::model::Digest;

    struct Fixture {
        dir: tempfile::TempDir,
        verifiers: Vec<Verifier>,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                verifiers: Vec::new(),
            }
        }

        fn with(mut self, pattern: &str, script: &str, mode: u32) -> Self {
            let path = self.dir.path().join(self.verifiers.len().to_string());
            let script = script.replace("$DIR", self.dir.path().to_str().unwrap());
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            self.verifiers.push(Verifier {
                pattern: pattern.into(),
                program: path,
                arguments: vec!["first".into()],
                timeout: Duration::from_millis(1500),
            });
            self
        }

        async fn verify(&self, reference: &str) -> Result<()> {
            let target = Descriptor {
                media_type: "application/x".into(),
                digest: Digest::sha256(b"target"),
                size: 9,
                annotations: BTreeMap::new(),
            };
            verify(&self.verifiers, &reference.parse().unwrap(), &target).await
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn a_verifier_gets_what_containerds_get_and_nothing_of_ours() {
        let fixture = Fixture::new().with(
            "*",
            "echo \"$@\" > $DIR/args; cat > $DIR/in; tr '\\0' '\\n' < /proc/$$/environ > $DIR/env; echo fine",
            0o755,
        );

        fixture.verify("busybox").await.unwrap();

        let digest = Digest::sha256(b"target");
        assert_eq!(
            fixture.read("args").trim(),
            format!(
                "first -name docker.io/library/busybox:latest -digest {digest} -stdin-media-type {DESCRIPTOR}"
            )
        );
        let input: serde_json::Value = serde_json::from_str(&fixture.read("in")).unwrap();
        assert_eq!(input["digest"], digest.as_str());
        assert_eq!(input["size"], 9);
        assert_eq!(fixture.read("env").trim(), format!("PATH={PATH}"));
    }

    #[tokio::test]
    async fn one_refusal_is_enough_and_says_why() {
        let fixture = Fixture::new()
            .with("good.example/*", "exit 0", 0o755)
            .with("bad.example/*", "exit 0", 0o755)
            .with(
                "bad.example/*",
                "printf 'no signature\\nforged'; exit 1",
                0o755,
            )
            .with("bad.example/*", "touch $DIR/reached", 0o755);

        fixture.verify("good.example/app").await.unwrap();
        let error = fixture.verify("bad.example/app").await.unwrap_err();

        assert_eq!(error.kind(), Kind::Unknown);
        let text = error.chain();
        assert!(text.starts_with("SignatureValidationFailed: pull bad.example/app:latest: "));
        assert!(text.ends_with("it refused: no signature forged"), "{text}");
        assert!(!fixture.dir.path().join("reached").exists());
    }

    #[tokio::test]
    async fn one_that_hangs_crashes_is_missing_or_belongs_to_others_has_refused() {
        for (script, mode, want) in [
            ("sleep 60", 0o755, "did not answer within 1.5s"),
            ("kill -9 $$", 0o755, "without a reason"),
            ("exit 0", 0o777, "can be written by others"),
            ("exit 0", 0o644, "is not executable"),
        ] {
            let fixture = Fixture::new().with("*", script, mode);
            let error = fixture.verify("app").await.unwrap_err().chain();
            assert!(
                error.starts_with(REFUSED) && error.contains(want),
                "{error}"
            );
        }
        let mut fixture = Fixture::new().with("*", "exit 0", 0o755);
        fixture.verifiers[0].program = "/none/there".into();
        let error = fixture.verify("app").await.unwrap_err().chain();
        assert!(error.contains("/none/there"), "{error}");
    }

    #[test]
    fn a_program_that_would_refuse_every_image_is_named_once() {
        let fixture = Fixture::new()
            .with("a/*", "exit 0", 0o755)
            .with("b/*", "exit 0", 0o777);
        let mut verifiers = fixture.verifiers.clone();
        verifiers.extend(fixture.verifiers.clone());

        let broken = broken_verifiers_blocking(&verifiers);

        let programs: Vec<&PathBuf> = broken.iter().map(|(program, _why)| program).collect();
        assert_eq!(programs, [&fixture.verifiers[1].program]);
    }
}
