//! A private directory for copies, which ends with the self-test.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::files::random_suffix;

/// A directory of mode 0700 below the directory for temporary files (`TMPDIR`, else `/tmp`).
#[derive(Debug)]
pub(super) struct WorkDir(PathBuf);

impl WorkDir {
    pub(super) fn new() -> io::Result<WorkDir> {
        let path = std::env::temp_dir().join(format!("hostbadge-selftest-{}", random_suffix()?));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(WorkDir(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // There is no place to report a failure, and the files have no secret in the clear.
        let _ = fs::remove_dir_all(&self.0);
    }
}
