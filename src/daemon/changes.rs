//! Why the keys do not open, in words: what the PCRs that they are sealed to have measured since.

use std::path::{Path, PathBuf};

use crate::posture::{Baseline, BootLog, changed, explain};
use crate::tpm::{Pcrs, Tpm};

/// Lines of what changed that a trouble gets.
const TOLD: usize = 4;

/// What became of these PCRs, for the administrator; empty where the TPM does not say.
///
/// The words rest on a baseline that nobody vouches for while the keys are closed: they explain, and decide nothing.
pub async fn since_sealed(tpm: &Tpm, state: &Path, log: &BootLog, sealed_to: &Pcrs) -> String {
    let numbers: Vec<u8> = sealed_to.keys().copied().collect();
    let (Ok(facts), Ok(now)) = (tpm.facts().await, tpm.attest(numbers, Vec::new()).await) else {
        return String::new();
    };
    let (state, log, sealed_to): (PathBuf, _, _) = (state.to_owned(), log.clone(), sealed_to.clone());
    let lines = tokio::task::spawn_blocking(move || {
        let baseline = Baseline::read(&state, &facts.host_id).ok().flatten();
        // A log of another boot than the one that the keys were sealed in explains nothing.
        let of_then = baseline.filter(|baseline| changed(&sealed_to, &baseline.pcrs).next().is_none());
        let before = of_then.and_then(|baseline| baseline.boot_log);
        explain(&sealed_to, before.as_deref(), &now.pcrs, log.read().as_deref())
    });
    let lines = lines.await.unwrap_or_default();
    let more = if lines.len() > TOLD { "; and more" } else { "" };
    lines.iter().take(TOLD).map(|line| format!("; {line}")).collect::<String>() + more
}
