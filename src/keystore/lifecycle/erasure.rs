//! The key-encryption keys of agents in the open keystore.
//!
//! The TPM is used only where `erasure.json` exists, which is once an agent got a credential of its own.

use zeroize::Zeroizing;

use super::super::cipher;
use super::super::erasure_file::{self, AgentKeks, Erasure, ErasureFile, OpenErasureFile};
use super::super::error::{AgentKeksLoss, Error};
use super::super::kek::Kek;
use super::Keystore;
use crate::tpm::{self, CounterKind, CounterValue};

impl Keystore {
    /// The key-encryption keys of all agents. An erasure that was interrupted is completed first.
    ///
    /// # Errors
    /// [`Error::AgentKeksLost`], and failures of the disk or the TPM.
    pub(crate) async fn agent_keks(&self) -> Result<AgentKeks, Error> {
        let mut slot = self.erasures.lock().await;
        Ok(self.open_erasures(&mut slot).await?.map(|open| open.keks).unwrap_or_default())
    }

    /// As [`Keystore::agent_keks`], after this agent got a key if it had none. Where all keys are lost, those of
    /// the other agents are given up.
    ///
    /// # Errors
    /// [`Error::TooManyAgentKeks`], and failures of the disk or the TPM.
    pub(crate) async fn ensure_agent_kek(&self, agent: &str) -> Result<AgentKeks, Error> {
        let mut slot = self.erasures.lock().await;
        let opened = match self.open_erasures(&mut slot).await {
            Err(Error::AgentKeksLost(loss)) => {
                self.remove_lost_counter(slot.as_ref(), loss).await?;
                None
            }
            result => result?,
        };
        let is_new = opened.is_none();
        let (mut file, mut open) = match (opened, &*slot) {
            (Some(open), Some(file)) => (file.clone(), open),
            (_, lost) => {
                self.begin_erasures(lost.iter().flat_map(|file| file.erasures().to_vec()).collect()).await?
            }
        };
        if open.keks.get(agent).is_some() {
            return Ok(open.keks);
        }
        let kek = self.tpm.mixed_random().await?;
        let written = match file.add(&mut open, agent, kek) {
            Ok(()) => self.write_erasures(&file).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            if is_new {
                // A TPM has few counters, and with a full disk this may be repeated.
                let _ = self.tpm.remove_counter(file.counter()).await;
            }
            return Err(error);
        }
        *slot = Some(file);
        Ok(open.keks)
    }

    /// Destroys the key-encryption key of an agent: not even this TPM opens it from any copy of the disk any more.
    /// `None` if the agent has none.
    ///
    /// If it fails in the middle, the next use of an agent's key completes it, and
    /// [`Keystore::erasures_of`] lists it.
    ///
    /// # Errors
    /// Failures of the disk or the TPM.
    pub(crate) async fn destroy_agent_kek(&self, agent: &str) -> Result<Option<Erasure>, Error> {
        let mut slot = self.erasures.lock().await;
        if !self.prepare_erasure(&mut slot, agent).await? {
            return Ok(None);
        }
        self.complete_erasure(&mut slot).await?;
        Ok(slot.as_ref().and_then(|file| file.erasures().last().cloned()))
    }

    /// The erasures of an agent's key that this host remembers, the latest last.
    pub(crate) async fn erasures_of(&self, agent: &str) -> Vec<Erasure> {
        let slot = self.erasures.lock().await;
        let all = slot.iter().flat_map(ErasureFile::erasures);
        all.filter(|erasure| erasure.agent == agent).cloned().collect()
    }

    /// Stores all keys but that of the agent under a new erasure key, which the TPM unseals once the counter is
    /// incremented. Whether the agent has a key.
    async fn prepare_erasure(&self, slot: &mut Option<ErasureFile>, agent: &str) -> Result<bool, Error> {
        let open = match self.open_erasures(slot).await {
            // Nothing opens it.
            Err(Error::AgentKeksLost(_)) => return Ok(false),
            result => result?,
        };
        let (Some(open), Some(file)) = (open, &*slot) else { return Ok(false) };
        if open.keks.get(agent).is_none() {
            return Ok(false);
        }
        let (at, _) = file.current()?;
        let at = CounterValue { value: at.value + 1, ..at };
        let erasure_key = self.tpm.mixed_random().await?;
        let sealed = self.tpm.seal_to_counter(Zeroizing::new(erasure_key.to_vec()), at).await?;
        let now = self.clock.now();
        let changed = file.clone().with_erasure(&open, agent, (&erasure_key, &sealed), now)?;
        self.write_erasures(&changed).await?;
        *slot = Some(changed);
        Ok(true)
    }

