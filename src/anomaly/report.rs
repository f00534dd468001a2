//! What is known of one agent, for administrators.

use std::time::Duration;

use super::profile::Profile;
use super::rate::{REFRESH, REFUSALS};
use crate::clock::Timestamp;

/// What is known of one agent.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileReport {
    /// The latest observation.
    pub last_seen: Timestamp,
    /// What is left of the learning time; `None` where it has passed.
    pub learning_left: Option<Duration>,
    /// What it gets in an hour in which it gets something.
    pub hourly_mean: f64,
    /// More in an hour is an anomaly.
    pub hourly_threshold: u64,
    /// More refusals in five minutes are an anomaly.
    pub refusals_threshold: u64,
    /// The hours at which it is used from Monday to Friday.
    pub working_hours: Vec<usize>,
    /// The hours at which it is used on weekends.
    pub weekend_hours: Vec<usize>,
    /// Audiences and credentials that are known.
    pub known_names: usize,
    /// The share of tokens with the longest lifetime; `None` before there are enough.
    pub longest_share: Option<f64>,
}

impl ProfileReport {
    pub(super) fn new(profile: &Profile, learn: Duration) -> ProfileReport {
        ProfileReport {
            last_seen: profile.last_seen,
            learning_left: learn.checked_sub(profile.learnt).filter(|left| !left.is_zero()),
            hourly_mean: profile.refresh.mean(),
            hourly_threshold: profile.refresh.threshold(REFRESH),
            refusals_threshold: profile.refusals.threshold(REFUSALS),
            working_hours: profile.hours.used(false).collect(),
            weekend_hours: profile.hours.used(true).collect(),
            known_names: profile.names.len(),
            longest_share: profile.lifetimes.share(),
        }
    }
}
