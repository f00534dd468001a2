//! Makes one checkpoint: sign, certify, write down, extend, certify, write.
//!
//! What will extend the NV index is written to `checkpoint.json` before. After a crash in between, the value of the
//! index says whether it was extended, and the checkpoint is completed.

use std::path::PathBuf;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};

use super::deps::CheckpointDeps;
use super::error::Error;
use super::state_file::{CheckpointFile, PendingCheckpoint};
use crate::audit::{Event, LogHead, append_checkpoint, append_earlier_checkpoint, append_keys};
use crate::config::CheckpointSettings;
use crate::daemon::audit_ext::record_completed;
use crate::tpm::{AuditIndexState, Certification, StateKind, Tpm, TpmObjects};
use crate::verify::audit::{
    Checkpoint, CheckpointLine, CheckpointReason, KeysLine, LogKeys, after_binding, before_binding, extended,
    origin,
};
use crate::verify::evidence::SignedAttestation;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// A checkpoint was made.
    Checkpoint,
    /// The last checkpoint has the last record.
    NothingNew,
    /// A thread writes to the log; try again.
    Busy,
}

/// What is new since the last checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    /// The number of records.
    pub(super) records: u64,
    /// Whether they are in another file.
    pub(super) has_rotated: bool,
    /// Whether one of them says that the oldest files were removed.
    pub(super) has_removal: bool,
}

/// The TPM with its keys.
struct Signer {
    tpm: Tpm,
    host: String,
    keys: LogKeys,
}

/// Makes checkpoints.
pub(super) struct Maker {
    pub(super) deps: CheckpointDeps,
    settings: CheckpointSettings,
    /// What `checkpoint.json` has; `None` before it was read, and if there is none.
    pub(super) file: Option<CheckpointFile>,
    is_read: bool,
    /// The log's file at the last checkpoint of this process.
    last_path: Option<PathBuf>,
}

impl Maker {
    pub fn new(deps: CheckpointDeps, settings: CheckpointSettings) -> Maker {
        let mut maker = Maker { deps, settings, file: None, is_read: false, last_path: None };
        // It is small, and read before anything else happens here; a fault is reported by the first attempt.
        if let Ok(file) = CheckpointFile::read(&maker.deps.state_dir) {
            maker.set_file(file);
        }
        maker
    }

    /// What is new since the last checkpoint; `None` while a thread writes to the log.
    pub fn news(&self) -> Option<News> {
        let head = self.deps.audit.head()?;
        let covered = self.covered_seq(&head);
        let has_rotated = self.last_path.as_ref().is_some_and(|path| *path != head.path);
        let has_removal = self.deps.audit.last_removal() > covered;
        Some(News { records: head.state.seq - covered, has_rotated, has_removal })
    }

    /// The time since the last checkpoint, by the host's clock; `None` if it is not known.
    pub fn since_last(&self) -> Option<Duration> {
        let at = self.file.as_ref()?.at?;
        let now = self.deps.clock.now();
        (now >= at).then(|| now.since(at))
    }

    /// The number of the last record that has a checkpoint. A log that was moved away had other records.
    fn covered_seq(&self, head: &LogHead) -> u64 {
        let is_of_log = |file: &&CheckpointFile| file.log == HEXLOWER.encode(&head.state.log_id);
        let covered = self.file.as_ref().filter(is_of_log).map(|file| file.seq);
        covered.unwrap_or(head.state.begins_after).min(head.state.seq)
    }

