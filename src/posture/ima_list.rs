//! The list of files that the kernel measured (IMA), as it grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So much of a list is put into evidence at most: some hundred thousand lines.
pub const LONGEST: u64 = 16 * 1024 * 1024;

/// Where the service's unit links to the kernel's list, and lets the daemon's group read it. Cheap to clone.
///
/// It is the list in text (ascii_runtime_measurements), of which the digests of all banks can be made as well.
#[derive(Clone, Debug)]
pub struct ImaList(Arc<PathBuf>);

impl ImaList {
    pub fn in_dir(run: &Path) -> ImaList {
        ImaList(Arc::new(run.join("ima-list")))
    }

    /// The whole list; none where there is none or it is too long for evidence. Blocking.
    pub fn read(&self) -> Option<Vec<u8>> {
        let list = self.read_from(0, LONGEST).ok()?;
        (!list.is_empty()).then_some(list)
    }

    /// What follows the first `offset` bytes, `most` bytes at most. The error is for administrators. Blocking.
    pub fn read_from(&self, offset: u64, most: u64) -> Result<Vec<u8>, String> {
        let path = self.0.display();
        let fault = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => {
                format!("{path} is not there: boot with ima_policy=tcb on a kernel with IMA")
            }
            std::io::ErrorKind::PermissionDenied => {
                format!(
                    "{path} cannot be read: the service's unit gives it to the daemon's group at its start"
                )
            }
            _ => format!("{path}: {e}"),
        };
        let mut bytes = Vec::new();
        let mut file = File::open(&*self.0).map_err(fault)?;
        file.seek(SeekFrom::Start(offset)).map_err(fault)?;
        file.take(most + 1).read_to_end(&mut bytes).map_err(fault)?;
        match bytes.len() as u64 > most {
            true => Err(format!("{path} is longer than {} MiB; measure less by an IMA policy", most >> 20)),
            false => Ok(bytes),
        }
    }
}
