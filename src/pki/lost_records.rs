//! Records of issued certificates that cannot be read.
//!
//! Without its serial number, a certificate cannot be revoked. A damaged `leaves.json` is therefore kept for
//! the administrator, and reported until the last certificate that it may have recorded has expired.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::issued_file::FILE_NAME;
use super::issuing_ca::{CLOCK_SKEW, LIFETIME};
use crate::clock::Timestamp;
use crate::store;

/// Damaged files that are kept. When there are as many, the latest is not kept.
const MAX_KEPT: u32 = 9;
/// Identities that a message names.
const MAX_NAMED: usize = 5;

/// Certificates that cannot be revoked, because their records were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRecords {
    /// Which records were lost.
    what: String,
    /// Where the damaged file is, or why it is not kept.
    kept: Result<PathBuf, String>,
    /// When the last of the certificates has expired.
    pub until: Timestamp,
}

impl LostRecords {
    /// Records of some identities, the others were read.
    pub(super) fn of_identities(dir: &Path, damaged: &[Arc<str>], now: Timestamp) -> LostRecords {
        let named = damaged.iter().take(MAX_NAMED).map(|id| &**id).collect::<Vec<_>>().join(", ");
        let more = match damaged.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        LostRecords::new(dir, format!("records of certificates of {named}{more} are damaged"), now)
    }

    /// All records.
    pub(super) fn of_file(dir: &Path, error: &store::Error, now: Timestamp) -> LostRecords {
        LostRecords::new(dir, format!("the records of issued certificates cannot be read: {error}"), now)
    }

    fn new(dir: &Path, what: String, now: Timestamp) -> LostRecords {
        LostRecords { what, kept: keep(dir).map_err(|e| e.to_string()), until: last_expiry(now) }
    }

    /// What an earlier start kept, if some of the certificates may be valid still.
    pub(super) fn of_earlier_starts(dir: &Path, now: Timestamp) -> Option<LostRecords> {
        let kept = (1..=MAX_KEPT).map(|n| kept_path(dir, n)).filter_map(|path| {
            // Its second name was the last change of its inode, or the loss of its first one soon after.
            let kept_at = fs::symlink_metadata(&path).ok()?.ctime();
            Some((last_expiry(Timestamp::from_secs(u64::try_from(kept_at).ok()?)), path))
        });
        let (until, path) = kept.max()?;
        let what = "records of certificates were damaged before this start".to_owned();
        (now < until).then_some(LostRecords { what, kept: Ok(path), until })
    }
}

/// No leaf outlives its issuing CA.
fn last_expiry(issued_before: Timestamp) -> Timestamp {
    issued_before.after(LIFETIME + CLOCK_SKEW)
}

fn kept_path(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("{FILE_NAME}.damaged-{n}"))
}

/// Gives the file a second name, under which the next write leaves it.
fn keep(dir: &Path) -> io::Result<PathBuf> {
    for path in (1..=MAX_KEPT).map(|n| kept_path(dir, n)) {
        match fs::hard_link(dir.join(FILE_NAME), &path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other(format!("there are {MAX_KEPT} damaged files already")))
}

impl fmt::Display for LostRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; these certificates cannot be revoked, and the last expires before {}",
            self.what, self.until
        )?;
        match &self.kept {
            Ok(path) => write!(f, "; the damaged file is kept as {}", path.display())?,
            Err(reason) => write!(f, "; the damaged file is not kept: {reason}")?,
        }
        f.write_str(" (the audit log has the serial numbers: event certificate-issued)")
    }
}

impl std::error::Error for LostRecords {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::certificate_issuer::CertificateIssuer;
    use super::*;
    use crate::clock::Clock;

    const HOUR: Duration = Duration::from_secs(3600);

    fn load(dir: &Path, now: Timestamp) -> (CertificateIssuer, Option<String>) {
        let issuer = CertificateIssuer::new(HOUR);
        let lost = issuer.load_issued(dir, now).err().map(|lost| lost.to_string());
        (issuer, lost)
    }

    fn file(leaves: &serde_json::Value) -> String {
        serde_json::json!({ "version": 2, "leaves": leaves }).to_string()
    }

    #[test]
    fn damaged_entries_are_reported_and_kept_for_a_day() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Clock::System.now());
        let record =
            |n: u8| [&[n; 16][..], &now.after(HOUR).as_secs().to_be_bytes(), b"ca 1", &[0; 4]].concat();
        let encode = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
        let good = encode(&[record(1), record(2)].concat());
        let cut = encode(&[&record(3)[..], &record(4)[..9]].concat());
        let garbled = format!("{}!!!!{}", &good[..44], &good[48..]);
        let leaves = serde_json::json!({ "a": good, "b": cut, "c": garbled });
        let text = file(&leaves);
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, &text).unwrap();

        let (issuer, lost) = load(dir.path(), now);
        let lost = lost.unwrap();
        assert!(lost.contains("of b, c are damaged") || lost.contains("of c, b are damaged"), "{lost}");
        assert!(lost.contains("leaves.json.damaged-1"), "{lost}");
        // Whole records before the damage can be revoked.
        let known: usize = issuer.orphaned(|_, _| true).iter().map(|(_, leaves)| leaves.len()).sum();
        assert_eq!(known, 2 + 1 + 1);
        // What is written next does not replace the evidence.
        let orphaned = issuer.orphaned(|id, _| id == "a");
        issuer.remove_revoked("a", &orphaned[0].1);
        issuer.save_issued(dir.path(), now).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("leaves.json.damaged-1")).unwrap(), text);
        assert!(issuer.report(now).lost_records.is_some());
        // It is reported after a restart too, until the certificates have expired.
        let (_, lost) = load(dir.path(), now.after(HOUR * 23));
        assert!(lost.unwrap().contains("before this start"));
        assert!(issuer.report(now.after(HOUR * 25)).lost_records.is_none());
        assert_eq!(load(dir.path(), now.after(HOUR * 26)).1, None);
    }

    #[test]
    fn unreadable_file_is_reported_and_kept() {
        let (dir, now) = (tempfile::tempdir().unwrap(), Clock::System.now());
        let path = dir.path().join(FILE_NAME);
        let newer = r#"{"version":4,"leaves":{}}"#.to_owned();
        for (n, text) in [file(&serde_json::json!({ "a": 7 })), "{".to_owned(), newer].iter().enumerate() {
            fs::write(&path, text).unwrap();
            let lost = load(dir.path(), now).1.unwrap();
            let kept = dir.path().join(format!("leaves.json.damaged-{}", n + 1));
            assert!(lost.contains("cannot be read") && lost.contains(kept.to_str().unwrap()), "{lost}");
            assert_eq!(fs::read_to_string(kept).unwrap(), *text);
            fs::remove_file(&path).unwrap();
        }
        for _ in 3..MAX_KEPT + 2 {
            fs::write(&path, "x").unwrap();
            load(dir.path(), now);
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, "x").unwrap();
        assert!(load(dir.path(), now).1.unwrap().contains("is not kept: there are 9"));
    }
}
