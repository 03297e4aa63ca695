//! Block I/O and cache classes that annotations name (contract: pods 3.7): which a container asks for, and what they
//! put into its spec once the node has said what they mean.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxBlockIo, LinuxIntelRdt, LinuxResources, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder, Spec,
};

use crate::model::classes::{AskedClasses, Asker, BlockIo, Classes, DiskIo, IoLimits};
use crate::model::{Classify, ContainerConfig, Kind, PodConfig, Result};

/// The classes that annotations of the container or its pod name. Those of the container itself win, then those that the
/// pod has for this container, then those that it has for all.
pub fn asked_classes(config: &ContainerConfig, pod: &PodConfig) -> AskedClasses {
    let name = &config.identity.name;
    let class = |kind: &str| {
        let of_pod = |suffix: &str| {
            let key = format!("{kind}.resources.beta.kubernetes.io/{suffix}");
            pod.annotations.get(&key)
        };
        let own = config
            .annotations
            .get(&format!("io.kubernetes.cri.{kind}-class"));
        let asker = own.map_or(Asker::Pod, |_| Asker::Container);
        let class = own
            .or_else(|| of_pod(&format!("container.{name}")))
            .or_else(|| of_pod("pod"))
            .filter(|class| !class.is_empty());
        class.map(|class| (class.clone(), asker))
    };
    let (rdt, rdt_asker) = class("rdt").unzip();
    AskedClasses {
        block_io: class("blockio").map(|(class, _)| class),
        rdt,
        rdt_asker: rdt_asker.unwrap_or_default(),
    }
}

/// Puts classes into a finished spec, in the place of those that it has.
///
/// # Errors
/// `Internal` where a value has no place in a spec.
pub fn apply_classes(spec: &mut Spec, classes: &Classes) -> Result<()> {
    if *classes == Classes::default() {
        return Ok(());
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut limits = linux.resources().clone().unwrap_or_default();
    apply(&mut linux, &mut limits, classes)?;
    linux.set_resources(Some(limits));
    spec.set_linux(Some(linux));
    Ok(())
}

/// Puts the classes into the spec.
///
/// # Errors
/// `Internal` where a value has no place in a spec.
pub(super) fn apply(
    linux: &mut Linux,
    limits: &mut LinuxResources,
    classes: &Classes,
) -> Result<()> {
    if let Some(class) = &classes.rdt {
        let mut rdt = LinuxIntelRdt::default();
        rdt.set_clos_id(Some(class.clone()));
        linux.set_intel_rdt(Some(rdt));
    }
    if let Some(block_io) = &classes.block_io {
        limits.set_block_io(Some(to_oci(block_io)?));
    }
    Ok(())
}

fn to_oci(block_io: &BlockIo) -> Result<LinuxBlockIo> {
    let mut oci = LinuxBlockIo::default();
    oci.set_weight(block_io.weight)
        .set_weight_device(each(block_io, |disk| {
            let weight = disk.limits.weight?;
            let device = LinuxWeightDeviceBuilder::default()
                .major(disk.major)
                .minor(disk.minor)
                .weight(weight);
            Some(device.build())
        })?)
        .set_throttle_read_bps_device(throttled(block_io, |limits| limits.read_bps)?)
        .set_throttle_write_bps_device(throttled(block_io, |limits| limits.write_bps)?)
        .set_throttle_read_iops_device(throttled(block_io, |limits| limits.read_iops)?)
        .set_throttle_write_iops_device(throttled(block_io, |limits| limits.write_iops)?);
    Ok(oci)
}

fn throttled(
    block_io: &BlockIo,
    rate: fn(&IoLimits) -> Option<u64>,
) -> Result<Option<Vec<LinuxThrottleDevice>>> {
    each(block_io, |disk| {
        let rate = rate(&disk.limits)?;
        let device = LinuxThrottleDeviceBuilder::default()
            .major(disk.major)
            .minor(disk.minor)
            .rate(rate);
        Some(device.build())
    })
}

/// What `one` makes of each disk; `None` where that is nothing at all.
fn each<T>(
    block_io: &BlockIo,
    one: impl FnMut(&DiskIo) -> Option<std::result::Result<T, OciSpecError>>,
) -> Result<Option<Vec<T>>> {
    let all: std::result::Result<Vec<T>, OciSpecError> =
        block_io.disks.iter().filter_map(one).collect();
    let all = all.classify(Kind::Internal, || "limits of block I/O".to_owned())?;
    Ok((!all.is_empty()).then_some(all))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{self, Case};
    use super::*;

    const POD: &str = "blockio.resources.beta.kubernetes.io";

    #[test]
    fn the_nearest_annotation_names_the_class() {
        let mut case = Case::default();
        let class = |case: &Case| asked_classes(&case.config, &case.pod).block_io;
        let annotate = |case: &mut Case, key: String, value: &str| {
            case.pod.annotations.insert(key, value.to_owned());
        };

        annotate(&mut case, format!("{POD}/container.other"), "other");
        assert_eq!(class(&case), None);
        annotate(&mut case, format!("{POD}/pod"), "pod");
        assert_eq!(class(&case).as_deref(), Some("pod"));
        annotate(&mut case, format!("{POD}/container.web"), "mine");
        assert_eq!(class(&case).as_deref(), Some("mine"));
        let own = "io.kubernetes.cri.blockio-class".to_owned();
        case.config.annotations.insert(own, "own".to_owned());
        assert_eq!(class(&case).as_deref(), Some("own"));
        assert_eq!(asked_classes(&case.config, &case.pod).rdt, None);
    }

    #[test]
    fn cache_classes_have_annotations_of_their_own() {
        let mut case = Case::default();
        let key = "rdt.resources.beta.kubernetes.io/pod".to_owned();
        case.pod.annotations.insert(key, "gold".to_owned());

        let asked = asked_classes(&case.config, &case.pod);

        assert_eq!((asked.block_io, asked.rdt), (None, Some("gold".to_owned())));
    }

    #[test]
    fn classes_stand_in_the_spec() {
        let disk = |minor, limits| DiskIo {
            major: 8,
            minor,
            limits,
        };
        let case = Case {
            classes: Classes {
                block_io: Some(BlockIo {
                    weight: Some(400),
                    disks: vec![
                        disk(
                            0,
                            IoLimits {
                                read_bps: Some(1_000),
                                write_iops: Some(5),
                                ..IoLimits::default()
                            },
                        ),
                        disk(
                            16,
                            IoLimits {
                                weight: Some(50),
                                ..IoLimits::default()
                            },
                        ),
                    ],
                }),
                rdt: Some("gold".to_owned()),
            },
            ..Case::default()
        };

        let spec = testing::json(&case.spec().unwrap());

        assert_eq!(
            spec["linux"]["resources"]["blockIO"],
            json!({
                "weight": 400,
                "weightDevice": [{"major": 8, "minor": 16, "weight": 50}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 5}],
            })
        );
        assert_eq!(spec["linux"]["intelRdt"], json!({"closID": "gold"}));
    }
}
