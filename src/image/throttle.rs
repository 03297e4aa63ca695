//! Pulls give way to the pods that run: while the node is under pressure they go on at a crawl.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config;
use crate::model::Result;
use crate::sys::{off_thread, pressure};

/// How long a reading holds.
const FRESH: Duration = Duration::from_millis(500);
/// Between two chunks of a pull while the node is under pressure.
const PAUSE: Duration = Duration::from_secs(1);

type Read = dyn Fn() -> Result<Option<f32>> + Send + Sync;

/// What all pulls of the node pass through, chunk by chunk.
pub(super) struct Throttle {
    config: config::Shared,
    read: Arc<Read>,
    last: Mutex<Option<(Instant, bool)>>,
}

impl Throttle {
    pub(super) fn new(config: config::Shared) -> Self {
        Self::reading(config, Arc::new(pressure::some_blocking))
    }

    fn reading(config: config::Shared, read: Arc<Read>) -> Self {
        Self {
            config,
            read,
            last: Mutex::default(),
        }
    }

    /// Waits while the node is under pressure, though never for ever: a pull that is wanted comes to its end.
    pub(super) async fn pass(&self) {
        let limit = self.config.load().images.pressure_limit;
        if limit > 0 && self.is_pressed(limit).await {
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn is_pressed(&self, limit: u32) -> bool {
        let mut last = self.last.lock().await;
        if let Some((at, pressed)) = *last
            && at.elapsed() < FRESH
        {
            return pressed;
        }
        let read = Arc::clone(&self.read);
        let share = off_thread("read the node's pressure", move || read()).await;
        let pressed = match share {
            Ok(share) => share.is_some_and(|share| f64::from(share) > f64::from(limit)),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "images.pressure_limit has no effect");
                false
            }
        };
        let was = last.replace((Instant::now(), pressed));
        if was.is_none_or(|(_, was)| was != pressed) {
            tracing::info!(pressed, limit, "pulls heed the node's pressure");
        }
        pressed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::Config;

    fn throttle(limit: u32, share: &Arc<AtomicU32>) -> Throttle {
        let text = format!("[images]\npressure_limit = {limit}\n");
        let config = config::Shared::new(Config::parse(&text).unwrap());
        let share = Arc::clone(share);
        Throttle::reading(
            config,
            Arc::new(move || {
                let share = u16::try_from(share.load(Ordering::SeqCst)).unwrap();
                Ok(Some(f32::from(share)))
            }),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_pass_at_once_below_the_limit_and_at_a_crawl_above_it() {
        let share = Arc::new(AtomicU32::new(20));
        let throttle = throttle(20, &share);
        let began = Instant::now();
        throttle.pass().await;
        assert!(began.elapsed() < PAUSE);

        share.store(21, Ordering::SeqCst);
        tokio::time::sleep(FRESH).await;
        let began = Instant::now();
        throttle.pass().await;
        throttle.pass().await;
        assert!(began.elapsed() >= 2 * PAUSE);

        share.store(0, Ordering::SeqCst);
        tokio::time::sleep(FRESH).await;
        let began = Instant::now();
        throttle.pass().await;
        assert!(began.elapsed() < PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_never_reads_and_never_waits() {
        let config = config::Shared::new(Config::default());
        let throttle = Throttle::reading(config, Arc::new(|| panic!("it was read")));
        throttle.pass().await;
    }
}
