//! The file of the boot event log. See [`verify::eventlog`](crate::verify::eventlog) for its format.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest part of a log that is read, in bytes. Firmware logs have tens of KiB.
const MAX_LOG_LEN: u64 = 16 * 1024 * 1024;

/// The copy of the boot event log that the service's unit makes at each start, because only root may read the
/// kernel's. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventLogFile(Arc<PathBuf>);

impl EventLogFile {
    /// The file `boot-log` in the runtime directory.
    pub fn in_dir(run: &Path) -> EventLogFile {
        EventLogFile(Arc::new(run.join("boot-log")))
    }

    /// Reads the log, at most 16 MiB of it; `None` if it is missing, empty or unreadable. Blocking.
    pub fn read(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(&*self.0).ok()?.take(MAX_LOG_LEN).read_to_end(&mut bytes).ok()?;
        (!bytes.is_empty()).then_some(bytes)
    }
}
