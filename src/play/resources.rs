//! Kubernetes quantities to the CRI's resources, computed as kubelet does.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::{Error, Result};
use crate::wire::cri;

const PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;
const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

/// How willingly the kernel's OOM killer takes a container: by the pod's quality of service.
const OOM_GUARANTEED: i64 = -997;
const OOM_BEST_EFFORT: i64 = 1000;

/// A pod's quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quality {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// What one container asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ask {
    cpu_request_milli: Option<i64>,
    cpu_limit_milli: Option<i64>,
    memory_request: Option<i64>,
    memory_limit: Option<i64>,
}

impl Ask {
    fn of(resources: Option<&ResourceRequirements>) -> Result<Self> {
        let Some(resources) = resources else {
            return Ok(Self::default());
        };
        let read = |map: &Option<BTreeMap<String, Quantity>>, key: &str, unit: i128| match map
            .as_ref()
            .and_then(|map| map.get(key))
        {
            None => Ok(None),
            Some(quantity) => scaled(&quantity.0, unit).map(Some),
        };
        let cpu_limit_milli = read(&resources.limits, "cpu", 1000)?;
        let memory_limit = read(&resources.limits, "memory", 1)?;
        Ok(Self {
            // A limit without a request is the request as well.
            cpu_request_milli: read(&resources.requests, "cpu", 1000)?.or(cpu_limit_milli),
            memory_request: read(&resources.requests, "memory", 1)?.or(memory_limit),
            cpu_limit_milli,
            memory_limit,
        })
    }
}

/// The quality of service of a pod with these containers.
///
/// # Errors
/// `InvalidArgument` for a quantity that is none.
pub(super) fn quality<'a>(
    containers: impl Iterator<Item = Option<&'a ResourceRequirements>>,
) -> Result<Quality> {
    let (mut any, mut all) = (false, true);
    for resources in containers {
        let ask = Ask::of(resources)?;
        any |= ask != Ask::default();
        all &= ask.cpu_limit_milli.is_some()
            && ask.memory_limit.is_some()
            && ask.cpu_limit_milli == ask.cpu_request_milli
            && ask.memory_limit == ask.memory_request;
    }
    Ok(match (any, all) {
        (false, _) => Quality::BestEffort,
        (true, true) => Quality::Guaranteed,
        (true, false) => Quality::Burstable,
    })
}

/// The CRI's resources of a container in a pod of `quality` on a machine with `memory_total` bytes.
///
/// # Errors
/// `InvalidArgument` for a quantity that is none.
pub(super) fn to_cri(
    resources: Option<&ResourceRequirements>,
    quality: Quality,
    memory_total: i64,
) -> Result<cri::LinuxContainerResources> {
    let ask = Ask::of(resources)?;
    let shares = ask.cpu_request_milli.unwrap_or(0);
    let quota = ask.cpu_limit_milli.filter(|milli| *milli > 0);
    Ok(cri::LinuxContainerResources {
        cpu_period: if quota.is_some() { PERIOD_US } else { 0 },
        cpu_quota: quota.map_or(0, |milli| {
            (milli.saturating_mul(PERIOD_US) / 1000).max(MIN_QUOTA_US)
        }),
        cpu_shares: (shares.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, MAX_SHARES),
        memory_limit_in_bytes: ask.memory_limit.unwrap_or(0),
        oom_score_adj: match quality {
            Quality::Guaranteed => OOM_GUARANTEED,
            Quality::BestEffort => OOM_BEST_EFFORT,
            Quality::Burstable => {
                let request = ask.memory_request.unwrap_or(0);
                let share = request
                    .saturating_mul(1000)
                    .checked_div(memory_total)
                    .unwrap_or(0);
                (1000 - share).clamp(1000 + OOM_GUARANTEED, OOM_BEST_EFFORT - 1)
            }
        },
        ..Default::default()
    })
}

/// The bytes that `quantity` means.
///
/// # Errors
/// `InvalidArgument` for what is no quantity.
pub(super) fn bytes(quantity: &Quantity) -> Result<i64> {
    scaled(&quantity.0, 1)
}

