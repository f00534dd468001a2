//! Files that are listed once they were written, and verified by the component that uses them: a fault in one affects
//! that component alone.

use super::super::error::Rollback;
use super::{ABSENT, StateManifest, hex};

/// A file whose faults affect one component alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentFile {
    /// `rsa.json`, for RS256.
    Rsa,
}

impl ComponentFile {
    pub(super) const ALL: [ComponentFile; 1] = [ComponentFile::Rsa];

    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            ComponentFile::Rsa => "rsa.json",
        }
    }
}

impl StateManifest {
    /// Compares the digest of a component's file with the manifest. From now on only this digest is accepted. A file
    /// that the manifest has never listed is accepted with `accept_unlisted`.
    ///
    /// # Errors
    /// [`Rollback::FileChanged`].
    pub(in crate::keystore) fn verify_component_file(
        &mut self,
        file: ComponentFile,
        digest: &[u8; 32],
        accept_unlisted: bool,
    ) -> Result<(), Rollback> {
        let (name, now) = (file.name(), hex(digest));
        let is_accepted =
            self.content.files.get(name).map_or(accept_unlisted, |allowed| allowed.contains(&now));
        if !is_accepted {
            return Err(Rollback::FileChanged(name));
        }
        self.content.files.insert(name.to_owned(), vec![now]);
        Ok(())
    }

    /// Notes that a component's file does not exist: none that was there before is accepted any more.
    pub(in crate::keystore) fn accept_missing_file(&mut self, file: ComponentFile) {
        if let Some(allowed) = self.content.files.get_mut(file.name()) {
            *allowed = vec![ABSENT.to_owned()];
        }
    }
}
