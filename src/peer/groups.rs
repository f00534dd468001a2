//! The supplementary groups of a process, bounded.

use std::sync::Arc;

/// Supplementary groups that are kept of one process, 4 KiB for each connection. Any user can be in 65,536
/// with the help of a user namespace (NGROUPS_MAX), which would be 256 KiB; directory services give a user at
/// most 1015, so that a Kerberos ticket has room for them.
pub const MAX_GROUPS: usize = 1024;

/// Supplementary groups at connect(2). Clones share them.
#[derive(Clone, Debug)]
pub enum Groups {
    /// All of them, sorted.
    Known(Arc<[u32]>),
    /// More than [`MAX_GROUPS`]. They are not read, and the process is in none of them.
    TooMany,
}

impl Groups {
    /// Sorts the groups.
    pub(super) fn new(mut groups: Vec<u32>) -> Groups {
        groups.sort_unstable();
        Groups::Known(groups.into())
    }

    /// Whether `gid` is one of them.
    pub fn contains(&self, gid: u32) -> bool {
        match self {
            Groups::Known(groups) => groups.binary_search(&gid).is_ok(),
            Groups::TooMany => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsorted_groups_are_found() {
        let groups = Groups::new(vec![30, 10, 20]);
        assert!([10, 20, 30].into_iter().all(|gid| groups.contains(gid)) && !groups.contains(15));
        assert!(!Groups::new(Vec::new()).contains(0) && !Groups::TooMany.contains(0));
    }
}
