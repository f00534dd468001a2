//! The fields of `/proc/PID/stat` that identify a process and its session.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Longest text of `/proc/PID/stat`: a name of at most 16 bytes and 50 numbers.
const MAX_STAT_LEN: usize = 1024;

/// What `/proc/PID/stat` says (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Process ID.
    pub pid: i32,
    /// Process ID that the leader of the session has or had; 0 if it is in another pid namespace.
    pub session: i32,
    /// Start time in clock ticks since boot. It distinguishes the process from a later one with the same pid.
    pub start_time: u64,
    /// Whether the process has not exited. A zombie has.
    pub is_running: bool,
}

impl ProcessStat {
    /// What the open file says; `None` if the process is gone.
    pub fn from_file(file: &File) -> Option<ProcessStat> {
        let mut text = [0; MAX_STAT_LEN];
        let length = file.read_at(&mut text, 0).ok()?;
        ProcessStat::parse(&text[..length])
    }

    /// What the kernel says of the process that has this pid now; `None` if there is none.
    pub fn of_pid(pid: i32) -> Option<ProcessStat> {
        ProcessStat::from_file(&File::open(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The process name in parentheses may contain any bytes.
    pub fn parse(text: &[u8]) -> Option<ProcessStat> {
        let (open, close) = (text.iter().position(|b| *b == b'(')?, text.iter().rposition(|b| *b == b')')?);
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim_end().parse().ok()?;
        let mut fields = std::str::from_utf8(&text[close + 1..]).ok()?.split_ascii_whitespace();
        let is_running = !matches!(fields.next()?, "Z" | "X" | "x");
        // Fields 6 and 22; the state was field 3.
        let session = fields.nth(2)?.parse().ok()?;
        let start_time = fields.nth(15)?.parse().ok()?;
        Some(ProcessStat { pid, session, start_time, is_running })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_and_spaces_in_the_process_name() {
        let stat = b"12 (a) R 1 2) S 1 12 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 987654 3 4 5";
        let expected = ProcessStat { pid: 12, session: 7, start_time: 987_654, is_running: true };
        assert_eq!(ProcessStat::parse(stat), Some(expected));
        let zombie = b"12 (a) Z 1 12 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 987654 3 4 5";
        assert!(!ProcessStat::parse(zombie).unwrap().is_running);
        for text in [&b"12 (a"[..], b"", b"12 (a) S 1 2", b"x (a) S 1"] {
            assert_eq!(ProcessStat::parse(text), None);
        }
    }

    #[test]
    fn own_process() {
        let pid = std::process::id() as i32;
        let stat = ProcessStat::of_pid(pid).unwrap();
        assert_eq!((stat.pid, stat.session), (pid, nix::unistd::getsid(None).unwrap().as_raw()));
        assert!(stat.is_running && stat.start_time > 0);
    }
}
