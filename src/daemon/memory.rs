//! Returns memory that only the startup needed, and memory that callers needed who have gone.

use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise, munlock};
use nix::unistd::{SysconfVar, sysconf};

use super::harden::with_unlocked_memory;
use crate::api::ConnectionLimits;

/// Unlocks the mappings of program text and drops their pages. Text that is called again comes back from the
/// page cache, so that code for reading configuration, creating keys and starting libraries does not occupy
/// memory for the daemon's lifetime. Memory that can hold a secret stays locked.
///
/// Call it when the daemon is ready, and whenever all memory has been locked again.
pub(super) fn release_startup_memory() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for mapping in maps.lines().filter_map(TextMapping::parse) {
        let Some(start) = NonNull::new(mapping.start as *mut c_void) else { continue };
        // SAFETY: the range is exactly one mapping of this process.
        let unlocked = unsafe { munlock(start, mapping.length) };
        if unlocked.is_err() {
            continue;
        }
        // SAFETY: the range is a private, read-only, executable mapping of a file: its pages equal the
        // file's, and the kernel reads them again on the next access. A failure changes nothing.
        let _ = unsafe { madvise(start, mapping.length, MmapAdvise::MADV_DONTNEED) };
    }
}

/// How often unused memory is looked for.
const RELEASE_INTERVAL: Duration = Duration::from_secs(5);
/// Unused memory is looked for after at least this many connections have been closed, and so many times,
/// because calls and delayed replies of closed connections end later,
const MIN_CLOSED_CONNECTIONS: usize = 16;
const ATTEMPTS: u32 = 3;
/// and only where the daemon occupies this many bytes more than at its start, without program text: text that
/// only the startup needed is released at an unknown time after the first look.
const MIN_GROWTH: usize = 4 << 20;

/// Returns memory to the kernel after many connections have closed, until the task is dropped.
pub(super) async fn release_unused_memory(connections: Arc<ConnectionLimits>) {
    let at_start = anonymous_memory();
    let mut attempts = 0;
    let mut ticks = tokio::time::interval(RELEASE_INTERVAL);
    loop {
        ticks.tick().await;
        let (peak, open) = connections.take_peak();
        if peak - open >= MIN_CLOSED_CONNECTIONS {
            attempts = ATTEMPTS;
        } else if attempts == 0 {
            continue;
        }
        attempts -= 1;
        if anonymous_memory() > at_start + MIN_GROWTH && !has_swap() {
            trim_heap();
        }
    }
}

/// Returns the allocator's free pages. The kernel takes no locked page back, so memory is unlocked meanwhile;
/// without swap no page can be written to a disk at that moment.
fn trim_heap() {
    with_unlocked_memory(|| {
        // SAFETY: the call has no precondition.
        unsafe { libc::malloc_trim(0) };
    });
    // Locking has locked the program text too.
    release_startup_memory();
}

/// Whether pages can be written to swap; true where the kernel does not tell.
fn has_swap() -> bool {
    // The first line is a heading (proc(5)).
    fs::read_to_string("/proc/swaps").map_or(true, |swaps| swaps.lines().count() > 1)
}

/// Resident bytes of this process that belong to no file; 0 where the kernel does not tell.
fn anonymous_memory() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let page_size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    anonymous_pages(&statm).unwrap_or(0) * page_size as usize
}

/// Resident pages less those of files and shared memory, from the text of `/proc/PID/statm`, proc(5).
fn anonymous_pages(statm: &str) -> Option<usize> {
    let mut fields = statm.split_ascii_whitespace().skip(1).map(|pages| pages.parse::<usize>().ok());
    let (resident, shared) = (fields.next()??, fields.next()??);
    Some(resident.saturating_sub(shared))
}

/// A mapping of program text.
#[derive(Debug, PartialEq)]
struct TextMapping {
    start: usize,
    length: usize,
}

impl TextMapping {
    /// Parses a line of `/proc/PID/maps`, proc(5). `None` unless the line maps a file as executable and
    /// read-only.
    fn parse(line: &str) -> Option<TextMapping> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (mode, _offset, _device, inode) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if mode != "r-xp" || inode == "0" || !fields.next()?.starts_with('/') {
            return None;
        }
        let start = usize::from_str_radix(start, 16).ok()?;
        let length = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
        Some(TextMapping { start, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_readonly_file_mappings_are_text() {
        let mapping =
            TextMapping::parse("7f00a000-7f00c000 r-xp 00028000 fd:00 1234  /usr/lib/libc.so.6").unwrap();
        assert_eq!(mapping, TextMapping { start: 0x7f00_a000, length: 0x2000 });
        for other in [
            "7f00a000-7f00c000 r--p 00028000 fd:00 1234  /usr/lib/libc.so.6",
            "7f00a000-7f00c000 rw-p 00028000 fd:00 1234  /usr/lib/libc.so.6",
            "7f00a000-7f00c000 rwxp 00028000 fd:00 1234  /usr/lib/libc.so.6",
            "7f00a000-7f00c000 r-xp 00000000 00:00 0  [vdso]",
            "7f00a000-7f00c000 r-xp 00000000 00:00 0 ",
            "7f00a000-7f00c000",
            "",
        ] {
            assert_eq!(TextMapping::parse(other), None, "{other}");
        }
    }

    #[test]
    fn anonymous_memory_is_without_files() {
        assert_eq!(anonymous_pages("9000 2500 1900 500 0 700 0\n"), Some(600));
        for statm in ["", "9000", "9000 2500", "9000 x 1900"] {
            assert_eq!(anonymous_pages(statm), None, "{statm}");
        }
        let (before, block) = (anonymous_memory(), vec![1_u8; 32 << 20]);
        let grown = anonymous_memory() - before;
        assert!(grown > 31 << 20, "{grown} bytes for {}", block.len());
    }

    /// Releases the text of the running test itself.
    #[test]
    fn program_runs_after_releasing_its_text() {
        for _ in 0..3 {
            release_startup_memory();
        }
        assert_eq!(String::from_utf8_lossy(b"still here"), "still here");
    }
}
