//! Classes of service that annotations name.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::{fails, pod, sleeper};

const DISK: &str = "/dev/vda";
const CLASS: &str = "io.kubernetes.cri.blockio-class";

pub(super) const CASES: &[Case] =
    &[
        Case::new("class.block_io_is_limited_as_the_class_says", |node| {
            Box::pin(block_io(node))
        })
        .unless(no_disk),
    ];

fn no_disk() -> Option<String> {
    fs::metadata(DISK)
        .is_err()
        .then(|| format!("there is no {DISK} to set limits on"))
}

fn of_class(name: &str, class: &str) -> cri::ContainerConfig {
    let mut config = sleeper(name);
    config
        .annotations
        .insert(CLASS.to_owned(), class.to_owned());
    config
}

async fn block_io(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let off = node.create(&pod, &config, &of_class("c", "slow")).await;
    let said = fails("a class without a file", off, Code::FailedPrecondition)?;
    ensure(said.contains("blockio_config_file"), || said)?;

    let file = node.home.join("blockio.yaml");
    fs::write(
        &file,
        format!(
            "Classes:\n  slow:\n  - Devices: [\"{DISK}*\"]\n    ThrottleReadBps: 7M\n    ThrottleWriteIOPS: 9k\n"
        ),
    )?;
    node.configure(&format!("[containers]\nblockio_config_file = {file:?}"))
        .await?;

    let unknown = node.create(&pod, &config, &of_class("c", "fast")).await;
    let said = fails("an unknown class", unknown, Code::InvalidArgument)?;
    ensure(said.contains("slow"), || said)?;
    let id = node.run(&pod, &config, &of_class("c", "slow")).await?;
    let number = fs::metadata(DISK)?.rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    for (v1, v1_value, v2_value) in [
        ("blkio.throttle.read_bps_device", "7000000", "rbps=7000000"),
        ("blkio.throttle.write_iops_device", "9000", "wiops=9000"),
    ] {
        let values = node.cgroup_values(v1, "io.max");
        let limited = |value: &String| {
            value.starts_with(&format!("{major}:{minor} "))
                && (value.ends_with(&format!(" {v1_value}")) || value.contains(v2_value))
        };
        ensure(values.iter().any(limited), || format!("{v1}: {values:?}"))?;
    }
    node.stop(&id, 5).await.map_err(Into::into)
}
