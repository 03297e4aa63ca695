//! What systemd is told: that a start takes longer, that we are ready, that we live, that we end. Without systemd each
//! of these is a no-op.

use std::future::Future;
use std::time::Duration;

use sd_notify::NotifyState;

/// How often a start that is not done asks for more time, and how much it asks for.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY_US: u32 = 30_000_000;

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Runs `start` to its end and asks for more time meanwhile.
pub(super) async fn while_starting<T>(status: &str, start: impl Future<Output = T>) -> T {
    let mut start = std::pin::pin!(start);
    tell(&[NotifyState::Status(status)]);
    loop {
        match tokio::time::timeout(EXTEND_EVERY, start.as_mut()).await {
            Ok(done) => return done,
            Err(_elapsed) => tell(&[NotifyState::ExtendTimeoutUsec(EXTEND_BY_US)]),
        }
    }
}

/// We serve.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// We end; operations that still run get up to `drain`.
pub(super) fn stopping(drain: Duration) {
    let micros = u32::try_from(drain.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("waiting for running operations"),
        NotifyState::ExtendTimeoutUsec(micros.saturating_add(5_000_000)),
    ]);
}

/// How often the watchdog wants a sign of life: half of what the unit allows. `None` without a watchdog.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The sign of life.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_long_start_ends_with_its_own_result() {
        let start = async {
            tokio::time::sleep(EXTEND_EVERY * 4).await;
            7
        };

        assert_eq!(while_starting("recovering", start).await, 7);
    }
}
