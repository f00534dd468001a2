//! The key-encryption keys as administrators see them: names and times.

use std::path::Path;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::clock::{Timestamp, jitter};
use crate::digest::sha256;

/// A key is replaced up to a tenth of the interval early.
const JITTER_DIVISOR: u32 = 10;

/// A key-encryption key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekReport {
    /// Names the key; nothing is derived from the key itself.
    pub id: String,
    /// What it is used for.
    pub used_for: KekUse,
    /// When it was made; `None` where that is not known.
    pub created: Option<Timestamp>,
}

/// What a key-encryption key is used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KekUse {
    /// It encrypts the host's secrets.
    Host,
    /// It decrypts what is not encrypted again under the latest one yet.
    HostPrevious,
    /// It encrypts the secrets of this tenant.
    Tenant(String),
    /// It encrypts the keys of agents that have credentials of their own.
    Erasure,
    /// It does so once the erasure counter is incremented, for the destruction of an agent's key that has begun.
    NextErasure,
}

/// A new key-encryption key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewKek {
    /// Its name in [`super::Keystore::kek_reports`].
    pub id: String,
    /// Why it was made: a predicate, whose subject is the key.
    pub reason: &'static str,
}

impl KekReport {
    /// The key with this sealed form or name, as bytes that are not secret.
    pub(super) fn new(public: &[u8], used_for: KekUse, created: Option<Timestamp>) -> KekReport {
        KekReport { id: format!("kek-{}", HEXLOWER.encode(&sha256(public)[..8])), used_for, created }
    }

    /// When a successor is made: after the interval, less a jitter of up to a tenth, so that hosts that were set up
    /// at one time do not rotate at one time. The jitter is derived from the id, so it is the same at each start.
    pub fn rotate_at(&self, interval: Duration) -> Option<Timestamp> {
        let [a, b, c, d, ..] = sha256(self.id.as_bytes());
        let early = jitter(interval / JITTER_DIVISOR, u32::from_be_bytes([a, b, c, d]));
        Some(self.created?.after(interval - early))
    }
}

/// When the key of `tpm.json` was made, which does not say so: the file was written then, and is not changed later.
pub(super) fn initial_kek_made(dir: &Path) -> Option<Timestamp> {
    let modified = std::fs::metadata(dir.join("tpm.json")).ok()?.modified().ok()?;
    let since_epoch = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_secs(since_epoch.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_is_due_in_the_last_tenth_of_the_interval() {
        let (made, interval) = (Timestamp::from_secs(1_800_000_000), Duration::from_secs(1000));
        let due: Vec<u64> = (0..200_u8)
            .map(|n| KekReport::new(&[n], KekUse::Host, Some(made)).rotate_at(interval).unwrap())
            .map(|at| at.since(made).as_secs())
            .collect();
        assert!(due.iter().all(|after| (900..=1000).contains(after)), "{due:?}");
        assert!(due.iter().max().unwrap() - due.iter().min().unwrap() > 80, "{due:?}");
        assert_eq!(KekReport::new(&[1], KekUse::Host, None).rotate_at(interval), None);
    }
}
