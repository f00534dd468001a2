//! When a file or a directory was changed last.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::clock::Timestamp;

/// When a file was changed last, or the link or the file to which the path leads. The time of its content can be set,
/// as copies and archives do; that of its metadata cannot, so the later one counts.
pub(super) fn changed_at(path: &Path) -> io::Result<Timestamp> {
    let link = changed(&fs::symlink_metadata(path)?)?;
    match fs::metadata(path) {
        // A link that leads nowhere.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(link),
        file => Ok(link.max(changed(&file?)?)),
    }
}

/// When a directory, or a file in it, was changed last; `None` if there is no such directory.
pub(super) fn latest_change(dir: &Path) -> io::Result<Option<Timestamp>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut latest = changed_at(dir)?;
    for entry in entries {
        latest = latest.max(changed_at(&entry?.path())?);
    }
    Ok(Some(latest))
}

fn changed(file: &Metadata) -> io::Result<Timestamp> {
    let content = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let metadata = u64::try_from(file.ctime()).unwrap_or_default();
    Ok(Timestamp::from_secs(content.as_secs().max(metadata)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_that_was_set_back_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&file, "").unwrap();
        let set = |secs: u64| {
            let time = UNIX_EPOCH + Duration::from_secs(secs);
            File::options().append(true).open(&file).unwrap().set_modified(time).unwrap();
        };
        set(1_000);
        symlink("a", &link).unwrap();
        let made = fs::metadata(&file).unwrap().ctime();
        assert!(changed_at(&file).unwrap().as_secs() >= made.cast_unsigned());
        // A later time counts as it is, also by way of a link.
        set(4_000_000_000);
        let later = Timestamp::from_secs(4_000_000_000);
        assert_eq!((changed_at(&file).unwrap(), changed_at(&link).unwrap()), (later, later));
        assert_eq!(latest_change(dir.path()).unwrap(), Some(later));
        fs::remove_file(&file).unwrap();
        assert!(changed_at(&link).is_ok(), "a link that leads nowhere");
        assert!(changed_at(&file).is_err());
        assert_eq!(latest_change(&file).unwrap(), None);
    }
}
