//! The end of a file that exports append to. After a power loss it can have a part of a batch that no cursor knows of:
//! whole lines, and half of another.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// Bytes that are read at once.
const BLOCK_LEN: u64 = 64 * 1024;
/// Longer lines are not read: a batch has 1 MiB of records, and several times as much in OTLP.
const MAX_LINE_LEN: u64 = 16 * 1024 * 1024;

/// Cuts what follows the last newline of a file that is open for appending, and returns the number of its bytes and the
/// last whole line. What is not a regular file has neither.
///
/// # Errors
/// The file cannot be read, or its last 16 MiB have no newline.
pub(super) fn cut_half_line(path: &Path, file: &File) -> io::Result<(u64, Option<String>)> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok((0, None));
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let reader = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let found = reader.metadata()?;
    if (found.dev(), found.ino()) != (metadata.dev(), metadata.ino()) {
        return Err(io::Error::other("the file was replaced while it was opened"));
    }
    let length = metadata.len();
    let whole = newline_before(&reader, length)?.map_or(0, |at| at + 1);
    if whole < length {
        file.set_len(whole)?;
        file.sync_data()?;
    }
    if whole == 0 {
        return Ok((length, None));
    }
    let begin = newline_before(&reader, whole - 1)?.map_or(0, |at| at + 1);
    let mut line = vec![0; (whole - 1 - begin) as usize];
    reader.read_exact_at(&mut line, begin)?;
    Ok((length - whole, String::from_utf8(line).ok()))
}

/// The place of the last newline before `end`; `None` if the file has none there.
fn newline_before(file: &File, end: u64) -> io::Result<Option<u64>> {
    let mut block_end = end;
    let mut block = Vec::new();
    while block_end > 0 {
        if end - block_end > MAX_LINE_LEN {
            return Err(io::Error::other("it has a line of more than 16 MiB, so it is no export"));
        }
        let begin = block_end.saturating_sub(BLOCK_LEN);
        block.resize((block_end - begin) as usize, 0);
        file.read_exact_at(&mut block, begin)?;
        if let Some(at) = block.iter().rposition(|b| *b == b'\n') {
            return Ok(Some(begin + at as u64));
        }
        block_end = begin;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn half_a_line_is_cut_and_the_last_whole_one_is_returned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let long = "x".repeat(200_000);
        let files = [
            (String::new(), 0, None),
            ("half".to_owned(), 4, None),
            ("one\n".to_owned(), 0, Some("one")),
            ("one\ntwo\nhal".to_owned(), 3, Some("two")),
            ("one\n\0\0".to_owned(), 2, Some("one")),
            ("\n".to_owned(), 0, Some("")),
            (format!("one\n{long}\n{long}"), 200_000, Some(&*long)),
        ];
        for (text, cut, last) in files {
            fs::write(&path, &text).unwrap();
            let file = File::options().append(true).open(&path).unwrap();
            let found = cut_half_line(&path, &file).unwrap();
            assert_eq!((found.0, found.1.as_deref()), (cut, last));
            assert_eq!(fs::metadata(&path).unwrap().len(), text.len() as u64 - cut);
        }
        let file = File::options().append(true).open("/dev/null").unwrap();
        assert_eq!(cut_half_line(Path::new("/dev/null"), &file).unwrap(), (0, None));
    }
}
