//! Lists the files of a directory that administrators fill.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, insecure_permissions, unreadable};

/// The files in `dir` with this extension, sorted; names that begin with a dot are skipped. `None` if there
/// is no such directory. `setting` is the configuration key of the directory, for messages. Blocking.
///
/// # Errors
///
/// If `dir` is not a directory itself (a symbolic link, for instance), is writable by other users, cannot be
/// read, or has more than `max_files` such files.
pub fn list_files(
    dir: &Path,
    extension: &str,
    max_files: usize,
    setting: &str,
) -> Result<Option<Vec<PathBuf>>, Diagnostic> {
    let diagnostic = |message: String| Diagnostic { file: dir.to_owned(), line: None, message };
    let unreadable = |e: io::Error| diagnostic(unreadable(&e));
    let meta = match fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    if meta.is_symlink() {
        return Err(diagnostic(format!(
            "is a symbolic link, whose target another user could change; set {setting} to the real directory"
        )));
    }
    if !meta.is_dir() {
        return Err(diagnostic(format!("is not a directory; set {setting} to one")));
    }
    if let Some(message) = insecure_permissions(&meta) {
        return Err(diagnostic(message));
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|found| found != extension) {
            continue;
        }
        paths.push(path);
        if paths.len() > max_files {
            return Err(diagnostic(format!("has more than {max_files} files *.{extension}")));
        }
    }
    paths.sort();
    Ok(Some(paths))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn lists_files_of_the_extension_sorted_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.json", "a.json", ".c.json", "d.json~", "README"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let list = |max| list_files(dir.path(), "json", max, "paths.x");
        assert_eq!(list(2).unwrap().unwrap(), ["a.json", "b.json"].map(|name| dir.path().join(name)));
        assert!(list(1).unwrap_err().to_string().ends_with("has more than 1 files *.json"));
        assert_eq!(list_files(&dir.path().join("none"), "json", 1, "paths.x").unwrap(), None);
    }

    #[test]
    fn rejects_links_files_and_directories_that_others_may_write_to() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| list_files(path, "json", 1, "paths.x").unwrap_err().to_string();
        let (link, file) = (dir.path().join("link"), dir.path().join("file"));
        symlink(dir.path(), &link).unwrap();
        fs::write(&file, "").unwrap();
        assert!(message(&link).contains("symbolic link") && message(&link).contains("paths.x"));
        assert!(message(&file).contains("is not a directory"));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(message(dir.path()).contains("chmod"));
    }
}
