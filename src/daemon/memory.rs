//! Returns memory that only the startup needed.

use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise, munlock};

/// Unlocks the mappings of program text and drops their pages. Text that is called again comes back from the
/// page cache, so that code for reading configuration, creating keys and starting libraries does not occupy
/// memory for the daemon's lifetime. Memory that can hold a secret stays locked.
///
/// Call it once, when the daemon is ready.
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

    /// Releases the text of the running test itself.
    #[test]
    fn program_runs_after_releasing_its_text() {
        for _ in 0..3 {
            release_startup_memory();
        }
        assert_eq!(String::from_utf8_lossy(b"still here"), "still here");
    }
}