/// `text` times `unit`, rounded up as Kubernetes does: `1.5` by 1000 is 1500, `1Ki` by 1 is 1024.
fn scaled(text: &str, unit: i128) -> Result<i64> {
    read_scaled(text, unit).ok_or_else(|| {
        Error::invalid(format!(
            "{text:?} is no quantity (as 500m, 1.5, 64Mi or 1e6), or too large"
        ))
    })
}

fn read_scaled(text: &str, unit: i128) -> Option<i64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(digits)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (mut times, mut per) = factor(suffix)?;
    times = times.checked_mul(unit)?;
    per = per.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let value: i128 = format!("{whole}{fraction}").parse().ok()?;
    let exact = value.checked_mul(times)?;
    let up = exact.checked_add(per.checked_sub(1)?)?.checked_div(per)?;
    i64::try_from(up).ok()
}

/// What a suffix multiplies by and divides by.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let decimal = |power: u32| 10_i128.checked_pow(power);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, decimal(9)?),
        "u" => (1, decimal(6)?),
        "m" => (1, 1000),
        "k" => (decimal(3)?, 1),
        "M" => (decimal(6)?, 1),
        "G" => (decimal(9)?, 1),
        "T" => (decimal(12)?, 1),
        "P" => (decimal(15)?, 1),
        "E" => (decimal(18)?, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = decimal(power.unsigned_abs())?;
            if power < 0 { (1, size) } else { (size, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("1", 1, Some(1))]
    #[case("1.5", 1000, Some(1500))]
    #[case("100m", 1000, Some(100))]
    #[case("1m", 1, Some(1))]
    #[case("64Mi", 1, Some(64 << 20))]
    #[case("1e3", 1, Some(1000))]
    #[case("1E", 1, Some(1_000_000_000_000_000_000))]
    #[case("", 1, None)]
    #[case("-1", 1, None)]
    #[case("1Q", 1, None)]
    #[case("9999999999999999999999", 1, None)]
    fn quantities_are_read_as_kubernetes_does(
        #[case] text: &str,
        #[case] unit: i128,
        #[case] want: Option<i64>,
    ) {
        assert_eq!(read_scaled(text, unit), want);
    }

    fn requirements(request: &[(&str, &str)], limit: &[(&str, &str)]) -> ResourceRequirements {
        let map = |list: &[(&str, &str)]| {
            Some(
                list.iter()
                    .map(|(key, value)| ((*key).into(), Quantity((*value).into())))
                    .collect(),
            )
        };
        ResourceRequirements {
            requests: map(request),
            limits: map(limit),
            ..Default::default()
        }
    }

    #[test]
    fn a_burstable_container_gets_shares_quota_and_an_oom_score() {
        let asks = requirements(
            &[("cpu", "250m"), ("memory", "1Gi")],
            &[("cpu", "500m"), ("memory", "2Gi")],
        );
        let quality = quality([Some(&asks)].into_iter()).unwrap();

        let resources = to_cri(Some(&asks), quality, 4 << 30).unwrap();

        assert_eq!(quality, Quality::Burstable);
        assert_eq!(
            resources,
            cri::LinuxContainerResources {
                cpu_period: 100_000,
                cpu_quota: 50_000,
                cpu_shares: 256,
                memory_limit_in_bytes: 2 << 30,
                oom_score_adj: 750,
                ..Default::default()
            }
        );
    }

    #[test]
    fn limits_alone_make_a_pod_guaranteed_and_nothing_makes_it_best_effort() {
        let asks = requirements(&[], &[("cpu", "1"), ("memory", "1Gi")]);

        assert_eq!(
            quality([Some(&asks)].into_iter()).unwrap(),
            Quality::Guaranteed
        );
        assert_eq!(quality([None].into_iter()).unwrap(), Quality::BestEffort);
        assert_eq!(
            to_cri(None, Quality::BestEffort, 0).unwrap().cpu_shares,
            MIN_SHARES
        );
    }
}
