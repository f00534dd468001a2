//! The list of files that the kernel measured (IMA), as it grows.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So much of a list is put into evidence at most: some hundred thousand entries.
pub const MAX_LIST_LEN: u64 = 16 * 1024 * 1024;

/// Where the service's unit links to the kernel's list, and lets the daemon's group read it. Cheap to clone.
///
/// It is the binary list (binary_runtime_measurements): in the one in text, any user's file can be named so that nobody can
/// tell where a line ends.
#[derive(Clone, Debug)]
pub struct ImaListFile(Arc<PathBuf>);

impl ImaListFile {
    pub fn in_dir(run: &Path) -> ImaListFile {
        ImaListFile(Arc::new(run.join("ima-list")))
    }

    /// The whole list; none where the host has none. The error is for verifiers. Blocking.
    pub fn read(&self) -> Result<Option<Vec<u8>>, String> {
        let mut list = Vec::new();
        let read = File::open(&*self.0).and_then(|file| file.take(MAX_LIST_LEN + 1).read_to_end(&mut list));
        match read {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("the host cannot read it: {}", e.kind())),
            Ok(_) if list.len() as u64 > MAX_LIST_LEN => {
                Err(format!("it is longer than {} MiB; measure less by an IMA policy", MAX_LIST_LEN >> 20))
            }
            Ok(_) => Ok((!list.is_empty()).then_some(list)),
        }
    }

    /// What follows the first `offset` bytes. Blocking, as is its reading.
    pub fn open_at(&self, offset: u64) -> io::Result<File> {
        let mut file = File::open(&*self.0)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    }

    /// What an error in reading it means, for administrators.
    pub fn describe_error(&self, e: &io::Error) -> String {
        let path = self.0.display();
        match e.kind() {
            ErrorKind::NotFound => {
                format!("{path} is not there: boot with ima_policy=tcb on a kernel with IMA")
            }
            ErrorKind::PermissionDenied => {
                format!(
                    "{path} cannot be read: the service's unit gives it to the daemon's group at its start"
                )
            }
            _ => format!("{path}: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oversized_list_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let list = ImaListFile::in_dir(dir.path());
        assert_eq!(list.read(), Ok(None));
        let file = File::create(dir.path().join("ima-list")).unwrap();
        file.set_len(MAX_LIST_LEN).unwrap();
        assert_eq!(list.read().unwrap().unwrap().len() as u64, MAX_LIST_LEN);
        file.set_len(MAX_LIST_LEN + 1).unwrap();
        assert!(list.read().unwrap_err().contains("longer than 16 MiB"));
    }
}