    /// Makes a checkpoint of the records so far.
    pub async fn make(&mut self, reason: CheckpointReason) -> Result<Made, Error> {
        if !self.is_read {
            let file = CheckpointFile::read(&self.deps.state_dir)?;
            self.set_file(file);
        }
        let Some(log_id) = self.deps.audit.head().map(|head| head.state.log_id) else {
            return Ok(Made::Busy);
        };
        let (signer, mut file) = self.prepare(&log_id).await?;
        let Some(head) = self.deps.audit.head() else { return Ok(Made::Busy) };
        if head.state.frontier.size() == 0 || self.covered_seq(&head) == head.state.seq {
            return Ok(Made::NothingNew);
        }
        self.sync().await?;
        let checkpoint = self.content(&signer.host, &head, reason);
        let digest = checkpoint.digest();
        let signature = signer.tpm.host_sign(digest).await?;
        let note = signer.keys.note_key(&checkpoint.origin).note(&checkpoint.to_text(), &signature);
        let before = signer.tpm.certify_audit_index(file.nv_index, before_binding(&digest)).await?;
        let value = decode(&file.value);
        let pending = PendingCheckpoint {
            note,
            digest: HEXLOWER.encode(&digest),
            before: signed(&before),
            file: head.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            log: HEXLOWER.encode(&log_id),
            seq: checkpoint.seq,
            at: checkpoint.time,
        };
        file.pending = Some(pending.clone());
        self.write(&file).await?;
        let after = signer.tpm.extend_audit_index(file.nv_index, value, digest).await?;
        let line = complete(&signer, &file, pending.clone(), digest).await?;
        line.verify(&signer.keys, &log_id)?;
        let path = head.path.clone();
        tokio::task::spawn_blocking(move || append_checkpoint(&head, line)).await??;
        self.finish(file, after, &pending).await?;
        self.last_path = Some(path);
        Ok(Made::Checkpoint)
    }

    /// The TPM, and the NV index with the value that it has now. An index that is not as it should be is recorded.
    async fn prepare(&mut self, log_id: &[u8; 16]) -> Result<(Signer, CheckpointFile), Error> {
        let tpm = self.deps.tpm.borrow().clone().ok_or(Error::TpmStarting)?;
        let tpm_state = tpm.state().borrow().clone();
        if tpm_state.kind != StateKind::Ready {
            return Err(Error::TpmUnavailable(tpm_state));
        }
        let (objects, host) = (tpm.objects().await?, tpm.info().await?.host_id);
        let ak = HEXLOWER.encode(&objects.ak_name()?);
        let file = self.ensure_index(&tpm, &ak).await?;
        let keys = self.store_keys(&host, &objects, file.nv_index).await?;
        let signer = Signer { tpm, host, keys };
        let file = self.complete_pending(&signer, file, log_id).await?;
        Ok((signer, file))
    }

    /// Writes the public keys beside the log, so that a verifier who knows the AK's Name finds them.
    async fn store_keys(&self, host: &str, objects: &TpmObjects, nv_index: u32) -> Result<LogKeys, Error> {
        let certification = signed(&objects.certification);
        let line = KeysLine::new(host, &objects.ak.public, &objects.host_key.public, certification, nv_index);
        let keys = LogKeys::check(&line)?;
        let dir = self.deps.audit_dir.clone();
        tokio::task::spawn_blocking(move || append_keys(&dir, &line)).await??;
        Ok(keys)
    }

    /// Completes a checkpoint that has extended the index, and whose end a crash or a slow TPM has prevented. One of a
    /// file or a log that is not there any more has no place, and is dropped.
    async fn complete_pending(
        &mut self,
        signer: &Signer,
        file: CheckpointFile,
        log_id: &[u8; 16],
    ) -> Result<CheckpointFile, Error> {
        let Some(pending) = file.pending.clone() else { return Ok(file) };
        let digest = decode(&pending.digest);
        let after = extended(&decode(&file.value), &digest);
        if signer.tpm.audit_index_state(file.nv_index).await? != AuditIndexState::Value(after) {
            // It was not extended: the checkpoint that is made now takes its place.
            return Ok(CheckpointFile { pending: None, ..file });
        }
        let is_written = pending.log == HEXLOWER.encode(log_id) && {
            let line = complete(signer, &file, pending.clone(), digest).await?;
            let path = self.deps.audit_dir.join(&pending.file);
            tokio::task::spawn_blocking(move || append_earlier_checkpoint(&path, line)).await??
        };
        match is_written {
            true => self.finish(file, after, &pending).await,
            false => self.drop_pending(file, after, &pending).await,
        }
    }

