//! Whether the kernel regards the system clock as synchronized.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::timestamp::BootTime;

/// Bits of the kernel's error bound in [`of_kernel`]'s answer. The kernel's own limit is 16 s, which needs 24.
const ERROR_BITS: u32 = 30;

/// Whether a clock is synchronized with a source of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSync {
    /// A time service has set it, and the kernel's bound of its error is below 16 s.
    Synchronized,
    /// No time service has set it since the boot, or since it was set by hand, or for hours.
    Unsynchronized,
    /// The kernel does not say: a container's filter of system calls can forbid adjtimex(2).
    Unknown,
}

impl ClockSync {
    /// `synchronized`, `unsynchronized` or `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            ClockSync::Synchronized => "synchronized",
            ClockSync::Unsynchronized => "unsynchronized",
            ClockSync::Unknown => "unknown",
        }
    }

    pub(super) fn to_u8(self) -> u8 {
        match self {
            ClockSync::Unknown => 0,
            ClockSync::Unsynchronized => 1,
            ClockSync::Synchronized => 2,
        }
    }

    pub(super) fn from_u8(value: u8) -> ClockSync {
        match value {
            2 => ClockSync::Synchronized,
            1 => ClockSync::Unsynchronized,
            _ => ClockSync::Unknown,
        }
    }
}

impl fmt::Display for ClockSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for ClockSync {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The kernel's answer at `now`, asked for at most once in each second of the boot time, so that a request costs a
/// comparison. A process has one system clock, so there is one answer. The second value is the bound of the clock's
/// error, as of that second; `None` where the clock is not synchronized.
pub(super) fn of_kernel(now: BootTime) -> (ClockSync, Option<Duration>) {
    /// The second of the answer, from 1, below it the bound in microseconds, and below it two bits with the answer;
    /// 0 before the first.
    static ANSWER: AtomicU64 = AtomicU64::new(0);
    let second = (now.0.as_secs() + 1) & u64::from(u32::MAX);
    let mut answer = ANSWER.load(Ordering::Relaxed);
    if answer >> (ERROR_BITS + 2) != second {
        let (sync, error) = read_kernel().unwrap_or((ClockSync::Unknown, 0));
        answer = second << (ERROR_BITS + 2) | error << 2 | u64::from(sync.to_u8());
        ANSWER.store(answer, Ordering::Relaxed);
    }
    let sync = ClockSync::from_u8((answer & 3) as u8);
    let error = Duration::from_micros((answer >> 2) & ((1 << ERROR_BITS) - 1));
    (sync, (sync == ClockSync::Synchronized).then_some(error))
}

/// Reads the kernel's clock state with the bound of its error in microseconds (`maxerror`), and changes nothing:
/// `modes` is 0, which needs no capability. All time services (chrony, systemd-timesyncd, ntpd, PTP) keep this state,
/// and setting the clock by hand clears it.
///
/// The system call itself, because the C library's adjtimex(3) calls clock_adjtime(2) instead, and the
/// service's filter allows no more than is needed.
fn read_kernel() -> io::Result<(ClockSync, u64)> {
    // SAFETY: all-zero bytes are a valid `timex`, whose fields are numbers.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads and writes one `timex` at this address, which lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_adjtimex, &raw mut timex) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_synchronized =
        result != libc::c_long::from(libc::TIME_ERROR) && timex.status & libc::STA_UNSYNC == 0;
    let error = u64::try_from(timex.maxerror).unwrap_or_default().min((1 << ERROR_BITS) - 1);
    Ok((if is_synchronized { ClockSync::Synchronized } else { ClockSync::Unsynchronized }, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C library asks through another system call.
    #[test]
    fn kernel_and_c_library_agree() {
        // SAFETY: as above.
        let mut timex: libc::timex = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let state = unsafe { libc::adjtimex(&raw mut timex) };
        let expected = match state {
            -1 => ClockSync::Unknown,
            libc::TIME_ERROR => ClockSync::Unsynchronized,
            _ => ClockSync::Synchronized,
        };
        let now = BootTime::now();
        let (sync, error) = of_kernel(now);
        assert_eq!((sync, of_kernel(now)), (expected, (sync, error)));
        assert_eq!(error.is_some(), expected == ClockSync::Synchronized);
        assert!(error.is_none_or(|error| error <= Duration::from_secs(17)), "{error:?}");
    }

    #[test]
    fn states_round_trip() {
        for sync in [ClockSync::Synchronized, ClockSync::Unsynchronized, ClockSync::Unknown] {
            assert_eq!(ClockSync::from_u8(sync.to_u8()), sync);
        }
    }
}
