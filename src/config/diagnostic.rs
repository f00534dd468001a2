//! Reading TOML files that administrators write, and faults in them with file, line and remedy.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::de::DeTable;

use super::escape::escape_unprintable;
use super::schema::{self, Key};

/// Upper bound on the size of such a file in bytes.
const MAX_SOURCE_FILE_SIZE: u64 = 256 * 1024;

/// Faults of one file that are reported.
const MAX_FAULTS_OF_FILE: usize = 50;

/// One fault in a file, displayed as `file:line: message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file or directory.
    pub file: PathBuf,
    /// The line, counted from 1; `None` if the fault concerns the file or directory as a whole.
    pub line: Option<usize>,
    /// What is wrong, and what to do about it.
    #[serde(rename = "what")]
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

/// A file as far as it can be read.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The values without those that have a fault; `None` if the file cannot be read at all.
    pub values: Option<T>,
    /// The faults.
    pub faults: Vec<Diagnostic>,
    /// Headers of the tables that lack keys because these have a fault, such as `[match]`.
    pub incomplete: Vec<String>,
}

/// The text of a file, with its path for diagnostics.
pub struct SourceFile {
    path: PathBuf,
    text: String,
}

impl SourceFile {
    /// Reads a regular file of at most 256 KiB in UTF-8.
    ///
    /// # Errors
    /// A diagnostic for a file that cannot be read, that other users may write to ([`insecure_permissions`]),
    /// or that is too large or not UTF-8.
    pub fn read(path: &Path) -> Result<SourceFile, Diagnostic> {
        SourceFile::read_up_to(path, MAX_SOURCE_FILE_SIZE)
    }

    /// As [`SourceFile::read`], with another limit of the size in bytes.
    ///
    /// # Errors
    /// As [`SourceFile::read`].
    pub fn read_up_to(path: &Path, max_size: u64) -> Result<SourceFile, Diagnostic> {
        let file_error = |message: String| Diagnostic { file: path.to_owned(), line: None, message };
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        let opened = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|e| file_error(unreadable(&e)))?;
        let meta = file.metadata().map_err(|e| file_error(e.to_string()))?;
        if !meta.is_file() {
            return Err(file_error("is not a regular file; put the file itself here".into()));
        }
        if let Some(reason) = insecure_permissions(&meta) {
            return Err(file_error(reason));
        }
        let mut bytes = Vec::new();
        file.take(max_size + 1).read_to_end(&mut bytes).map_err(|e| file_error(e.to_string()))?;
        if bytes.len() as u64 > max_size {
            return Err(file_error(format!("is larger than {} KiB; split it", max_size / 1024)));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let line =
                1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
            Diagnostic {
                file: path.to_owned(),
                line: Some(line),
                message: "is not UTF-8; save it as UTF-8".into(),
            }
        })?;
        Ok(SourceFile { path: path.to_owned(), text })
    }

    /// A text that is not in a file yet; `path` is for diagnostics.
    pub fn from_text(path: &Path, text: String) -> SourceFile {
        SourceFile { path: path.to_owned(), text }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Parses the text as TOML with these keys. Finds all faults of keys, types and values; of the syntax,
    /// the first one.
    pub fn parse<T: DeserializeOwned>(&self, keys: &[Key]) -> Parsed<T> {
        let mut table = match DeTable::parse(&self.text) {
            Ok(table) => table,
            Err(e) => {
                let faults = vec![self.toml_fault(&e, "is not valid TOML: ")];
                return Parsed { values: None, faults, incomplete: Vec::new() };
            }
        };
        let (faults, incomplete) = schema::check(&mut table, keys);
        let mut faults: Vec<Diagnostic> =
            faults.into_iter().map(|(span, message)| self.diagnostic(span, message)).collect();
        // The first fault of a value ends the deserialization, so it is repeated without this value.
        let values = loop {
            match T::deserialize(toml::Deserializer::from(table.clone())) {
                Ok(values) => break Some(values),
                Err(e) => {
                    faults.push(self.toml_fault(&e, ""));
                    let span = e.span().filter(|_| faults.len() < MAX_FAULTS_OF_FILE);
                    if !span.is_some_and(|span| schema::remove_value_at(table.get_mut(), span.start)) {
                        break None;
                    }
                }
            }
        };
        Parsed { values, faults, incomplete }
    }

    fn toml_fault(&self, error: &toml::de::Error, start: &str) -> Diagnostic {
        // A message repeats keys and values of the file.
        let message = error.message().trim_end().replace('\n', "; ");
        let message = format!("{start}{}", escape_unprintable(&message));
        match error.span() {
            Some(span) => self.diagnostic(span, message),
            None => Diagnostic { file: self.path.clone(), line: None, message },
        }
    }

    /// Sorts faults of this file by line, and keeps the first 50.
    pub fn sorted(&self, mut faults: Vec<Diagnostic>) -> Vec<Diagnostic> {
        faults.sort_by_key(|fault| fault.line);
        if let Some(more) = faults.len().checked_sub(MAX_FAULTS_OF_FILE).filter(|more| *more > 0) {
            faults.truncate(MAX_FAULTS_OF_FILE);
            let message = format!("has {more} more faults");
            faults.push(Diagnostic { file: self.path.clone(), line: None, message });
        }
        faults
    }

    /// A diagnostic for a span of this file's text, in bytes.
    pub fn diagnostic(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let start = span.start.min(self.text.len());
        let line = 1 + self.text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
        let message = escape_unprintable(&message.into()).into_owned();
        Diagnostic { file: self.path.clone(), line: Some(line), message }
    }
}

