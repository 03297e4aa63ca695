//! Undo as data: one unwinder for failures, crashes and removals.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use crate::model::Error;

/// A step that would not go, and why. It stays recorded; the janitor retries it and `doctor` shows it.
#[derive(Debug)]
pub struct StillThere<S> {
    /// The step.
    pub step: S,
    /// Why it would not go.
    pub error: Error,
}

/// Takes back `steps`, newest first. Each undo has `limit` of its own, and one that fails never stops the others.
/// `undo` must be idempotent and must tolerate a step that was recorded and never done.
pub async fn unwind<S, F>(steps: &[S], limit: Duration, undo: impl Fn(S) -> F) -> Vec<StillThere<S>>
where
    S: Copy + Debug,
    F: Future<Output = Result<(), Error>>,
{
    let mut left = Vec::new();
    for step in steps.iter().rev().copied() {
        let error = match tokio::time::timeout(limit, undo(step)).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_elapsed) => Error::timed_out(format!("undo {step:?}"), limit),
        };
        tracing::warn!(?step, %error, "a step would not unwind; it stays recorded");
        left.push(StillThere { step, error });
    }
    left
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_or_hanging_undo_does_not_stop_the_others() {
        let done = Mutex::new(Vec::new());
        let left = unwind(&[1, 2, 3, 4], Duration::from_secs(1), |step| {
            let done = &done;
            async move {
                match step {
                    2 => std::future::pending().await,
                    3 => Err(Error::internal("no")),
                    _ => {
                        done.lock().unwrap().push(step);
                        Ok(())
                    }
                }
            }
        })
        .await;

        assert_eq!(*done.lock().unwrap(), [4, 1]);
        assert_eq!(
            left.iter().map(|left| left.step).collect::<Vec<_>>(),
            [3, 2]
        );
    }
}
