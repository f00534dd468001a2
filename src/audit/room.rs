//! The space on the log's disk that files beside the log leave to it.

use std::path::Path;

use super::health::LOW_SPACE_BYTES;

/// Free space in bytes that indices and compressed files leave to the log, so that neither has refusals counted instead
/// of recorded.
const RESERVE: u64 = 2 * LOW_SPACE_BYTES;

/// Whether the disk of a file keeps [`RESERVE`] where `length` bytes are written beside the file.
pub(super) fn has_room(path: &Path, length: u64) -> bool {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    nix::sys::statvfs::statvfs(dir).is_ok_and(|disk| {
        let available = disk.blocks_available() * disk.fragment_size();
        available >= RESERVE.saturating_add(length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_left_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(has_room(&path, 0), "the disk of this test has 128 MiB");
        assert!(!has_room(&path, u64::MAX - RESERVE), "no disk has this");
    }
}