/// Why a file or directory cannot be read, with what to do about it if that follows from the error.
pub(super) fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist; correct the path, or create it".into(),
        io::ErrorKind::PermissionDenied => format!("cannot be read ({error}); correct its owner or mode"),
        io::ErrorKind::NotADirectory => "is below a file, which is not a directory; correct the path".into(),
        _ => format!("cannot be read ({error})"),
    }
}

/// Why a file or directory is not trusted, if users other than root and the daemon's may change it: it is
/// world-writable, writable by a group other than root's and the daemon's, or owned by another user.
pub fn insecure_permissions(meta: &std::fs::Metadata) -> Option<String> {
    if meta.mode() & 0o002 != 0 {
        return Some("is writable by all users; remove that permission with chmod o-w".into());
    }
    if meta.mode() & 0o020 != 0 && meta.gid() != 0 && meta.gid() != nix::unistd::getegid().as_raw() {
        return Some(format!(
            "is writable by the members of group {}; remove that permission with chmod g-w",
            meta.gid()
        ));
    }
    let own_uid = nix::unistd::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != own_uid {
        return Some(format!(
            "is owned by uid {}, who could change it at any time; give it to root with chown",
            meta.uid()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use serde::Deserialize;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct TestConfig {
        #[expect(dead_code)]
        name: Option<String>,
    }

    fn parse_error(text: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        fs::write(&path, text).unwrap();
        let keys = [Key::required("name", Kind::Text("\"a\""))];
        let fault = match SourceFile::read(&path) {
            Ok(source) => source.parse::<TestConfig>(&keys).faults.swap_remove(0),
            Err(fault) => fault,
        };
        fault.to_string().replace(dir.path().to_str().unwrap(), "")
    }

    #[test]
    fn control_characters_of_keys_are_escaped() {
        let error = parse_error("\"na\u{85}me\\t\" = 3\n".as_bytes());
        assert!(error.contains(r"unknown key `na\u{85}me\t`"), "{error}");
        let error = parse_error("\"na\u{202e}me\" = 3\n".as_bytes());
        assert!(error.contains(r"unknown key `na\u{202e}me`"), "{error}");
    }

    #[test]
    fn errors_name_their_line() {
        assert!(
            parse_error(b"\n\nname = 3\n").starts_with("/f.toml:3: name must be text in quotes"),
            "{}",
            parse_error(b"\n\nname = 3\n")
        );
        assert!(
            parse_error(b"name = \"a\"\nnmae = 1\n")
                .starts_with("/f.toml:2: unknown key `nmae`; did you mean `name`?")
        );
        assert!(
            parse_error(b"name = \"a\nx").starts_with("/f.toml:2: "),
            "{}",
            parse_error(b"name = \"a\nx")
        );
        assert!(
            parse_error(b"name = \"a\"\nname = \"b\"\n")
                .starts_with("/f.toml:2: is not valid TOML: duplicate key")
        );
        assert!(parse_error(b"#\n#\n\xff\n").starts_with("/f.toml:3: is not UTF-8"));
    }

    #[test]
    fn world_writable_file_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        fs::write(&path, "name = \"a\"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(SourceFile::read(&path).err().unwrap().to_string().contains("chmod o-w"));
    }
}
