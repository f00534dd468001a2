//! Which files of the log are beyond the limits of what is kept.
//!
//! Only whole files are removed, the oldest first, and never the newest. The record of a removal has the
//! digest of the last record that was removed, which the first record that is kept has as its `prev`: the
//! chain stays checkable from that record on.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use data_encoding::HEXLOWER;

use super::backwards::BackwardLines;
use super::files::{first_seq, log_files, open_file, with_path};
use super::forwards::ForwardLines;
use super::line::parse;
use super::opened::open_present_log;
use crate::clock::Timestamp;
use crate::config::KeepLimits;

/// Where there is a limit of age, a file ends when its first record has this part of the age, so that records
/// are removed at most so much later.
const FILES_PER_AGE: u32 = 8;

/// Files to remove.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) files: Vec<PathBuf>,
    /// For the record.
    pub(super) description: String,
}

/// Returns the files that are beyond the limits. `current` is the newest file.
pub(super) fn removal(
    dir: &Path,
    current: &Path,
    limits: KeepLimits,
    now: Timestamp,
) -> io::Result<Option<Removal>> {
    if limits == KeepLimits::default() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for path in log_files(dir)?.into_iter().filter(|path| path.as_path() <= current) {
        let metadata = fs::symlink_metadata(&path).map_err(|e| with_path(&path, e))?;
        let modified = metadata.modified().map_err(|e| with_path(&path, e))?;
        let written_at = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        files.push((path, metadata.len(), Timestamp::from_secs(written_at.as_secs())));
    }
    let mut kept: u64 = files.iter().map(|(_, length, _)| length).sum();
    let (mut count, mut removed, mut reason) = (0, 0, "");
    for (path, length, written_at) in &files {
        let is_too_large = limits.size.is_some_and(|size| kept > size);
        let is_too_old = limits.age.is_some_and(|age| now.since(*written_at) > age);
        if path == current || !is_too_large && !is_too_old {
            break;
        }
        reason = if is_too_large { "is larger than keep.size" } else { "has records older than keep.age" };
        kept -= length;
        removed += length;
        count += 1;
    }
    if count == 0 {
        return Ok(None);
    }
    let files: Vec<PathBuf> = files.into_iter().take(count + 1).map(|(path, ..)| path).collect();
    let (Some(first), Some(last_removed), Some(first_kept)) =
        (files.first(), files.get(count - 1), files.get(count))
    else {
        return Ok(None);
    };
    let digest = last_digest(last_removed)?;
    let number = |path: &Path| first_seq(path).unwrap_or_default();
    let description = format!(
        "the audit log {reason} of [audit], so its {count} oldest files ({} MiB) with the records {} to {} are \
         removed; the log begins with record {} now, whose prev is {digest}",
        removed >> 20,
        number(first),
        number(first_kept) - 1,
        number(first_kept)
    );
    Ok(Some(Removal { files: files[..count].to_vec(), description }))
}

/// The digest of a file's last line, in hexadecimal.
fn last_digest(path: &Path) -> io::Result<String> {
    let file = open_present_log(path)?;
    let length = file.metadata().map_err(|e| with_path(path, e))?.len();
    let last = BackwardLines::new(&file, length).next_line().map_err(|e| with_path(path, e))?;
    Ok(last.map_or_else(|| "unknown".to_owned(), |found| HEXLOWER.encode(&found.line.id.digest)))
}

/// Whether the current file has to end, so that its first records can be removed in time.
pub(super) fn is_due_to_end(current: &Path, age: Duration, now: Timestamp) -> io::Result<bool> {
    let file = open_file(current, File::options().read(true))?;
    let mut lines = ForwardLines::new(&file, 0);
    let first = lines.next_text().map_err(|e| with_path(current, e))?;
    let made_at = first.and_then(parse).and_then(|line| line.time());
    Ok(made_at.is_some_and(|made_at| now.since(made_at) > age / FILES_PER_AGE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::open as open_log;
    use crate::audit::files::log_file;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp::from_secs(2_000_000_000);

    /// Four files of two lines; each is a day older than the next, and the last one is of now.
    fn log_of_four_files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open_log(dir.path());
        for n in 0..4 {
            let time = Timestamp::from_secs(NOW.as_secs() - (3 - n) * 86_400);
            let body = format!("\"time\":\"{time}\"}}");
            log.append([body.as_bytes(), body.as_bytes()].into_iter()).unwrap();
            let written_at = UNIX_EPOCH + Duration::from_secs(time.as_secs());
            File::options().append(true).open(log.path()).unwrap().set_modified(written_at).unwrap();
            if n < 3 {
                log.start_file().unwrap();
            }
        }
        dir
    }

    fn files_of(dir: &Path, limits: KeepLimits, now: Timestamp) -> Vec<PathBuf> {
        let current = log_file(dir, 7);
        removal(dir, &current, limits, now).unwrap().map(|removal| removal.files).unwrap_or_default()
    }

    #[test]
    fn oldest_files_beyond_a_limit_are_removed_and_never_the_newest() {
        let dir = log_of_four_files();
        let dir = dir.path();
        let sizes: Vec<u64> = [1, 3, 5, 7].map(|n| fs::metadata(log_file(dir, n)).unwrap().len()).into();
        let all: u64 = sizes.iter().sum();
        let size = |size: u64| KeepLimits { size: Some(size), age: None };
        assert!(files_of(dir, KeepLimits::default(), NOW).is_empty());
        assert!(files_of(dir, size(all), NOW).is_empty());
        assert_eq!(files_of(dir, size(all - 1), NOW), [log_file(dir, 1)]);
        assert_eq!(files_of(dir, size(0), NOW).len(), 3);
        let age = |age: Duration| KeepLimits { size: None, age: Some(age) };
        assert!(files_of(dir, age(DAY * 3), NOW).is_empty());
        assert_eq!(files_of(dir, age(DAY * 2), NOW), [log_file(dir, 1)]);
        assert_eq!(files_of(dir, age(DAY), NOW.after(DAY * 1000)).len(), 3);
        let both = KeepLimits { size: Some(all - 1), age: Some(DAY) };
        assert_eq!(files_of(dir, both, NOW), [log_file(dir, 1), log_file(dir, 3)]);
        // A clock that was set back removes nothing.
        assert!(files_of(dir, age(DAY), Timestamp::from_secs(1)).is_empty());
    }

    #[test]
    fn the_description_has_what_chains_the_rest_to_what_was_removed() {
        let dir = log_of_four_files();
        let limits = KeepLimits { size: Some(0), age: None };
        let removal = removal(dir.path(), &log_file(dir.path(), 5), limits, NOW).unwrap().unwrap();
        assert_eq!(removal.files, [1, 3].map(|n| log_file(dir.path(), n)));
        let kept = fs::read_to_string(log_file(dir.path(), 5)).unwrap();
        let first: serde_json::Value = serde_json::from_str(kept.lines().next().unwrap()).unwrap();
        let expected = format!("begins with record 5 now, whose prev is {}", first["prev"].as_str().unwrap());
        assert!(removal.description.contains("records 1 to 4 are removed"), "{}", removal.description);
        assert!(removal.description.ends_with(&expected), "{}", removal.description);
    }

    #[test]
    fn a_file_ends_when_its_first_record_has_an_eighth_of_the_age() {
        let dir = log_of_four_files();
        let path = log_file(dir.path(), 7);
        assert!(!is_due_to_end(&path, DAY * 8, NOW.after(DAY)).unwrap());
        assert!(is_due_to_end(&path, DAY * 8, NOW.after(DAY + Duration::from_secs(1))).unwrap());
    }
}
