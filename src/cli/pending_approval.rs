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

/// Sends a request, again while it waits for an approval and `wait` has not passed.
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
        let waits =
            matches!(&error, CliError::Refused(response) if response.error == "authorization_pending");
        let has_time = wait.is_some_and(|wait| started.elapsed() + INTERVAL <= wait);
        if !waits || !has_time {
            return Err(error);
        }
        // An edited or expired request has another id.
        let id = match &error {
            CliError::Refused(response) => response.approval.clone(),
            _ => None,
        };
        if id != noted {
            note(format_args!("hostbadge: {error}"));
            noted = id;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
