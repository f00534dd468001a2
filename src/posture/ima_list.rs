//! The file of the IMA list, which grows while the host runs. See [`verify::ima`](crate::verify::ima) for its
//! format.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ima_error::{ImaListError, ImaListOmitted};

/// The longest list that is put into evidence, in bytes: some hundred thousand entries.
const MAX_LIST_LEN: u64 = 16 * 1024 * 1024;

/// The link to the kernel's list that the service's unit makes, with read permission for the daemon's group.
/// Cheap to clone.
///
/// It is the binary list (`binary_runtime_measurements`). In the list in text format, a file name that a user
/// chose can look like further lines.
#[derive(Clone, Debug)]
pub struct ImaListFile(Arc<PathBuf>);

impl ImaListFile {
    /// The file `ima-list` in the runtime directory.
    pub fn in_dir(run: &Path) -> ImaListFile {
        ImaListFile(Arc::new(run.join("ima-list")))
    }

    /// Reads the whole list for evidence; `None` if it does not exist or is empty. Blocking.
    ///
    /// # Errors
    ///
    /// If the list is too long or cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>, ImaListOmitted> {
        let mut list = Vec::new();
        let read = File::open(&*self.0).and_then(|file| file.take(MAX_LIST_LEN + 1).read_to_end(&mut list));
        match read {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ImaListOmitted::Unreadable(e.kind())),
            Ok(_) if list.len() as u64 > MAX_LIST_LEN => {
                Err(ImaListOmitted::TooLong { max_len: MAX_LIST_LEN })
            }
            Ok(_) => Ok((!list.is_empty()).then_some(list)),
        }
    }

    /// Opens the list after its first `offset` bytes. Blocking, as are reads of the file.
    pub(super) fn open_at(&self, offset: u64) -> Result<File, ImaListError> {
        let open = || {
            let mut file = File::open(&*self.0)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        };
        open().map_err(|e| self.io_error(&e))
    }

    /// What an I/O error of this file means.
    pub(super) fn io_error(&self, error: &io::Error) -> ImaListError {
        let path = self.0.to_path_buf();
        match error.kind() {
            ErrorKind::NotFound => ImaListError::Missing { path },
            ErrorKind::PermissionDenied => ImaListError::PermissionDenied { path },
            _ => ImaListError::Io { path, reason: error.to_string() },
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
        assert_eq!(list.read(), Err(ImaListOmitted::TooLong { max_len: MAX_LIST_LEN }));
    }
}
