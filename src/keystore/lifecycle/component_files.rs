//! The state manifest's view of the files of components.

use super::super::error::Rollback;
use super::super::state_manifest::ComponentFile;
use super::Keystore;

impl Keystore {
    /// Compares the digest of a component's file with the manifest. A file that the manifest has never listed is
    /// accepted with `accept_unlisted`.
    ///
    /// # Errors
    /// [`Rollback::FileChanged`] for a file that is not the latest.
    pub(crate) async fn verify_file(
        &self,
        file: ComponentFile,
        digest: &[u8; 32],
        accept_unlisted: bool,
    ) -> Result<(), Rollback> {
        self.state.lock().await.manifest.verify_component_file(file, digest, accept_unlisted)
    }

    /// Notes that a component's file does not exist.
    pub(crate) async fn accept_missing_file(&self, file: ComponentFile) {
        self.state.lock().await.manifest.accept_missing_file(file);
    }
}
