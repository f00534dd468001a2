//! The handle: what the rest of the daemon holds of the TPM.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::TrySendError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::activate;
use super::activate::CredentialBlob;
use super::activate::EkKind;
use super::actor::Actor;
use super::actor::ConnectedTpm;
use super::actor::PendingRequest;
use super::actor::TpmRequest;
use super::actor_status::ActorStatus;
use super::config::TpmConfig;
use super::counter;
use super::ek_info::EkInfo;
use super::error::Error;
use super::info::TpmInfo;
use super::keys;
use super::objects::KeyBlob;
use super::objects::TpmObjects;
use super::quote;
use super::quote::Attestation;
use super::rsa;
use super::rsa::RsaKeyBlob;
use super::seal;
use super::seal::PcrValues;
use super::setup::FIRST_SESSION_HANDLE;
use super::setup::FIRST_TRANSIENT_HANDLE;
use super::state::TpmState;

/// Provisioning makes three keys, loads and certifies: on a slow TPM that is seconds.
const PROVISION_DEADLINE_FACTOR: u32 = 6;

/// Looking for primes takes swtpm seconds at most, and a chip up to a minute.
const RSA_KEY_DEADLINE: Duration = Duration::from_secs(120);
/// Deriving an RSA key takes discrete TPMs two seconds and more.
const PRIMARY_DEADLINE_FACTOR: u32 = 3;

/// A handle to the TPM thread, cheap to clone. The thread ends with [`Tpm::shutdown`] or with its last handle.
///
/// Every call waits at most for the configured deadline and never blocks the async runtime.
#[derive(Clone)]
pub struct Tpm {
    requests: SyncSender<Box<dyn TpmRequest>>,
    status: Arc<ActorStatus>,
    deadline: Duration,
}

impl Tpm {
    /// Starts the thread and returns at once, in state `starting`, whether or not there is a TPM.
    ///
    /// `stored` are the objects of an earlier [`Tpm::provision`]; their Names pin SRK and EK.
    ///
    /// # Errors
    /// An emulator that is not allowed, a configuration that cannot work, stored objects that contradict themselves,
    /// or no thread from the kernel.
    pub fn open(config: TpmConfig, stored: Option<TpmObjects>) -> io::Result<Tpm> {
        config.validate()?;
        if let Some(stored) = &stored {
            stored.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let (requests, queue) = mpsc::sync_channel(config.queue_capacity);
        let deadline = config.deadline;
        let status = Arc::new(ActorStatus::new(deadline));
        let actor = Actor::new(config, status.clone(), stored);
        thread::Builder::new().name("tpm".into()).spawn(move || actor.run(queue))?;
        let watcher = status.clone();
        // If this one does not start, dropping `jobs` ends the first.
        thread::Builder::new().name("tpm-watch".into()).spawn(move || watcher.run_watchdog())?;
        Ok(Tpm { requests, status, deadline })
    }

    /// The state, now and at each change.
    pub fn state(&self) -> watch::Receiver<TpmState> {
        self.status.subscribe()
    }

    /// How long a caller waits at most.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Counts the turns of the thread, at least one a second while it is neither in the TPM nor gone.
    pub fn heartbeat(&self) -> u64 {
        self.status.heartbeat()
    }

    /// Whether the thread still runs. A thread that waits for a stalled TPM does.
    pub fn is_alive(&self) -> bool {
        !self.status.has_ended()
    }

    /// What the TPM says about itself. Also answered when it is `cleared` or `replaced`: by the TPM that is there.
    pub async fn info(&self) -> Result<TpmInfo, Error> {
        self.call(ConnectedTpm::info).await
    }

    /// Makes the host's objects, and uses them from then on. The caller keeps them for the next start.
    ///
    /// A caller that gives up leaves nothing behind: the objects are used only once it has them.
    ///
    /// # Errors
    /// [`Error::AlreadyProvisioned`] if there are objects already; [`Error::State`] if this is not the pinned TPM.
    pub async fn provision(&self) -> Result<TpmObjects, Error> {
        let objects = self
            .call_within(self.deadline * PROVISION_DEADLINE_FACTOR, |tpm| {
                keys::provision(tpm.unprovisioned()?)
            })
            .await?;
        let provisioned = objects.clone();
        self.call(move |tpm| tpm.use_keys(&provisioned)).await?;
        Ok(objects)
    }

    /// The host's key-encryption key, 32 bytes.
    pub async fn unseal_kek(&self) -> Result<Zeroizing<[u8; 32]>, Error> {
        self.call(|tpm| {
            let (connection, objects) = tpm.provisioned()?;
            seal::unseal_kek(connection, objects)
        })
        .await
    }

    /// Seals at most 128 bytes under the SRK of the host's own TPM, with the values that `pcrs` (numbers up to 23, in
    /// their order) have now as the condition, where they are given. Those values are returned.
    pub async fn seal(
        &self,
        secret: Zeroizing<Vec<u8>>,
        pcrs: Option<Vec<u8>>,
    ) -> Result<(KeyBlob, Option<PcrValues>), Error> {
        self.call(move |tpm| {
            let (connection, _) = tpm.provisioned()?;
            match &pcrs {
                None => Ok((seal::seal(connection, &secret, None)?, None)),
                Some(pcrs) => {
                    let (blob, values) = seal::seal_to_current_pcrs(connection, &secret, pcrs)?;
                    Ok((blob, Some(values)))
                }
            }
        })
        .await
    }

    /// Opens what [`Tpm::seal`] made.
    ///
    /// # Errors
    /// [`Error::PcrsChanged`] if it was sealed to PCR values that are no more.
    pub async fn unseal(&self, blob: KeyBlob, pcrs: Option<PcrValues>) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.call(move |tpm| {
            let (connection, _) = tpm.provisioned()?;
            seal::unseal(connection, &blob, pcrs.as_ref())
        })
        .await
    }

