//! The table `[audit]`: how much of the audit log is kept, when it is on the disk, and its checkpoints.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::durations::{DAY, YEAR, bounded_duration};

/// A file of the log has 64 MiB, and the newest one is always kept.
const MIN_SIZE: u64 = 256 << 20;
/// More than disks have.
const MAX_SIZE: u64 = 1 << 60;
/// Some regulations require ten years.
const MAX_AGE: Duration = Duration::from_secs(20 * YEAR.as_secs());

const MIN_EVERY: Duration = Duration::from_secs(1);
const MAX_EVERY: Duration = Duration::from_secs(30 * DAY.as_secs());

/// The table `[audit]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSection {
    /// What is kept. Default: everything.
    pub keep: KeepLimits,
    /// Whether files that are complete are compressed. Default: no, since a search has to decompress them.
    pub compress: bool,
    /// When records are synced to the disk. Default: once a second.
    pub sync: AuditSync,
    /// Whether the TPM certifies the end of the log from time to time. Default: yes.
    pub checkpoints: bool,
    /// The time after which a checkpoint is due if there are further records, from 1 s to 30 d. Default: 1 h.
    #[serde(deserialize_with = "checkpoint_every")]
    pub checkpoint_every: Duration,
    /// The number of records after which a checkpoint is due. Default: 100,000.
    #[serde(deserialize_with = "checkpoint_records")]
    pub checkpoint_records: u64,
}

impl Default for AuditSection {
    fn default() -> AuditSection {
        AuditSection {
            keep: KeepLimits::default(),
            compress: false,
            sync: AuditSync::default(),
            checkpoints: true,
            checkpoint_every: Duration::from_secs(3600),
            checkpoint_records: 100_000,
        }
    }
}

impl AuditSection {
    /// When checkpoints are due; `None` if none are made.
    pub fn checkpoint_settings(&self) -> Option<CheckpointSettings> {
        let settings = CheckpointSettings { every: self.checkpoint_every, records: self.checkpoint_records };
        self.checkpoints.then_some(settings)
    }
}

/// When checkpoints of the audit log are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// The time after which one is due if there are further records.
    pub every: Duration,
    /// The number of records after which one is due.
    pub records: u64,
}

/// When records of the audit log are synced to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditSync {
    /// Once a second: a crash of the machine loses at most the records of the last second.
    #[default]
    Interval,
    /// Before the reply that they are the record of.
    Always,
}

/// Limits of what is kept of the audit log. Old files beyond one of them are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepLimits {
    /// Size in bytes of all files together, from `"256MiB"` on. Default: no limit.
    #[serde(deserialize_with = "size")]
    pub size: Option<u64>,
    /// Age of the last record of a file, from `"1d"` to `"20y"`. Default: no limit.
    #[serde(deserialize_with = "age")]
    pub age: Option<Duration>,
}

fn age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    bounded_duration(deserializer, DAY, MAX_AGE, "from \"1d\" to \"20y\", such as \"90d\"").map(Some)
}

fn checkpoint_every<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, MIN_EVERY, MAX_EVERY, "from \"1s\" to \"30d\", such as \"1h\"")
}

fn checkpoint_records<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(serde::de::Error::custom("0 must be a number of records, from 1 on")),
        records => Ok(records.into()),
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match parse_size(&text) {
        Some(size) if (MIN_SIZE..=MAX_SIZE).contains(&size) => Ok(Some(size)),
        _ => Err(serde::de::Error::custom(format!(
            "\"{text}\" must be a size from \"256MiB\" on, in MiB, GiB or TiB, such as \"8GiB\""
        ))),
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let units = [("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, shift) = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_bounded_and_have_units() {
        let read = |text: &str| toml::from_str::<AuditSection>(text).map(|section| section.keep);
        assert_eq!(read("").unwrap(), KeepLimits::default());
        let both = read("keep = { size = \"8 GiB\", age = \"90d\" }").unwrap();
        assert_eq!((both.size, both.age), (Some(8 << 30), Some(DAY * 90)));
        let one = read("[keep]\nsize = \"256MiB\"").unwrap();
        assert_eq!((one.size, one.age), (Some(MIN_SIZE), None));
        assert_eq!(
            toml::from_str::<AuditSection>("").unwrap().checkpoint_settings(),
            Some(CheckpointSettings { every: Duration::from_secs(3600), records: 100_000 })
        );
        let set = "checkpoint_every = \"1s\"\ncheckpoint_records = 7";
        assert_eq!(
            toml::from_str::<AuditSection>(set).unwrap().checkpoint_settings(),
            Some(CheckpointSettings { every: MIN_EVERY, records: 7 })
        );
        let off = toml::from_str::<AuditSection>("checkpoints = false").unwrap();
        assert_eq!(off.checkpoint_settings(), None);
        let compress = |text: &str| toml::from_str::<AuditSection>(text).map(|section| section.compress);
        assert_eq!((compress("").unwrap(), compress("compress = true").unwrap()), (false, true));
        let sync = |text: &str| toml::from_str::<AuditSection>(text).map(|section| section.sync);
        assert_eq!(sync("").unwrap(), AuditSync::Interval);
        assert_eq!(sync("sync = \"always\"").unwrap(), AuditSync::Always);
        for (text, expected) in [
            ("keep.size = \"255MiB\"", "256MiB"),
            ("keep.size = \"8GB\"", "GiB"),
            ("keep.size = \"99999999999999TiB\"", "GiB"),
            ("keep.size = 1000", "invalid type"),
            ("keep.age = \"1h\"", "1d"),
            ("keep.days = 1", "unknown field"),
            ("keep = \"8GiB\"", "invalid type"),
            ("checkpoint_every = \"0s\"", "from \"1s\""),
            ("checkpoint_every = \"31d\"", "30d"),
            ("checkpoint_records = 0", "from 1 on"),
            ("checkpoints = \"off\"", "invalid type"),
            ("sync = \"never\"", "unknown variant"),
            ("compress = \"gzip\"", "invalid type"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
