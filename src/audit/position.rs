//! Finds the place of a line in the log by its number.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::files::first_seq;
use super::forwards::ForwardLines;
use super::line::parse;

/// A range of this length is not searched further.
const MIN_RANGE_LEN: u64 = 64 * 1024;

/// Returns the place in `files` (oldest first) of the file that has line `seq` if the log has it.
pub(super) fn file_of(files: &[PathBuf], seq: u64) -> usize {
    files.partition_point(|path| first_seq(path).is_some_and(|first| first <= seq)).saturating_sub(1)
}

/// Returns a range of the file at `path` in which the line after line `seq` begins. A line begins at its
/// start; its end is the end of the file, or the beginning of a line with a higher number.
///
/// What can be an old block of the disk, which has other numbers or none, counts as being after `seq`, so
/// that no line before it is passed over.
pub(super) fn around_seq(file: &File, path: &Path, seq: u64) -> io::Result<Range<u64>> {
    let first = first_seq(path).unwrap_or_default();
    let mut range = 0..file.metadata()?.len();
    let mut searched_end = range.end;
    while searched_end.saturating_sub(range.start) > MIN_RANGE_LEN {
        let middle = range.start + (searched_end - range.start) / 2;
        let mut lines = ForwardLines::new(file, middle);
        // The line that the middle is in does not begin there.
        lines.next_text()?;
        let begin = lines.position();
        let found = lines.next_text()?.and_then(parse).map(|line| line.seq);
        match found {
            Some(found) if begin < searched_end && (first..=seq).contains(&found) => range.start = begin,
            Some(found) if found > seq => (searched_end, range.end) = (middle, begin),
            _ => searched_end = middle,
        }
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::files::log_file;
    use crate::audit::line::{LineId, append_line};

    #[test]
    fn range_has_the_next_line_also_beside_old_blocks_and_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = log_file(dir.path(), 1001);
        let (mut text, mut begins) = (Vec::new(), Vec::new());
        for seq in 1001..4001 {
            begins.push(text.len() as u64);
            append_line(&mut text, LineId::without_digest(seq - 1), format!("\"n\":{seq}}}").as_bytes());
        }
        let length = text.len() as u64;
        let mut old = Vec::new();
        for seq in 1..900 {
            append_line(&mut old, LineId::without_digest(seq - 1), b"\"n\":0}");
        }
        for garbage in [Vec::new(), vec![0; 300_000], [vec![b'\n'; 9], old].concat()] {
            fs::write(&path, [&text[..], &garbage].concat()).unwrap();
            let file = File::open(&path).unwrap();
            for (at, begin) in begins.iter().enumerate().step_by(97) {
                let found = around_seq(&file, &path, 1000 + at as u64).unwrap();
                assert!((found.start..=found.end).contains(begin), "{found:?} {begin}");
                assert!(begins.contains(&found.start));
            }
            assert!(around_seq(&file, &path, 4000).unwrap().end >= length);
        }
    }

    #[test]
    fn file_is_the_last_that_begins_at_the_number_or_before() {
        let files = [1, 10, 20].map(|seq| log_file(Path::new("d"), seq));
        for (seq, place) in [(0, 0), (1, 0), (9, 0), (10, 1), (19, 1), (20, 2), (u64::MAX, 2)] {
            assert_eq!(file_of(&files, seq), place, "{seq}");
        }
        assert_eq!(file_of(&[], 1), 0);
    }
}
