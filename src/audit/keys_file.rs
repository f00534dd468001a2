//! The file `checkpoint.keys` in the log's directory: the public keys by which its checkpoints are verified.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::files::{open_file, with_path};
use crate::store::write_atomic;
use crate::verify::audit::{KEYS_FILE, KeysLine, MAX_KEYS_SIZE};

/// The content of the file; `None` if there is none. Blocking.
///
/// # Errors
/// The kernel's, for a symbolic link and for what is no regular file too, and one for a file of more than 1 MiB.
pub fn read_keys(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    let path = dir.join(KEYS_FILE);
    let file = match open_file(&path, File::options().read(true)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut content = Vec::new();
    file.take(MAX_KEYS_SIZE as u64 + 1).read_to_end(&mut content).map_err(|e| with_path(&path, e))?;
    check_size(&path, &content)?;
    Ok(Some(content))
}

/// Adds keys to the file, unless it has them. A last line that is not complete is removed: a crash of the machine left
/// it. The file is replaced as a whole, and is on disk when this returns. Blocking.
///
/// # Errors
/// As of [`read_keys`], and the kernel's where the file cannot be written.
pub fn append_keys(dir: &Path, keys: &KeysLine) -> io::Result<()> {
    let path = dir.join(KEYS_FILE);
    let line = format!("{}\n", serde_json::to_string(keys)?);
    let present = read_keys(dir)?.unwrap_or_default();
    let end_of_lines = present.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (lines, rest) = present.split_at(end_of_lines);
    let mut content = lines.to_vec();
    if serde_json::from_slice::<KeysLine>(rest).is_ok() {
        content.extend_from_slice(rest);
        content.push(b'\n');
    } else if !rest.is_empty() {
        let path = path.display();
        tracing::warn!("{path}: the last {} bytes are no whole line, and are removed", rest.len());
    }
    if !content.split_inclusive(|byte| *byte == b'\n').any(|found| found == line.as_bytes()) {
        content.extend_from_slice(line.as_bytes());
    }
    if content == present {
        return Ok(());
    }
    check_size(&path, &content)?;
    write_atomic(&path, &content, 0o600).map_err(|e| with_path(&path, e))
}

fn check_size(path: &Path, content: &[u8]) -> io::Result<()> {
    if content.len() <= MAX_KEYS_SIZE {
        return Ok(());
    }
    let message =
        format!("it would have more than {MAX_KEYS_SIZE} bytes; keep a copy, and move it elsewhere");
    Err(with_path(path, io::Error::other(message)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::verify::evidence::SignedAttestation;

    fn keys(index: u32) -> KeysLine {
        let certification = SignedAttestation { attest: "AAAA".to_owned(), signature: "AAAA".to_owned() };
        KeysLine::new("host", &[1], &[2], certification, index)
    }

    fn text(keys: &KeysLine) -> String {
        format!("{}\n", serde_json::to_string(keys).unwrap())
    }

    #[test]
    fn keys_are_written_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_keys(dir.path()).unwrap(), None);
        for index in [1, 1, 2, 1, 2] {
            append_keys(dir.path(), &keys(index)).unwrap();
        }
        let path = dir.path().join(KEYS_FILE);
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&keys(1)) + &text(&keys(2)));
        let before = fs::metadata(&path).unwrap().ino();
        append_keys(dir.path(), &keys(1)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), before, "it is not written without need");
        append_keys(dir.path(), &keys(3)).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().ino(), before, "it is replaced as a whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_last_line_that_is_not_complete_is_removed_and_whole_lines_stay() {
        let (one, two) = (text(&keys(1)), text(&keys(2)));
        for torn in [&two.as_bytes()[..40], b"\0\0\0\0", b"\xff\xfe"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(KEYS_FILE);
            fs::write(&path, [one.as_bytes(), torn].concat()).unwrap();
            append_keys(dir.path(), &keys(1)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), one);
            fs::write(&path, [one.as_bytes(), torn].concat()).unwrap();
            append_keys(dir.path(), &keys(2)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{one}{two}"));
        }
        // Only the newline is missing.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEYS_FILE);
        fs::write(&path, one.trim_end()).unwrap();
        append_keys(dir.path(), &keys(2)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{one}{two}"));
    }

    #[test]
    fn links_and_files_that_are_too_large_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEYS_FILE);
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &path).unwrap();
        assert!(read_keys(dir.path()).is_err() && append_keys(dir.path(), &keys(1)).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(append_keys(dir.path(), &keys(1)).is_err());
        fs::remove_file(&path).unwrap();
        let whole_lines = "x\n".repeat(MAX_KEYS_SIZE / 2);
        fs::write(&path, &whole_lines).unwrap();
        assert!(append_keys(dir.path(), &keys(1)).unwrap_err().to_string().contains("move it elsewhere"));
        assert_eq!(fs::read_to_string(&path).unwrap(), whole_lines);
    }
}