    async fn drop_pending(
        &mut self,
        file: CheckpointFile,
        value: [u8; 32],
        dropped: &PendingCheckpoint,
    ) -> Result<CheckpointFile, Error> {
        let file = CheckpointFile { value: HEXLOWER.encode(&value), pending: None, ..file };
        self.write(&file).await?;
        let message = format!(
            "the NV index {:#x} was extended for a checkpoint of record {}, which is dropped: {}, beside which it \
             belongs, was removed or moved, or has another log now",
            file.nv_index, dropped.seq, dropped.file
        );
        record_completed(&self.deps.audit, Event::AuditIndexChanged, &message).await;
        Ok(file)
    }

    async fn finish(
        &mut self,
        file: CheckpointFile,
        value: [u8; 32],
        made: &PendingCheckpoint,
    ) -> Result<CheckpointFile, Error> {
        let PendingCheckpoint { log, seq, at, .. } = made.clone();
        let value = HEXLOWER.encode(&value);
        let file = CheckpointFile { value, log, seq, at: Some(at), pending: None, ..file };
        self.write(&file).await?;
        self.deps.audit.checkpoints().set_covered(seq, at);
        Ok(file)
    }

    /// Has the kernel write the records to the disk: what the TPM has certified must not be lost by a crash.
    async fn sync(&self) -> Result<(), Error> {
        let audit = self.deps.audit.clone();
        tokio::task::spawn_blocking(move || audit.sync()).await?;
        match self.deps.audit.health().disk_fault() {
            None => Ok(()),
            Some(fault) => Err(Error::NotSynced(fault)),
        }
    }

    pub(super) async fn write(&mut self, file: &CheckpointFile) -> Result<(), Error> {
        let (state_dir, written) = (self.deps.state_dir.clone(), file.clone());
        tokio::task::spawn_blocking(move || written.write(&state_dir)).await??;
        self.file = Some(file.clone());
        Ok(())
    }

    fn set_file(&mut self, file: Option<CheckpointFile>) {
        (self.file, self.is_read) = (file, true);
        let at = self.file.as_ref().and_then(|file| file.at);
        let covered = self.deps.audit.head().map(|head| self.covered_seq(&head));
        if let (Some(seq @ 1..), Some(at)) = (covered, at) {
            self.deps.audit.checkpoints().set_covered(seq, at);
        }
    }

    fn content(&self, host: &str, head: &LogHead, reason: CheckpointReason) -> Checkpoint {
        let state = &head.state;
        Checkpoint {
            origin: origin(host, &state.log_id),
            size: state.frontier.size(),
            root: state.frontier.root(),
            begins_after: state.begins_after,
            seq: state.seq,
            head: state.head,
            time: self.deps.clock.now(),
            reason,
            every_records: self.settings.records,
            every_seconds: self.settings.every.as_secs(),
        }
    }
}

/// The line of a checkpoint whose digest has extended the index.
async fn complete(
    signer: &Signer,
    file: &CheckpointFile,
    pending: PendingCheckpoint,
    digest: [u8; 32],
) -> Result<CheckpointLine, Error> {
    let after = signer.tpm.certify_audit_index(file.nv_index, after_binding(&digest)).await?;
    let PendingCheckpoint { note, before, .. } = pending;
    Ok(CheckpointLine::new(note, file.ak.clone(), file.nv_index, before, signed(&after)))
}

/// A digest of the state file. One that is damaged is no value of the index.
pub(super) fn decode(text: &str) -> [u8; 32] {
    HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}

fn signed(certified: &Certification) -> SignedAttestation {
    SignedAttestation {
        attest: BASE64.encode(&certified.attest),
        signature: BASE64.encode(&certified.signature),
    }
}
