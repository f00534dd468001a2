//! Waits while an administrator has to approve a request.

use std::time::{Duration, Instant};

use super::error::CliError;
use super::output::note;
use crate::config::parse_duration;

/// Between two requests (RFC 8628 section 3.5).
const INTERVAL: Duration = Duration::from_secs(5);
/// The longest time of `--wait-approval`: that for which a request can wait at the daemon.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The value of `--wait-approval`.
pub(super) fn parse_wait(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Some(wait) if wait <= MAX_WAIT => Ok(wait),
        _ => Err("a duration of at most 24h, like \"10m\", or a number of seconds".to_owned()),
    }
}

/// Sends a request, again while it waits for an approval, or the daemon cannot answer now, and `wait` has not passed.
///
/// # Errors
/// That of the last request.
pub(super) async fn until_approved<T>(
    wait: Option<Duration>,
    mut send: impl AsyncFnMut() -> Result<T, CliError>,
) -> Result<T, CliError> {
    let started = Instant::now();
    let mut noted = None;
    loop {
        let error = match send().await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        let has_time = wait.is_some_and(|wait| started.elapsed() + INTERVAL <= wait);
        if !has_time || !is_repeatable(&error) {
            return Err(error);
        }
        // The same text is printed once; a request that waited too long has another id.
        let text = error.to_string();
        if noted.as_ref() != Some(&text) {
            note(format_args!("hostbadge: {text}"));
            noted = Some(text);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A client goes on after `slow_down` too (RFC 8628 section 3.5).
fn is_repeatable(error: &CliError) -> bool {
    match error {
        CliError::Refused(response) => {
            matches!(response.error.as_str(), "authorization_pending" | "slow_down")
        }
        CliError::Unavailable(_) | CliError::NoDaemon(_) => true,
        CliError::Local(_) | CliError::File(_) | CliError::Output(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::error::ErrorResponse;

    #[test]
    fn what_may_still_be_approved_is_repeated() {
        let refused = |error: &str| CliError::Refused(Box::new(ErrorResponse::new(error, "why")));
        assert!(is_repeatable(&refused("authorization_pending")) && is_repeatable(&refused("slow_down")));
        assert!(is_repeatable(&CliError::unavailable("now")));
        assert!(!is_repeatable(&refused("access_denied")) && !is_repeatable(&refused("invalid_target")));
    }

    #[test]
    fn a_wait_is_a_duration_of_at_most_a_day() {
        assert_eq!(parse_wait("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_wait("90"), Ok(Duration::from_secs(90)));
        assert!(parse_wait("2d").is_err() && parse_wait("soon").is_err());
    }
}
