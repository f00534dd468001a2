//! What agents did, in `anomaly.json`: after a restart, they are compared with what they did before.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::alert::StoredAlert;
use super::profile::Profile;
use crate::clock::Timestamp;
use crate::store;

const FILE_NAME: &str = "anomaly.json";
const VERSION: u64 = 1;
/// Bytes of all profiles in the file: less than a state file may have. About 6,000 agents fit.
const MAX_SIZE: usize = 7 * 1024 * 1024;

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnomalyFile {
    pub(super) since: Timestamp,
    pub(super) agents: BTreeMap<String, Profile>,
    pub(super) alerts: Vec<StoredAlert>,
}

impl AnomalyFile {
    /// Reads the file from the state directory; `None` if there is none. Blocking.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn read(dir: &Path) -> Result<Option<AnomalyFile>, store::Error> {
        store::read(&dir.join(FILE_NAME), VERSION)
    }

    /// Writes it, which is on disk when this returns. Blocking.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), store::Error> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            version: u64,
            #[serde(flatten)]
            file: &'a AnomalyFile,
        }
        let path = dir.join(FILE_NAME);
        // Without the line breaks of other state files, which would take most of its size.
        let text = serde_json::to_vec(&Versioned { version: VERSION, file: self })
            .map_err(|e| store::Error::Corrupt { path: path.clone(), reason: e.to_string() })?;
        store::write_atomic(&path, &text, 0o600).map_err(|source| store::Error::Io { path, source })
    }
}

/// The profiles that fit into the file; those that were seen longest ago are left out first.
pub(super) fn within_size(mut profiles: Vec<(String, Profile)>) -> BTreeMap<String, Profile> {
    profiles.sort_by_key(|(_, profile)| std::cmp::Reverse(profile.last_seen));
    let mut left = MAX_SIZE;
    let mut kept = BTreeMap::new();
    for (agent, profile) in profiles {
        let size = serde_json::to_vec(&profile).map_or(usize::MAX, |text| text.len() + agent.len() + 8);
        if size > left {
            break;
        }
        left -= size;
        kept.insert(agent, profile);
    }
    kept
}