    /// Makes a monotonic counter that only `auth` increments; its NV index and its value.
    pub async fn create_counter(&self, auth: Zeroizing<[u8; 32]>) -> Result<(u32, u64), Error> {
        self.call(move |tpm| counter::create(tpm.provisioned()?.0, &auth)).await
    }

    /// The value of the counter at an NV index, if there is one.
    pub async fn read_counter(&self, index: u32) -> Result<Option<u64>, Error> {
        self.call(move |tpm| counter::read(tpm.provisioned()?.0, index)).await
    }

    /// Increments a counter that has not come to `wanted` yet; its value then.
    pub async fn increment_counter_to(
        &self,
        index: u32,
        auth: Zeroizing<[u8; 32]>,
        target: u64,
    ) -> Result<u64, Error> {
        self.call(move |tpm| counter::increment_to(tpm.provisioned()?.0, index, &auth, target)).await
    }

    /// Removes a counter.
    pub async fn remove_counter(&self, index: u32) -> Result<(), Error> {
        self.call(move |tpm| counter::remove(tpm.provisioned()?.0, index)).await
    }

    /// The NV indices of the counters that the TPM has of this kind.
    pub async fn list_counters(&self) -> Result<Vec<u32>, Error> {
        self.call(|tpm| counter::list_indices(tpm.provisioned()?.0)).await
    }

