//! Compiles `proto/` into `OUT_DIR`, without protoc.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

const PROTOS: [&str; 4] = [
    "cri.proto",
    "admin.proto",
    "runc.proto",
    "runtimeoptions.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");

    let set = protox::compile(PROTOS, ["proto"])?;
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_fds(set)?;
    Ok(())
}
