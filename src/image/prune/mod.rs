//! Garbage: what pulls left that were cut off, and on demand images that nobody uses.
//!
//! What a pull brings is under a lease of ours until its records hold it. Once such a lease ends, containerd's own
//! collection takes what nothing else holds: so nothing is removed here that another client's lease, image or container
//! needs. Ingests without any lease are nobody's; they are thrown away when they are old.

mod plan;
mod survey;
mod uses;

use std::time::Duration;

use super::lease::LIFE;
use super::view::ImageView;
use super::{Images, lease};
use crate::containerd::{Containerd, LeaseId};
use crate::model::{Digest, Error, Kind, Result, Timestamp};

use plan::Plan;
use survey::{Bulk, Survey};
pub(super) use uses::Uses;

/// An ingest that no lease holds may be another client's that writes without one; after this nobody waits for it.
const STRAY: Duration = LIFE;
/// How often garbage is looked for.
const ROUND: Duration = Duration::from_secs(3600);
/// An image that was pulled or asked for this recently is about to be used.
const FRESH: Duration = Duration::from_secs(600);
/// The collection after the last lease has gone is asked for by the end of one more.
const COLLECTOR: &str = "podwright-collect";
const COLLECTOR_LIFE: Duration = Duration::from_secs(3600);

/// What to give back.
#[derive(Clone, Copy, Debug, Default)]
pub struct PruneRequest {
    /// Only tell.
    pub dry_run: bool,
    /// Images as well that are not pinned and that nothing uses.
    pub unused: bool,
    /// Leaves what is younger: interrupted pulls by their beginning, where `None` leaves none; images by their last use,
    /// where `None` is ten minutes.
    pub older_than: Option<Duration>,
}

/// How much of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was given back, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Pulls that were cut off and can not be resumed any more.
    pub pulls: u64,
    /// Writes that were cut off.
    pub ingests: Amount,
    /// Blobs.
    pub blobs: Amount,
    /// Unpacked layers, whole and half.
    pub layers: Amount,
    /// Images that were removed: a name or the id of each.
    pub images: Vec<String>,
}

/// What interrupted pulls hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupted {
    /// Pulls that failed or still run.
    pub pulls: u64,
    /// Those whose time is over.
    pub overdue: u64,
    /// Bytes of blobs that are not complete.
    pub bytes: u64,
}