    /// The host key's ECDSA P-256 signature over a SHA-256 digest: r and s, 32 bytes each, big endian.
    pub async fn host_sign(&self, digest: [u8; 32]) -> Result<[u8; 64], Error> {
        self.call(move |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            keys::host_sign(connection, objects, &digest)
        })
        .await
    }

    /// Makes an RSA key, certified by the AK. The caller keeps it. Nobody else is served by the TPM meanwhile, and a TPM
    /// that takes longer than the deadline is `busy`.
    pub async fn create_rsa_key(&self) -> Result<RsaKeyBlob, Error> {
        self.call_within(self.deadline.max(RSA_KEY_DEADLINE), |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            rsa::create(connection, objects)
        })
        .await
    }

    /// Whether a kept RSA key is certified by this host's AK, and this TPM signs with it.
    ///
    /// # Errors
    /// [`Error::Objects`] if it is another host's, or was changed.
    pub async fn verify_rsa_key(&self, key: Arc<RsaKeyBlob>) -> Result<(), Error> {
        self.call(move |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            rsa::verify(connection, objects, &key)
        })
        .await
    }

    /// The RSA key's RSASSA-PKCS1-v1_5 signature over a SHA-256 digest: 256 bytes, big endian.
    pub async fn rsa_sign(
        &self,
        key: Arc<RsaKeyBlob>,
        digest: [u8; 32],
    ) -> Result<[u8; rsa::MODULUS_LEN], Error> {
        self.call(move |tpm| {
            let (connection, _) = tpm.provisioned()?;
            rsa::sign(connection, &key, &digest)
        })
        .await
    }

    /// Has the AK certify the host key anew (`TPM2_Certify`): both are this TPM's, and whole.
    pub async fn check_certification(&self) -> Result<(), Error> {
        self.call(|tpm| {
            let (connection, objects) = tpm.provisioned()?;
            keys::check_certification(connection, objects)
        })
        .await
    }

    /// Quotes PCRs of the SHA-256 bank (numbers up to 23, in their order) with at most 32 bytes of qualifying data, and
    /// gives what a verifier knows this host by.
    pub async fn attest(&self, pcrs: Vec<u8>, qualifying_data: Vec<u8>) -> Result<Attestation, Error> {
        self.call(move |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            quote::attest(connection, objects, &pcrs, &qualifying_data)
        })
        .await
    }

    /// The endorsement keys with their certificates. The TPM is asked once, which may take it seconds.
    pub async fn ek_info(&self) -> Result<EkInfo, Error> {
        self.call_within(self.deadline * PRIMARY_DEADLINE_FACTOR, ConnectedTpm::ek_info).await
    }

    /// Opens a credential that was made for this TPM's endorsement key and the AK.
    ///
    /// # Errors
    /// [`Error::Request`] for a credential that is for another TPM or another AK, or is damaged.
    pub async fn activate_credential(
        &self,
        ek: EkKind,
        credential: CredentialBlob,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.call_within(self.deadline * PRIMARY_DEADLINE_FACTOR, move |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            activate::activate_credential(connection, objects, ek, &credential)
        })
        .await
    }

    /// `n` random bytes made by the TPM, at most 1024.
    pub async fn random(&self, n: usize) -> Result<Vec<u8>, Error> {
        self.call(move |tpm| seal::random(&mut tpm.connection, n)).await
    }

    /// How many transient objects and sessions the TPM holds for this connection (or, behind no resource manager,
    /// for everybody). At rest the room has one of each at most: the SRK and its session.
    pub async fn loaded_handles(&self) -> Result<LoadedHandles, Error> {
        self.call(|tpm| {
            Ok(LoadedHandles {
                objects: tpm.connection.count_handles(FIRST_TRANSIENT_HANDLE)?,
                sessions: tpm.connection.count_handles(FIRST_SESSION_HANDLE)?,
            })
        })
        .await
    }

    /// Ends the thread, which flushes what it holds. Blocks until it has ended, at most for the deadline; call it
    /// from no async task. Returns whether it has ended: a thread that a stalled TPM holds ends when the TPM answers.
    pub fn shutdown(&self) -> bool {
        self.status.request_stop();
        // Only to wake it; if the queue is full it is awake.
        let (reply, _) = oneshot::channel::<Result<(), Error>>();
        let _ = self.requests.try_send(Box::new(PendingRequest::new(
            |_: &mut ConnectedTpm| Ok(()),
            reply,
            Instant::now(),
        )));
        self.status.wait_until_ended()
    }

    async fn call<T, F>(&self, operation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut ConnectedTpm) -> Result<T, Error> + Send + 'static,
    {
        self.call_within(self.deadline, operation).await
    }

    async fn call_within<T, F>(&self, timeout: Duration, operation: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut ConnectedTpm) -> Result<T, Error> + Send + 'static,
    {
        let (reply, response) = oneshot::channel();
        let call = PendingRequest::new(operation, reply, Instant::now() + timeout);
        self.requests.try_send(Box::new(call)).map_err(|error| match error {
            TrySendError::Full(_) => Error::QueueFull,
            TrySendError::Disconnected(_) => Error::Stopped,
        })?;
        match tokio::time::timeout(timeout, response).await {
            Ok(Ok(response)) => response,
            // The thread dropped the call: it has ended, or it saw the deadline pass before we did.
            Ok(Err(_)) if self.status.is_stopping() || self.status.has_ended() => Err(Error::Stopped),
            Ok(Err(_)) => Err(Error::DeadlineExceeded(timeout)),
            Err(_) => {
                self.status.report_caller_timeout();
                Err(Error::DeadlineExceeded(timeout))
            }
        }
    }
}

/// What a TPM holds in its memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LoadedHandles {
    pub objects: usize,
    pub sessions: usize,
}
