//! The NV index of the checkpoints: which one is used, whether it is as the last checkpoint left it, and a new one
//! where there is none.

use data_encoding::HEXLOWER;

use super::error::Error;
use super::maker::{Maker, decode};
use super::state_file::{CheckpointFile, IndexCreation};
use crate::audit::{Event, read_keys};
use crate::daemon::audit_ext::record_completed;
use crate::tpm::{AuditIndexState, Tpm};
use crate::verify::audit::{LogKeys, extended, first_value};

impl Maker {
    /// The NV index with the value that it has now. One that is not as it should be is recorded.
    pub(super) async fn ensure_index(&mut self, tpm: &Tpm, ak: &str) -> Result<CheckpointFile, Error> {
        let file = match self.file.clone() {
            Some(CheckpointFile { creation: Some(begun), .. }) => {
                let creation = if begun.is_first { IndexCreation::first(ak) } else { begun };
                self.create_index(tpm, ak, creation).await?
            }
            Some(file) if file.ak == ak => file,
            Some(file) => {
                let message = format!(
                    "the TPM has another AK than at the checkpoint of record {}, because it was cleared, replaced or \
                     provisioned again; checkpoints go on with AK {ak}",
                    file.seq
                );
                self.create_index(tpm, ak, IndexCreation::again(message)).await?
            }
            None => self.first_file(tpm, ak).await?,
        };
        self.check_index(tpm, ak, file).await
    }

    /// The content of `checkpoint.json` where there is none. If the log has checkpoints by this AK, the file was lost,
    /// and their index is used further with the value that it has.
    async fn first_file(&mut self, tpm: &Tpm, ak: &str) -> Result<CheckpointFile, Error> {
        let dir = self.deps.audit_dir.clone();
        let text = tokio::task::spawn_blocking(move || read_keys(&dir)).await??.unwrap_or_default();
        let known = LogKeys::parse_file(&text).map_err(Error::Keys)?;
        let Some(nv_index) = known.iter().rev().find(|keys| keys.ak_name() == ak).map(LogKeys::nv_index)
        else {
            return self.create_index(tpm, ak, IndexCreation::first(ak)).await;
        };
        let AuditIndexState::Value(value) = tpm.audit_index_state(nv_index).await? else {
            let message =
                format!("checkpoint.json and the NV index {nv_index:#x} are missing; a new index is used");
            return self.create_index(tpm, ak, IndexCreation::again(message)).await;
        };
        let value = HEXLOWER.encode(&value);
        let (ak, log) = (ak.to_owned(), String::new());
        let file =
            CheckpointFile { ak, nv_index, value, log, seq: 0, at: None, creation: None, pending: None };
        self.write(&file).await?;
        let message = format!(
            "checkpoint.json is missing, so that the NV index {nv_index:#x} cannot be compared with the last checkpoint"
        );
        record_completed(&self.deps.audit, Event::AuditIndexChanged, &message).await;
        Ok(file)
    }

    /// Compares the value of the index with the one that the last checkpoint has left.
    async fn check_index(
        &mut self,
        tpm: &Tpm,
        ak: &str,
        file: CheckpointFile,
    ) -> Result<CheckpointFile, Error> {
        let index = file.nv_index;
        let after = format!("after the checkpoint of record {}", file.seq);
        let gone = match tpm.audit_index_state(index).await? {
            AuditIndexState::Value(value) if is_expected(&file, &value) => return Ok(file),
            AuditIndexState::Value(value) => {
                let message = format!(
                    "the NV index {index:#x} has another value than {after}: another program extended it, it was \
                     defined again, or the state directory is an older copy"
                );
                let file = CheckpointFile { value: HEXLOWER.encode(&value), pending: None, ..file };
                self.write(&file).await?;
                record_completed(&self.deps.audit, Event::AuditIndexChanged, &message).await;
                return Ok(file);
            }
            AuditIndexState::Absent => "was deleted",
            AuditIndexState::Unwritten => "was deleted and defined again",
            AuditIndexState::Foreign => "was deleted and defined otherwise",
        };
        let message = format!("the NV index {index:#x} {gone} {after}; checkpoints go on with a new one");
        self.create_index(tpm, ak, IndexCreation::again(message)).await
    }

    /// Defines an index. Which one is written to `checkpoint.json` before, so that an index whose creation was
    /// interrupted is completed at the next attempt, and none is left over in the TPM. The last one is used again if no
    /// checkpoint has extended it.
    async fn create_index(
        &mut self,
        tpm: &Tpm,
        ak: &str,
        creation: IndexCreation,
    ) -> Result<CheckpointFile, Error> {
        let last = self.file.as_ref().map(|file| file.nv_index);
        let nv_index = match last {
            Some(index) if is_new(tpm.audit_index_state(index).await?) => index,
            _ => tpm.free_audit_index().await?,
        };
        let file = CheckpointFile {
            ak: ak.to_owned(),
            nv_index,
            value: HEXLOWER.encode(&first_value()),
            log: String::new(),
            seq: 0,
            at: None,
            creation: Some(creation.clone()),
            pending: None,
        };
        self.write(&file).await?;
        tpm.create_audit_index(nv_index).await?;
        let file = CheckpointFile { creation: None, ..file };
        self.write(&file).await?;
        let event = if creation.is_first { Event::AuditIndexCreated } else { Event::AuditIndexChanged };
        let message = format!("{}, in the NV index {nv_index:#x}", creation.message);
        record_completed(&self.deps.audit, event, &message).await;
        Ok(file)
    }
}

/// Whether no checkpoint has extended an index.
fn is_new(state: AuditIndexState) -> bool {
    match state {
        AuditIndexState::Absent | AuditIndexState::Unwritten => true,
        AuditIndexState::Value(value) => value == first_value(),
        AuditIndexState::Foreign => false,
    }
}

/// Whether the index has the value that the last checkpoint left, or the one that a pending checkpoint leaves.
fn is_expected(file: &CheckpointFile, value: &[u8; 32]) -> bool {
    let last = decode(&file.value);
    let pending = file.pending.as_ref().map(|pending| extended(&last, &decode(&pending.digest)));
    *value == last || pending.as_ref() == Some(value)
}
