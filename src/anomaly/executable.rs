//! The rules `executable` and `unit_file`: another executable, or a changed file.
//!
//! An executable is known by its path and by its file: a digest of inode, size and times. A path that was not used
//! within the learning time is another executable; another file at a known path is a changed one. When the name of a
//! file is removed, as by an upgrade of its package, the kernel appends ` (deleted)` to its path, and its ctime
//! changes. A process of the file that was known at this path goes on then, by its device, inode, size and mtime. The
//! suffix alone says nothing, because a file can have such a name. Of the unit that
//! `[match]` names, the digest over its file and drop-ins is compared, the one that `unit_sha256` names too. Each is
//! known from its alert on.

use serde::{Deserialize, Serialize};

/// Files of one agent that are known, executables and units each; the oldest are forgotten first.
const MAX_FILES: usize = 32;

/// Names and what their content was, by digests, the latest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct KnownFiles(Vec<(u64, u64)>);

/// How a file differs from those that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// The name was not known.
    Other,
    /// The name was known with other content.
    Changed,
}

impl KnownFiles {
    /// Takes note of a file. Returns how it differs.
    pub fn observe(&mut self, name: u64, content: u64, is_learnt: bool) -> Option<Difference> {
        if self.has(name, content) {
            return None;
        }
        let is_known = self.has_name(name);
        if self.0.len() >= MAX_FILES {
            self.0.remove(0);
        }
        self.0.push((name, content));
        is_learnt.then_some(if is_known { Difference::Changed } else { Difference::Other })
    }

    /// Whether a file of this name is known with this content.
    pub fn has(&self, name: u64, content: u64) -> bool {
        self.0.contains(&(name, content))
    }

    fn has_name(&self, name: u64) -> bool {
        self.0.iter().any(|known| known.0 == name)
    }

    /// Whether there are not too many, of a file.
    pub fn is_valid(&self) -> bool {
        self.0.len() <= MAX_FILES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_and_other_content_are_found_once_each() {
        let mut known = KnownFiles::default();
        assert_eq!(known.observe(1, 1, false), None);
        assert_eq!(known.observe(1, 1, true), None);
        assert_eq!(known.observe(1, 2, true), Some(Difference::Changed));
        assert_eq!(known.observe(2, 1, true), Some(Difference::Other));
        assert_eq!((known.observe(1, 1, true), known.observe(2, 1, true)), (None, None));
        for name in 0..1000 {
            known.observe(name, 0, true);
        }
        assert!(known.is_valid());
    }
}
