//! The boot's event log (TCG PC Client Platform Firmware Profile, section 10): what was measured into which PCR.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Firmware logs have tens of KiB.
const MAX_LOG_LEN: u64 = 16 * 1024 * 1024;

/// Where the service's unit puts a copy of the log, which only root may read where the kernel has it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventLogFile(Arc<PathBuf>);

impl EventLogFile {
    pub fn in_dir(run: &Path) -> EventLogFile {
        EventLogFile(Arc::new(run.join("boot-log")))
    }

    /// The log; none where the host has none. Blocking.
    pub fn read(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(&*self.0).ok()?.take(MAX_LOG_LEN).read_to_end(&mut bytes).ok()?;
        (!bytes.is_empty()).then_some(bytes)
    }
}
