//! Whether the daemon sees the processes of other users in `/proc`.

use std::fs::File;
use std::io;

/// Where process 1 runs as another user, as on every host, it is hidden as those of agents are.
const PROBE: &str = "/proc/1/cgroup";

/// Returns what is wrong, with the way out, if `/proc` hides the processes of other users from the daemon, as
/// it does with the mount option `hidepid` (proc(5)). Their requests are refused then.
pub fn hidden_processes() -> Option<&'static str> {
    let error = File::open(PROBE).err()?;
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied).then_some(
        "/proc hides the processes of other users, so that their requests are refused: it is mounted with \
         hidepid; mount it without, or with gid= of a group that a drop-in for hostbadged.service names in \
         SupplementaryGroups=, then restart hostbadged",
    )
}
