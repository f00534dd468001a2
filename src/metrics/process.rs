//! What this process uses of the host.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

/// Memory, processor time and descriptors of this process. What the kernel does not tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// Bytes of memory that it occupies.
    pub resident: Option<u64>,
    /// Bytes of its address space.
    pub virtual_memory: Option<u64>,
    /// Processor time since its start.
    pub cpu: Option<Duration>,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// Descriptors that it may have.
    pub max_fds: Option<u64>,
}

impl ProcessUsage {
    /// What it uses now.
    pub fn read() -> ProcessUsage {
        let (virtual_memory, resident) = memory().unzip();
        ProcessUsage {
            resident,
            virtual_memory,
            cpu: cpu(),
            open_fds: open_fds(),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
        }
    }
}

/// Bytes of the address space, and of the memory in use (proc(5), `statm`).
fn memory() -> Option<(u64, u64)> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split_ascii_whitespace().map_while(|number| number.parse::<u64>().ok());
    let page_size = sysconf(SysconfVar::PAGE_SIZE).ok()??.unsigned_abs();
    Some((pages.next()? * page_size, pages.next()? * page_size))
}

fn cpu() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Some(Duration::from_micros(micros.unsigned_abs()))
}

/// Without the descriptor by which they are counted.
fn open_fds() -> Option<u64> {
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_uses_something_of_each() {
        let used = ProcessUsage::read();
        assert!(used.resident.unwrap() > 100_000 && used.virtual_memory > used.resident, "{used:?}");
        assert!(used.open_fds.unwrap() >= 3 && used.max_fds > used.open_fds, "{used:?}");
        assert!(used.cpu.is_some());
    }
}
