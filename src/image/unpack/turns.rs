//! The order in which layers begin to come.
//!
//! Unpacking goes bottom up, so a layer that comes as fast as it ever will is best left the whole line: it is unpacked
//! while the next one comes. One that comes slowly is joined by those above it at once.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, future};
use tokio::sync::oneshot;

use super::BringLayer;
use crate::image::facts::Layer;
use crate::image::progress::Progress;
use crate::model::Result;
use crate::registry::ENOUGH_RATE;

/// A layer smaller than this is over before anybody could tell how fast it comes.
const LARGE: u64 = 32 << 20;
/// How often the bytes that have come are looked at.
const LOOKS_A_SECOND: u64 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(1_000 / LOOKS_A_SECOND);
/// The same until the first come, and how often at most.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const FIRST_LOOKS: u32 = 20;
/// Bytes between two looks below which another connection may bring more.
const FAST: u64 = ENOUGH_RATE / LOOKS_A_SECOND;

/// The work of bringing one layer.
pub(super) type Job<'a> = BoxFuture<'a, Result<()>>;

/// The work of bringing each layer, to be begun in this order, and what says that its blob is there.
pub(super) fn jobs<'a>(
    layers: &'a [Layer],
    bring: &'a dyn BringLayer,
    progress: Option<&'a Progress>,
) -> (Vec<Job<'a>>, Vec<oneshot::Receiver<()>>) {
    let mut before: Option<oneshot::Receiver<()>> = None;
    let job = |layer: &'a Layer| -> (Job<'a>, oneshot::Receiver<()>) {
        let (done, arrived) = oneshot::channel();
        let (free, next) = oneshot::channel();
        let turn = before.replace(next);
        let work = async move {
            if let Some(turn) = turn {
                // Where the one before went away without a word there is nothing to wait for either.
                turn.await.ok();
            }
            let yielding = async {
                give_way(layer, progress).await;
                free.send(()).ok();
                future::pending::<()>().await;
            };
            tokio::select! {
                brought = bring.bring(&layer.blob) => brought?,
                () = yielding => {}
            }
            // Nobody waits where the layer turned out to be there.
            done.send(()).ok();
            Ok(())
        };
        (work.boxed(), arrived)
    };
    layers.iter().map(job).unzip()
}

/// Returns when the layers above may come too.
async fn give_way(layer: &Layer, progress: Option<&Progress>) {
    let Some(progress) = progress.filter(|_| layer.blob.size >= LARGE) else {
        return;
    };
    let meter = progress.meter(&layer.blob.digest);
    // How long a registry takes to begin says nothing of how fast it is.
    for _ in 0..FIRST_LOOKS {
        tokio::time::sleep(FIRST_LOOK).await;
        if meter.fetched() > 0 {
            break;
        }
    }
    let mut before = meter.fetched();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = meter.fetched();
        if now.saturating_sub(before) < FAST {
            return;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use futures::stream::{StreamExt as _, TryStreamExt as _};

    use super::*;
    use crate::image::progress::PullBook;
    use crate::image::pull::PullKey;
    use crate::model::clock::ManualClock;
    use crate::model::{Clock, Descriptor, Digest, Timestamp};

    const SIZE: u64 = 100 << 20;
    const MS: Duration = Duration::from_millis(1);

    /// Brings so many bytes in a millisecond, and notes what began and ended.
    struct Line<'a> {
        progress: &'a Progress,
        bytes: u64,
        notes: Mutex<Vec<String>>,
    }

    impl BringLayer for Line<'_> {
        fn bring<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<()>> {
            Box::pin(async move {
                let note = |what| {
                    self.notes
                        .lock()
                        .unwrap()
                        .push(format!("{what} {}", layer.media_type))
                };
                note("begin");
                let meter = self.progress.meter(&layer.digest);
                let mut left = layer.size;
                while left > 0 {
                    tokio::time::sleep(MS).await;
                    meter.received(self.bytes, "host");
                    left = left.saturating_sub(self.bytes);
                }
                note("end");
                Ok(())
            })
        }
    }

    fn layer(name: &str, size: u64) -> Layer {
        Layer {
            file: None,
            blob: Descriptor {
                media_type: name.into(),
                digest: Digest::sha256(name.as_bytes()),
                size,
                annotations: BTreeMap::new(),
            },
            diff_id: Digest::sha256(b"diff"),
            chain_id: Digest::sha256(b"chain"),
        }
    }

    /// What happens to layers of these sizes, three at a time.
    async fn notes(sizes: &[u64], bytes_in_a_ms: u64) -> Vec<String> {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(5)));
        let pull = PullBook::new(clock).begin(PullKey {
            reference: "a.b/c".into(),
            snapshotter: "overlayfs".into(),
            credentials: [0; 32],
        });
        let layers: Vec<Layer> = sizes
            .iter()
            .zip("abc".chars())
            .map(|(size, name)| layer(&name.to_string(), *size))
            .collect();
        pull.layers(&layers);
        let line = Line {
            progress: &pull,
            bytes: bytes_in_a_ms,
            notes: Mutex::default(),
        };
        let (jobs, _arrived) = jobs(&layers, &line, Some(&pull));
        let all = futures::stream::iter(jobs).buffer_unordered(3);
        all.try_collect::<()>().await.unwrap();
        line.notes.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_that_comes_fast_has_the_line_for_itself() {
        let notes = notes(&[SIZE, SIZE, SIZE], 1 << 20).await;

        assert_eq!(
            notes,
            ["begin a", "end a", "begin b", "end b", "begin c", "end c"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn layers_that_come_slowly_come_side_by_side() {
        let notes = notes(&[SIZE, SIZE, SIZE], 10 << 10).await;

        assert_eq!(notes[..3], ["begin a", "begin b", "begin c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_small_layer() {
        let notes = notes(&[1 << 20, 1 << 20, SIZE], 1 << 20).await;

        assert_eq!(notes[..3], ["begin a", "begin b", "begin c"]);
    }
}
