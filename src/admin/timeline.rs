//! Where the time of a pod's start went.

use crate::index::Index;
use crate::model::{Error, Result, Timestamp};
use crate::ops::{LiveTable, Passage};
use crate::wire::admin;

/// The start of the pod that `text` names: an id, the beginning of one, `namespace/name`, or a name.
///
/// # Errors
/// `NotFound`, also for a pod whose start is forgotten; `InvalidArgument` where several pods are meant.
pub(super) fn of(
    index: &Index,
    live: &LiveTable,
    text: &str,
) -> Result<admin::ShowTimelineResponse> {
    let (sandbox_id, name) = find(index, live, text)?;
    let passages: Vec<_> = live.timeline(&sandbox_id).into_iter().map(shown).collect();
    if passages.is_empty() {
        return Err(Error::not_found(format!(
            "pod {text:?}: its start is not remembered; it began before this process or too many did since"
        )));
    }
    Ok(admin::ShowTimelineResponse {
        sandbox_id,
        name,
        passages,
    })
}

fn find(index: &Index, live: &LiveTable, text: &str) -> Result<(String, String)> {
    let now = index.snapshot();
    let named = |pod: &crate::index::PodView| {
        let identity = &pod.sandbox.config.identity;
        format!("{}/{}", identity.k8s_namespace, identity.name)
    };
    if text.is_empty() {
        return Err(Error::invalid(
            "name a pod: an id, namespace/name, or a name",
        ));
    }
    let meant = now.pods().filter(|pod| {
        let name = named(pod);
        name == text || name.split_once('/').is_some_and(|(_, name)| name == text)
    });
    // Of several attempts, and of pods that follow each other, the last one.
    if let Some(pod) = meant.max_by_key(|pod| pod.sandbox.created_at) {
        return Ok((pod.sandbox.id.to_string(), named(pod)));
    }
    if let Some(pod) = now.find_sandbox(text)? {
        return Ok((pod.sandbox.id.to_string(), named(pod)));
    }
    let mut gone = live.remembered(text).into_iter();
    match (gone.next(), gone.next()) {
        (Some(id), None) => Ok((id, String::new())),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "pod {text:?}: several begin so; give more digits"
        ))),
        (None, _) => Err(Error::not_found(format!("pod {text:?}: not found"))),
    }
}

fn shown(passage: Passage) -> admin::Passage {
    let ended = |at: Option<Timestamp>| at.map_or(0, |at| at.0);
    let steps = passage.steps.iter().map(|step| admin::PassageStep {
        name: step.name.to_owned(),
        began: step.began.0,
        ended: ended(step.ended),
    });
    admin::Passage {
        kind: passage.kind.to_owned(),
        began: passage.began.0,
        ended: ended(passage.ended),
        steps: steps.collect(),
        object: passage.object,
    }
}