    /// Unseals the erasure key and decrypts what is under it; `None` without a file.
    async fn open_erasures(&self, slot: &mut Option<ErasureFile>) -> Result<Option<OpenErasureFile>, Error> {
        self.complete_erasure(slot).await?;
        match slot {
            Some(file) => self.open_current(file).await.map(Some),
            None => Ok(None),
        }
    }

    /// Completes an erasure that has begun: increments the counter, and drops the keys as they were before.
    ///
    /// The counter may be incremented already, if a crash came then, or if the TPM's response was late.
    async fn complete_erasure(&self, slot: &mut Option<ErasureFile>) -> Result<(), Error> {
        let Some(file) = slot else { return Ok(()) };
        let Some(next) = file.next_count() else { return Ok(()) };
        let (at, _) = file.current()?;
        match self.tpm.read_counter(at.index).await? {
            Some(value) if value == at.value => {
                let open = self.open_current(file).await?;
                self.tpm.increment_counter_to(at.index, open.auth.clone(), next).await?;
            }
            // Already incremented, or lost: the TPM decides when it unseals the next key.
            _ => {}
        }
        let promoted = file.clone().promoted();
        // The keys before are dropped only once the next ones open.
        self.open_current(&promoted).await?;
        self.write_erasures(&promoted).await?;
        *slot = Some(promoted);
        Ok(())
    }

    async fn open_current(&self, file: &ErasureFile) -> Result<OpenErasureFile, Error> {
        let (at, blob) = file.current()?;
        let secret = self.tpm.unseal_at_counter(blob, at).await.map_err(|error| match error {
            tpm::Error::CounterMoved(_) => Error::AgentKeksLost(AgentKeksLoss::Counter),
            tpm::Error::InvalidObjects(_) => Error::AgentKeksLost(AgentKeksLoss::OtherTpm),
            error => error.into(),
        })?;
        let mut erasure_key = Kek::default();
        if secret.len() != erasure_key.len() {
            let reason = "has a sealed key that is not 32 bytes long".to_owned();
            return Err(Error::InvalidFile { path: erasure_file::FILE_NAME.into(), reason });
        }
        erasure_key.copy_from_slice(&secret);
        file.open(erasure_key)
    }

    /// A file without agents, with a new counter. It is not written yet.
    async fn begin_erasures(&self, erasures: Vec<Erasure>) -> Result<(ErasureFile, OpenErasureFile), Error> {
        let auth = cipher::random_key()?;
        let erasure_key = self.tpm.mixed_random().await?;
        let (index, value) = self.tpm.create_counter(CounterKind::Erasure, auth.clone()).await?;
        let at = CounterValue { index, value };
        let sealed = async {
            let sealed = self.tpm.seal_to_counter(Zeroizing::new(erasure_key.to_vec()), at).await?;
            let file = ErasureFile::new((at, &sealed), &erasure_key, &auth, erasures, self.clock.now())?;
            let open = self.open_current(&file).await?;
            Ok((file, open))
        };
        let result = sealed.await;
        if result.is_err() {
            let _ = self.tpm.remove_counter(index).await;
        }
        result
    }

    /// Deletes the counter of lost keys, if it is in this TPM and this host's. At another TPM's NV index may be
    /// the counter of another system.
    async fn remove_lost_counter(
        &self,
        file: Option<&ErasureFile>,
        loss: AgentKeksLoss,
    ) -> Result<(), Error> {
        match (file, loss) {
            (Some(file), AgentKeksLoss::Counter) => Ok(self.tpm.remove_counter(file.counter()).await?),
            _ => Ok(()),
        }
    }

    async fn write_erasures(&self, file: &ErasureFile) -> Result<(), Error> {
        self.write_file(erasure_file::FILE_NAME, erasure_file::VERSION, file).await?;
        self.erasure_key_reports.send_replace(file.reports());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
