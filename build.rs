//! Compiles `proto/` into `OUT_DIR`, without protoc, and the pause program beside it.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;
use tonic_prost_build::Builder;

const PROTOS: [&str; 6] = [
    "cri.proto",
    "admin.proto",
    "nri.proto",
    "ttrpc.proto",
    "runc.proto",
    "runtimeoptions.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    println!("cargo::rerun-if-changed=build.rs");
    interfaces(Path::new(&out))?;
    pause(Path::new(&out))
}

/// Messages, servers and clients; and the descriptors, for the test that holds them against the facts.
fn interfaces(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(PROTOS, ["proto"])?;
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    let builder = tonic_prost_build::configure()
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(out);
    let builder = go_json(builder, &set);
    builder.compile_fds(set)?;
    Ok(())
}

/// Gives the CRI's messages serde's traits, in the shape that `wire::gojson` describes.
fn go_json(mut builder: Builder, set: &FileDescriptorSet) -> Builder {
    const RULE: &str = "crate::wire::gojson";
    for file in set
        .file
        .iter()
        .filter(|file| file.package() == "runtime.v1")
    {
        for message in &file.message_type {
            let path = format!(".runtime.v1.{}", message.name());
            builder = builder.message_attribute(
                &path,
                "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]",
            );
            for field in &message.field {
                let codec = match (message.name(), field.name(), field.r#type()) {
                    ("KeyValue", "value", _) => format!("with = \"{RULE}::text\""),
                    (_, _, Type::Bytes) => format!("with = \"{RULE}::base64\""),
                    _ => format!("deserialize_with = \"{RULE}::or_zero\""),
                };
                let attribute = format!(
                    "#[serde(rename = \"{}\", skip_serializing_if = \"{RULE}::is_zero\", {codec})]",
                    field.name()
                );
                builder = builder.field_attribute(format!("{path}.{}", field.name()), attribute);
            }
        }
    }
    builder
}

/// The pause program: static, freestanding, as small as the same compiler makes it. `-n` keeps the linker from
/// padding its few hundred bytes to whole pages.
fn pause(out: &Path) -> Result<(), Box<dyn Error>> {
    const SOURCE: &str = "src/pause/pause.rs";
    println!("cargo::rerun-if-changed={SOURCE}");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc
        .args(["--edition=2024", "--crate-name=pause", "--crate-type=bin"])
        .args(["--target", &env::var("TARGET")?])
        .args(["-Cpanic=abort", "-Copt-level=z", "-Cstrip=symbols"])
        .args(["-Crelocation-model=static", "-Clink-arg=-nostartfiles"])
        .args(["-Clink-arg=-nostdlib", "-Clink-arg=-static"])
        .arg("-Clink-arg=-Wl,--build-id=none,-z,norelro,-z,noexecstack,-n,--no-eh-frame-hdr")
        .arg("-o")
        .arg(out.join("pause"))
        .arg(SOURCE);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let status = rustc.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(
            format!("compile {SOURCE}: rustc ended with {status}; it needs a C linker (apt: gcc)")
                .into(),
        )
    }
}
