//! NV indices of type extend, for the checkpoints of the audit log.

use super::super::audit_index;
use super::super::audit_index::AuditIndexState;
use super::super::error::Error;
use super::super::objects::Certification;
use super::super::objects::TpmObjects;
use super::Tpm;

impl Tpm {
    /// The host's objects: public areas and blobs that only this TPM can open.
    ///
    /// # Errors
    /// [`Error::NotProvisioned`] if the host has none.
    pub async fn objects(&self) -> Result<TpmObjects, Error> {
        self.call(|tpm| Ok(tpm.provisioned()?.1.clone())).await
    }

    /// A handle at which no NV index is defined, for [`Tpm::create_audit_index`].
    ///
    /// # Errors
    /// [`Error::RequestFailed`] if all eight NV indices of its kind are taken.
    pub async fn free_audit_index(&self) -> Result<u32, Error> {
        self.call(|tpm| audit_index::first_free(tpm.provisioned()?.0)).await
    }

    /// Defines an NV index of type extend, and extends it for the first time. May be repeated after it was interrupted.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] if another program has the NV index, or it has checkpoints.
    pub async fn create_audit_index(&self, index: u32) -> Result<(), Error> {
        self.call(move |tpm| audit_index::create(tpm.provisioned()?.0, index)).await
    }

    /// What is at an NV index.
    pub async fn audit_index_state(&self, index: u32) -> Result<AuditIndexState, Error> {
        self.call(move |tpm| audit_index::state(tpm.provisioned()?.0, index)).await
    }

    /// Extends the NV index with `data` unless that was done already; `before` is its value without it. Returns the
    /// value with it.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] if the index has another value, other attributes, or is gone.
    pub async fn extend_audit_index(
        &self,
        index: u32,
        before: [u8; 32],
        data: [u8; 32],
    ) -> Result<[u8; 32], Error> {
        self.call(move |tpm| audit_index::extend(tpm.provisioned()?.0, index, &before, &data)).await
    }

    /// Has the AK sign the present value of the NV index, and 32 bytes of qualifying data.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] if there is no such index, or it was never extended.
    pub async fn certify_audit_index(
        &self,
        index: u32,
        qualifying_data: [u8; 32],
    ) -> Result<Certification, Error> {
        self.call(move |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            audit_index::certify(connection, objects, index, &qualifying_data)
        })
        .await
    }
}
