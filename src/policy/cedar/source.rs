//! Reads the files of the policies' directory.

use std::path::{Path, PathBuf};

use crate::config::{Diagnostic, SourceFile, escape_unprintable, list_files};
use crate::digest::sha256;

/// Files of one directory.
const MAX_FILES: usize = 1_000;
/// Size of one file in bytes: 2 MiB.
const MAX_FILE_SIZE: u64 = 2 * 1024 * 1024;
/// Size of all files together in bytes, which bounds the time that a decision takes: 8 MiB.
const MAX_TOTAL_SIZE: usize = 8 * 1024 * 1024;

/// The files of one directory, in the order of their names.
pub(super) struct PolicySources {
    pub dir: PathBuf,
    pub files: Vec<PolicyFile>,
    /// SHA-256 of the names and contents ([`digest_of`]).
    pub sha256: [u8; 32],
}

/// One file.
pub(super) struct PolicyFile {
    /// Its name, without the directory.
    pub name: String,
    pub source: SourceFile,
}

/// Reads the files `*.cedar` in `dir`, except those whose names begin with a dot. `None` if there is no such
/// directory or no such file. Blocking.
///
/// # Errors
/// The faults of the directory and of files that cannot be read.
pub(super) fn read(dir: &Path) -> Result<Option<PolicySources>, Vec<Diagnostic>> {
    let paths = list_files(dir, "cedar", MAX_FILES, "paths.policies").map_err(|fault| vec![fault])?;
    let (mut files, mut faults, mut total) = (Vec::new(), Vec::new(), 0);
    for path in paths.unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Err(message) = check_name(&path, &name) {
            faults.push(Diagnostic { file: dir.to_owned(), line: None, message });
            continue;
        }
        match SourceFile::read_up_to(&path, MAX_FILE_SIZE) {
            Ok(source) => {
                total += source.text().len();
                files.push(PolicyFile { name, source });
            }
            Err(fault) => faults.push(fault),
        }
        if total > MAX_TOTAL_SIZE {
            let message = format!("has more than {} MiB of policies", MAX_TOTAL_SIZE / (1024 * 1024));
            faults.push(Diagnostic { file: dir.to_owned(), line: None, message });
            break;
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let sha256 = digest_of(&files);
    Ok((!files.is_empty()).then_some(PolicySources { dir: dir.to_owned(), files, sha256 }))
}

/// Records, messages and the digest have the name of each file.
fn check_name(path: &Path, name: &str) -> Result<(), String> {
    let shown = escape_unprintable(name);
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if shown == name => Ok(()),
        _ => Err(format!("has a file whose name cannot be displayed, {shown}; rename it")),
    }
}

/// SHA-256 of, for each file in the order of the names: the name, a zero byte, the length of the content as
/// eight bytes, the highest first, and the content.
fn digest_of(files: &[PolicyFile]) -> [u8; 32] {
    let mut bytes = Vec::new();
    for PolicyFile { name, source } in files {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&(source.text().len() as u64).to_be_bytes());
        bytes.extend_from_slice(source.text().as_bytes());
    }
    sha256(&bytes)
}
