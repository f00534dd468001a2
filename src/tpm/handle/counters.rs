//! Counters in the TPM's NV memory, and what is sealed to their values.

use zeroize::Zeroizing;

use super::super::counter;
use super::super::counter::CounterKind;
use super::super::counter_seal;
use super::super::counter_value::CounterValue;
use super::super::error::Error;
use super::super::objects::Certification;
use super::super::objects::KeyBlob;
use super::Tpm;

impl Tpm {
    /// Seals 1 to 128 bytes under the SRK of the pinned TPM. They can be unsealed only while the counter has this
    /// value, and never again once it was incremented further.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] for another length, or if there is no counter at the NV index.
    pub async fn seal_to_counter(
        &self,
        secret: Zeroizing<Vec<u8>>,
        at: CounterValue,
    ) -> Result<KeyBlob, Error> {
        self.call(move |tpm| counter_seal::seal(tpm.provisioned()?.0, &secret, at)).await
    }

    /// Unseals what [`Tpm::seal_to_counter`] made for the same value.
    ///
    /// # Errors
    /// [`Error::CounterMoved`] if the counter has another value or is gone; [`Error::InvalidObjects`] for data of
    /// another TPM.
    pub async fn unseal_at_counter(
        &self,
        blob: KeyBlob,
        at: CounterValue,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.call(move |tpm| counter_seal::unseal(tpm.provisioned()?.0, &blob, at)).await
    }

    /// Creates a monotonic counter that is incremented only with `auth`; returns its NV index and value.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] if all eight NV indices of its kind are taken.
    pub async fn create_counter(
        &self,
        kind: CounterKind,
        auth: Zeroizing<[u8; 32]>,
    ) -> Result<(u32, u64), Error> {
        self.call(move |tpm| counter::create(tpm.provisioned()?.0, kind, &auth)).await
    }

    /// The value of the counter at an NV index; `None` if there is no counter.
    pub async fn read_counter(&self, index: u32) -> Result<Option<u64>, Error> {
        self.call(move |tpm| counter::read(tpm.provisioned()?.0, index)).await
    }

    /// Increments a counter by one unless its value is `target` or more; returns the value.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] if there is no counter at the NV index.
    pub async fn increment_counter_to(
        &self,
        index: u32,
        auth: Zeroizing<[u8; 32]>,
        target: u64,
    ) -> Result<u64, Error> {
        self.call(move |tpm| counter::increment_to(tpm.provisioned()?.0, index, &auth, target)).await
    }

    /// Has the AK sign the present value of the counter at an NV index, and 32 bytes of qualifying data.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] if there is no counter at the NV index.
    pub async fn certify_counter(
        &self,
        index: u32,
        qualifying_data: [u8; 32],
    ) -> Result<Certification, Error> {
        self.call(move |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            counter::certify(connection, objects, index, &qualifying_data)
        })
        .await
    }

    /// Deletes the counter at an NV index, if there is one.
    pub async fn remove_counter(&self, index: u32) -> Result<(), Error> {
        self.call(move |tpm| counter::remove(tpm.provisioned()?.0, index)).await
    }

    /// The NV indices that have a counter of this kind, of this system or another one on this machine.
    pub async fn list_counters(&self, kind: CounterKind) -> Result<Vec<u32>, Error> {
        self.call(move |tpm| counter::list_indices(tpm.provisioned()?.0, kind)).await
    }
}
