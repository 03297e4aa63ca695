//! Which calls are traced: what the operator's sampler says, but polls only where their caller traces them.

use opentelemetry::trace::{Link, SpanKind, TraceContextExt as _, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// The operator's sampler, and the rule about polls.
#[derive(Clone, Debug)]
pub(super) struct CallSampler(pub(super) Sampler);

impl ShouldSample for CallSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        if *kind == SpanKind::Server && is_poll(name) {
            let parent = parent.map(|cx| cx.span().span_context().clone());
            if !parent.as_ref().is_some_and(|parent| parent.is_sampled()) {
                return SamplingResult {
                    decision: SamplingDecision::Drop,
                    attributes: Vec::new(),
                    trace_state: parent
                        .map_or_else(TraceState::default, |parent| parent.trace_state().clone()),
                };
            }
        }
        let Self(sampler) = self;
        sampler.should_sample(parent, trace, name, kind, attributes, links)
    }
}

/// Whether the method called `name` is one that kubelet asks again and again: health, lists, status, stats, version.
fn is_poll(name: &str) -> bool {
    let method = name.rsplit('/').next().unwrap_or_default();
    let reads = ["List", "Stream"];
    let facts = ["Status", "Stats", "Config", "FsInfo", "Events"];
    (reads.iter().any(|verb| method.starts_with(verb))
        || facts.iter().any(|what| method.ends_with(what))
        || method == "Version")
        && method != "UpdateRuntimeConfig"
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};
    use rstest::rstest;

    use super::*;

    fn parent(flags: TraceFlags) -> Context {
        let state = TraceState::default();
        let context = SpanContext::new(TraceId::from(7), SpanId::from(8), flags, true, state);
        Context::new().with_remote_span_context(context)
    }

    fn is_taken(sampler: Sampler, parent: Option<&Context>, method: &str) -> bool {
        let name = format!("runtime.v1.RuntimeService/{method}");
        let trace = TraceId::from(7);
        let asked =
            CallSampler(sampler).should_sample(parent, trace, &name, &SpanKind::Server, &[], &[]);
        asked.decision == SamplingDecision::RecordAndSample
    }

    #[rstest]
    #[case("ListContainers")]
    #[case("StreamPodSandboxes")]
    #[case("GetContainerEvents")]
    #[case("PodSandboxStatus")]
    #[case("ContainerStats")]
    #[case("ImageFsInfo")]
    #[case("RuntimeConfig")]
    #[case("Status")]
    #[case("Version")]
    fn a_poll_is_traced_where_its_caller_traces_it(#[case] method: &str) {
        let traced = parent(TraceFlags::SAMPLED);
        let untraced = parent(TraceFlags::default());

        assert!(!is_taken(Sampler::AlwaysOn, None, method));
        assert!(!is_taken(Sampler::AlwaysOn, Some(&untraced), method));
        assert!(is_taken(Sampler::AlwaysOn, Some(&traced), method));
        assert!(!is_taken(Sampler::AlwaysOff, Some(&traced), method));
    }

    #[rstest]
    #[case("RunPodSandbox")]
    #[case("PullImage")]
    #[case("ExecSync")]
    #[case("UpdateRuntimeConfig")]
    #[case("StopContainer")]
    fn what_changes_something_is_the_samplers_to_say(#[case] method: &str) {
        let by_parent = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));

        assert!(is_taken(by_parent.clone(), None, method));
        assert!(!is_taken(
            by_parent,
            Some(&parent(TraceFlags::default())),
            method
        ));
        assert!(!is_taken(Sampler::AlwaysOff, None, method));
    }
}
