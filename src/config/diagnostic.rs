//! What is wrong with a file that a person wrote: where, what, and the mend.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A hand-written file is never this large; a larger one is a mistake.
const MAX_SOURCE_FILE_SIZE: u64 = 256 * 1024;

/// One fault of one file, printed as `file:line: what, and the mend`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub file: PathBuf,
    /// Counted from 1; none where the fault is the file's or the directory's as a whole.
    pub line: Option<usize>,
    pub what: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.what),
            None => write!(f, "{}: {}", self.file.display(), self.what),
        }
    }
}

/// A file read whole, with the means to say where in it something is wrong.
pub struct SourceFile {
    path: PathBuf,
    text: String,
}

impl SourceFile {
    /// Reads a TOML file: bounded, UTF-8, a regular file that not everybody may write to.
    pub fn read(path: &Path) -> Result<SourceFile, Diagnostic> {
        let file_error = |message: String| Diagnostic { file: path.to_owned(), line: None, what: message };
        // What is no regular file must not keep the reader waiting for a writer.
        let opened = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|e| file_error(format!("cannot be read ({e}); mend its owner or mode")))?;
        let meta = file.metadata().map_err(|e| file_error(e.to_string()))?;
        if !meta.is_file() {
            return Err(file_error("is not a regular file; put the file itself here".into()));
        }
        if let Some(reason) = insecure_permissions(&meta) {
            return Err(file_error(reason));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SOURCE_FILE_SIZE + 1).read_to_end(&mut bytes).map_err(|e| file_error(e.to_string()))?;
        if bytes.len() as u64 > MAX_SOURCE_FILE_SIZE {
            return Err(file_error(format!("is larger than {} KiB; split it", MAX_SOURCE_FILE_SIZE / 1024)));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let line =
                1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
            Diagnostic {
                file: path.to_owned(),
                line: Some(line),
                what: "is not UTF-8; save it as UTF-8".into(),
            }
        })?;
        Ok(SourceFile { path: path.to_owned(), text })
    }

    /// The text as it is.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Parses the text; a syntax error, an unknown key or a wrong type is a fault with its line.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Diagnostic> {
        toml::from_str(&self.text).map_err(|e| {
            let message = e.message().trim_end().replace('\n', "; ");
            match e.span() {
                Some(span) => self.diagnostic(span, message),
                None => Diagnostic { file: self.path.clone(), line: None, what: message },
            }
        })
    }

    /// A fault at a span of this file.
    pub fn diagnostic(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let start = span.start.min(self.text.len());
        let line = 1 + self.text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
        Diagnostic { file: self.path.clone(), line: Some(line), what: message.into() }
    }
}

/// Says why a file or directory cannot be trusted, if everybody may write to it or a stranger owns it.
pub fn insecure_permissions(meta: &std::fs::Metadata) -> Option<String> {
    if meta.mode() & 0o002 != 0 {
        return Some("may be written by everybody, so anybody could make agents; chmod o-w it".into());
    }
    if meta.mode() & 0o020 != 0 && meta.gid() != 0 && meta.gid() != nix::unistd::getegid().as_raw() {
        return Some(format!(
            "may be written by group {}, whose members could make agents; chmod g-w it",
            meta.gid()
        ));
    }
    let own_uid = nix::unistd::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != own_uid {
        return Some(format!(
            "belongs to uid {}, who could change it at any time; chown it to root",
            meta.uid()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct TestConfig {
        #[expect(dead_code)]
        name: String,
    }

    fn parse_error(text: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.toml");
        fs::write(&path, text).unwrap();
        let diagnostic = SourceFile::read(&path).and_then(|s| s.parse::<TestConfig>().map(drop)).unwrap_err();
        diagnostic.to_string().replace(dir.path().to_str().unwrap(), "")
    }

    #[test]
    fn errors_name_their_line() {
        assert!(
            parse_error(b"\n\nname = 3\n").starts_with("/f.toml:3: invalid type: integer"),
            "{}",
            parse_error(b"\n\nname = 3\n")
        );
        assert!(parse_error(b"name = \"a\"\nnmae = 1\n").starts_with("/f.toml:2: unknown field `nmae`"));
        assert!(
            parse_error(b"name = \"a\nx").starts_with("/f.toml:2: "),
            "{}",
            parse_error(b"name = \"a\nx")
        );
        assert!(parse_error(b"name = \"a\"\nname = \"b\"\n").starts_with("/f.toml:2: duplicate key"));
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
