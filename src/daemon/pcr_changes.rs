//! Why the keys do not open, in words: what the PCRs that they are sealed to have measured since.

use std::path::{Path, PathBuf};

use crate::posture::{Baseline, EventLogFile, changed_pcrs, describe_pcr_changes};
use crate::tpm::{PcrValues, Tpm};

/// Lines of what changed that a trouble gets.
const MAX_LINES: usize = 4;

/// What became of these PCRs, for the administrator; empty where the TPM does not say.
///
/// The words rest on a baseline that nobody vouches for while the keys are closed: they explain, and decide nothing.
pub async fn describe_changes_since_seal(
    tpm: &Tpm,
    state_dir: &Path,
    event_log: &EventLogFile,
    sealed_to: &PcrValues,
) -> String {
    let numbers: Vec<u8> = sealed_to.keys().copied().collect();
    let (Ok(facts), Ok(now)) = (tpm.info().await, tpm.attest(numbers, Vec::new()).await) else {
        return String::new();
    };
    let (state_dir, event_log, sealed_to): (PathBuf, _, _) =
        (state_dir.to_owned(), event_log.clone(), sealed_to.clone());
    let lines = tokio::task::spawn_blocking(move || {
        let baseline = Baseline::read(&state_dir, &facts.host_id).ok().flatten();
        // A log of another boot than the one that the keys were sealed in explains nothing.
        let sealed_baseline =
            baseline.filter(|baseline| changed_pcrs(&sealed_to, &baseline.pcrs).next().is_none());
        let sealed_event_log = sealed_baseline.and_then(|baseline| baseline.event_log);
        describe_pcr_changes(&sealed_to, sealed_event_log.as_deref(), &now.pcrs, event_log.read().as_deref())
    });
    let lines = lines.await.unwrap_or_default();
    let suffix = if lines.len() > MAX_LINES { "; and more" } else { "" };
    lines.iter().take(MAX_LINES).map(|line| format!("; {line}")).collect::<String>() + suffix
}
