//! How long to wait before a request is sent again.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// Pause after a connection broke.
pub(super) const TRANSPORT_PAUSE: Duration = Duration::from_millis(50);
const BACKOFF_FLOOR: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(60);

/// The pause that an answer asks for in `Retry-After` (at most a minute), else a jittered backoff.
pub(super) fn pause(headers: &HeaderMap, attempt: u32) -> Duration {
    asked_for(headers).map_or_else(|| backoff(attempt), |asked| asked.min(LONGEST))
}

/// Seconds, or an HTTP date, which is read against the answer's own `Date`: our clock may be off.
fn asked_for(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(&RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(asked).ok()?.timestamp();
    let now = jiff::fmt::rfc2822::parse(text(&DATE)?).ok()?.timestamp();
    let seconds = until.as_second().saturating_sub(now.as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn backoff(attempt: u32) -> Duration {
    let base = BACKOFF_FLOOR.saturating_mul(1_u32 << attempt.min(6));
    let jitter = getrandom::u32().unwrap_or(0) % 512;
    base.saturating_add(base.saturating_mul(jitter) / 1024)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("7", None, Some(7))]
    #[case("0", None, Some(0))]
    #[case("3600", None, Some(60))]
    #[case(
        "Wed, 21 Oct 2015 07:28:10 GMT",
        Some("Wed, 21 Oct 2015 07:28:00 GMT"),
        Some(10)
    )]
    #[case(
        "Wed, 21 Oct 2015 07:27:00 GMT",
        Some("Wed, 21 Oct 2015 07:28:00 GMT"),
        Some(0)
    )]
    fn what_the_registry_asks_for_is_honoured_up_to_a_minute(
        #[case] retry_after: &str,
        #[case] date: Option<&str>,
        #[case] seconds: Option<u64>,
    ) {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        assert_eq!(Some(pause(&headers, 1)), seconds.map(Duration::from_secs));
    }

    #[test]
    fn without_a_wish_the_pause_grows_and_stays_bounded() {
        let headers = HeaderMap::new();
        assert!(pause(&headers, 1) >= Duration::from_millis(400));
        assert!(pause(&headers, 9) <= Duration::from_secs(20));
    }
}
