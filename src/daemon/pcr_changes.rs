//! Describes PCR changes for error messages and audit records.

use std::path::{Path, PathBuf};

use crate::posture::{Baseline, EventLogFile, changed_pcrs, describe_pcr_changes};
use crate::tpm::{PcrValues, Tpm};

/// Lines of a description that one message holds.
const MAX_LINES: usize = 4;

/// What changed in the PCRs that the keys are sealed to, as text to append to an error; empty if the TPM
/// cannot be read.
///
/// The text is for people only and decides nothing: while the keystore is locked, the baseline file that it
/// rests on is not authenticated.
pub(super) async fn describe_changes_since_seal(
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
        // The event log of another boot than the one in which the keys were sealed explains nothing.
        let sealed_baseline =
            baseline.filter(|baseline| changed_pcrs(&sealed_to, &baseline.pcrs).next().is_none());
        let sealed_event_log = sealed_baseline.and_then(|baseline| baseline.event_log);
        describe_pcr_changes(&sealed_to, sealed_event_log.as_deref(), &now.pcrs, event_log.read().as_deref())
    });
    join_lines(&lines.await.unwrap_or_default(), "; and more")
}

/// The first four lines, each after "; ", and `if_more` if there are others.
pub(super) fn join_lines(lines: &[String], if_more: &str) -> String {
    let more = if lines.len() > MAX_LINES { if_more } else { "" };
    lines.iter().take(MAX_LINES).map(|line| format!("; {line}")).collect::<String>() + more
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_is_cut_after_four_lines() {
        let lines: Vec<String> = (0..5).map(|line| line.to_string()).collect();
        assert_eq!(join_lines(&lines[..4], "; and more"), "; 0; 1; 2; 3");
        assert_eq!(join_lines(&lines, "; and more"), "; 0; 1; 2; 3; and more");
        assert_eq!(join_lines(&[], "; and more"), "");
    }
}