/// Looks from outside, as `doctor` does, at what pulls have begun and not ended.
///
/// # Errors
/// Those of containerd.
pub async fn interrupted(containerd: &Containerd, now: Timestamp) -> Result<Interrupted> {
    let leases = survey::leases(containerd).await?;
    let ours: Vec<_> = leases
        .iter()
        .filter(|held| lease::is_ours(&held.lease.id))
        .collect();
    let overdue = |at: Timestamp| now.since(at) > LIFE.saturating_add(ROUND);
    let ingests = containerd.content.ingests().await?;
    let bytes = ingests
        .iter()
        .filter(|ingest| ours.iter().any(|held| held.has_ingest(&ingest.name)))
        .map(|ingest| ingest.bytes)
        .sum();
    let late = ours.iter().filter(|held| overdue(held.lease.created_at));
    Ok(Interrupted {
        overdue: count(late.count()),
        pulls: count(ours.len()),
        bytes,
    })
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl Images {
    /// Notes that an image is about to be used.
    pub fn note_use(&self, id: &Digest) {
        self.inner.uses.note(id, self.inner.clock.now());
    }

    /// Gives back what nobody needs, and tells what that was.
    ///
    /// # Errors
    /// `Unavailable` before the first load, and those of containerd; what was given back until then stays so.
    pub async fn prune(&self, request: PruneRequest) -> Result<Pruned> {
        let before = Survey::of(self).await?;
        let unused = if request.unused {
            self.unused(&before, request.older_than.unwrap_or(FRESH))?
        } else {
            Vec::new()
        };
        let age = request.older_than.unwrap_or_default();
        let plan = self.plan(&before, age);
        let names = |images: &[ImageView]| -> Vec<String> {
            let shown = images.iter();
            shown.map(|image| image.display_name().to_owned()).collect()
        };
        let pulls = count(plan.pulls.len());
        if request.dry_run {
            let gone = plan.expected(&before, &unused);
            let gone = gone.weighed(self).await?;
            return Ok(gone.told(pulls, names(&unused)));
        }
        let bulk = Bulk::of(&before).weighed(self).await?;
        let mut removed = Vec::new();
        for image in unused {
            // It may have been asked for since.
            if self.inner.uses.is_fresh(&image.id, before.at) {
                continue;
            }
            self.remove(image.id.as_str()).await?;
            removed.push(image);
        }
        let ended = self.end(&plan).await?;
        self.collect().await?;
        let after = Bulk::of(&Survey::of(self).await?);
        let gone = bulk.without(&after);
        let pruned = gone.told(ended, names(&removed));
        tracing::info!(?pruned, "garbage was given back");
        Ok(pruned)
    }

    /// Looks for garbage that is overdue, for ever. For a background task.
    pub(super) async fn keep_tidy(self) {
        loop {
            tokio::time::sleep(ROUND).await;
            if let Err(error) = self.tidy().await {
                tracing::warn!(%error, "garbage of pulls could not be looked for; it is tried again");
            }
        }
    }

    /// One round: what outlived the time in which a pull may be resumed, and half-made layers that no lease holds.
    pub(super) async fn tidy(&self) -> Result<()> {
        let survey = Survey::of(self).await?;
        let plan = self.plan(&survey, LIFE);
        if plan.is_empty() {
            return Ok(());
        }
        tracing::info!(
            pulls = plan.pulls.len(),
            ingests = plan.strays.len(),
            layers = plan.orphans.len(),
            "garbage of interrupted pulls is given back"
        );
        self.end(&plan).await?;
        self.collect().await
    }

    fn plan(&self, survey: &Survey, older_than: Duration) -> Plan {
        let is_busy = |id: &LeaseId| self.inner.leases.is_held(id);
        Plan::new(survey, older_than, is_busy)
    }

    /// Images that are not pinned, nothing is made of, and nobody has asked for lately.
    fn unused(&self, survey: &Survey, idle: Duration) -> Result<Vec<ImageView>> {
        let since = survey.at.before(idle);
        let images = self.list(None)?;
        let is_fresh = |id: &Digest| !idle.is_zero() && self.inner.uses.is_fresh(id, since);
        let free = images
            .iter()
            .filter(|image| !(image.pinned || survey.uses(image) || is_fresh(&image.id)));
        Ok(free.map(|image| ImageView::clone(image)).collect())
    }

    /// Ends leases and throws ingests away; answers how many pulls that were.
    async fn end(&self, plan: &Plan) -> Result<u64> {
        let containerd = &self.inner.containerd;
        let mut ended = 0_u64;
        for id in &plan.pulls {
            let has_ended = self.inner.leases.end(&*containerd.leases, id).await?;
            ended = ended.saturating_add(u64::from(has_ended));
        }
        for name in &plan.strays {
            containerd.content.abort(name).await?;
        }
        Ok(ended)
    }

    /// Has containerd collect garbage, and waits for it.
    async fn collect(&self) -> Result<()> {
        let leases = &self.inner.containerd.leases;
        let id = LeaseId(COLLECTOR.to_owned());
        let expire = self.inner.clock.now().after(COLLECTOR_LIFE);
        leases.create(&id, Some(expire), [].into()).await?;
        match leases.delete(&id, true).await {
            Err(error) if error.kind() == Kind::DeadlineExceeded => Err(Error::timed_out(
                "garbage collection: containerd is still at it; ask again later",
                COLLECT_LIMIT,
            )),
            ended => ended,
        }
    }
}

/// How long containerd gets for a collection, as told in the error.
const COLLECT_LIMIT: Duration = Duration::from_secs(300);
