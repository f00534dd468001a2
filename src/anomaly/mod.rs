//! Rules that compare what an agent does with what it did before, and alerts.
//!
//! Each agent has a profile of bounded size. The audit path passes each recorded decision as an
//! [`Observation`] to [`Anomalies`], which costs about a microsecond and waits for nothing: an alert goes to a bounded
//! queue, from which a component of the daemon records it and suspends the agent where the configuration says so.
//! Each rule is a file of its own, a function of what it has learnt and of one observation with its time.
//!
//! An agent is compared with itself once it has been observed for the learning time, `[anomaly] learn`. The days on
//! which it did something and the pauses of at most a day between them count, so that setting the clock does not end
//! the learning time. Refusals and canary credentials count from the first observation on.

mod alert;
mod anomalies;
mod executable;
mod file;
mod first_use;
mod hours;
mod lifetime;
mod observation;
mod profile;
mod rate;
mod report;
mod shared_key;
#[cfg(test)]
mod simulation;
mod unused_tokens;

use std::time::Duration;

pub use alert::{Alert, StoredAlert};
pub use anomalies::{Anomalies, CanaryLookup};
pub use file::AnomalyFile;
pub use observation::{Act, Executable, KeyUse, Observation};
pub use report::ProfileReport;

/// Agents that have a profile; those that were seen longest ago are forgotten first. More than a host can register.
const MAX_AGENTS: usize = 16_384;
/// Alerts that are kept for administrators, the latest ones.
pub const MAX_ALERTS: usize = 256;
/// Alerts that wait for the component. Further ones are counted.
pub const MAX_WAITING: usize = 256;
/// The longest pause between two observations that counts in full toward the learning time.
const MAX_LEARNT_PAUSE: Duration = Duration::from_secs(24 * 3600);
/// If the time of day moves by so much more or less than the time since the host started, the clock was set.
const CLOCK_STEP: Duration = Duration::from_secs(120);
/// No hour is judged or learnt for this time after the clock was set.
const CLOCK_REST: Duration = Duration::from_secs(3600);
