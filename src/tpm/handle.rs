//! [`Tpm`], the handle through which the rest of the daemon uses the TPM.

mod audit;
mod counters;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};
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
use super::actor_status::ActorStatus;
use super::capabilities::FIRST_SESSION_HANDLE;
use super::capabilities::FIRST_TRANSIENT_HANDLE;
use super::config::TpmConfig;
use super::connected_tpm::ConnectedTpm;
use super::ek_info::EkInfo;
use super::error::Error;
use super::info::TpmInfo;
use super::keys;
use super::metrics::TpmMetrics;
use super::objects::KeyBlob;
use super::objects::TpmObjects;
use super::pcrs::PcrValues;
use super::quote;
use super::quote::Attestation;
use super::random;
use super::request::PendingRequest;
use super::request::TpmRequest;
use super::rsa;
use super::rsa::RsaKeyBlob;
use super::seal;
use super::state::TpmState;
use crate::critical::spawn_critical;

/// Provisioning creates three objects, loads and certifies, which takes a slow TPM seconds.
const PROVISION_DEADLINE_FACTOR: u32 = 6;

/// Creating an RSA-2048 key takes swtpm up to seconds, and a chip up to a minute.
const RSA_KEY_DEADLINE: Duration = Duration::from_secs(120);

/// Deriving an RSA EK takes discrete TPMs two seconds and more.
const PRIMARY_DEADLINE_FACTOR: u32 = 3;

/// A handle to the TPM thread, cheap to clone. The thread ends with [`Tpm::shutdown`] or with its last
/// handle.
///
/// Each method waits at most for the configured deadline, or a documented multiple of it, and does not block
/// the async runtime.
///
/// # Errors
/// All methods that use the TPM return [`Error::QueueFull`] and [`Error::DeadlineExceeded`] under load,
/// [`Error::NotReady`] in a state without a usable TPM, [`Error::NotProvisioned`] if they need keys and the
/// host has none, [`Error::CommandFailed`] for failed TPM commands, and [`Error::Stopped`] once the thread
/// has ended.
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
    /// `InvalidInput` for an emulator that is not allowed or for invalid settings, `InvalidData` for stored
    /// objects that fail [`TpmObjects::validate`], and the kernel's error if it starts no thread.
    pub fn open(config: TpmConfig, stored: Option<TpmObjects>) -> io::Result<Tpm> {
        config.validate()?;
        if let Some(stored) = &stored {
            stored.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let (requests, queue) = mpsc::sync_channel(config.queue_capacity);
        let deadline = config.deadline;
        let status = Arc::new(ActorStatus::new(deadline));
        let actor = Actor::new(config, status.clone(), stored);
        spawn_critical(thread::Builder::new(), "tpm", move || actor.run(queue))?;
        let watchdog = status.clone();
        // If this thread does not start, dropping `requests` ends the first.
        spawn_critical(thread::Builder::new(), "tpm-watch", move || watchdog.run_watchdog())?;
        Ok(Tpm { requests, status, deadline })
    }

    /// The current state, and each change of it.
    pub fn state(&self) -> watch::Receiver<TpmState> {
        self.status.subscribe()
    }

    /// How long a caller waits at most (the configured deadline).
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// A counter that the thread increments at least once a second unless it is in a TPM call or has ended.
    pub fn heartbeat(&self) -> u64 {
        self.status.heartbeat()
    }

    /// Whether the thread is running. A thread that waits for a stalled TPM is.
    pub fn is_alive(&self) -> bool {
        !self.status.has_ended()
    }

    /// What the thread did, in numbers.
    pub fn metrics(&self) -> &Arc<TpmMetrics> {
        self.status.metrics()
    }

    /// Facts about the connected TPM, also in the states `cleared` and `replaced`.
    pub async fn info(&self) -> Result<TpmInfo, Error> {
        self.call(ConnectedTpm::info).await
    }

    /// Creates the host's objects and uses them from then on. The caller stores them for the next start.
    ///
    /// Waits at most six deadlines. The objects are used only once this method has returned them, so a
    /// cancelled call has no effect.
    ///
    /// # Errors
    /// [`Error::AlreadyProvisioned`] if there are objects already; [`Error::NotReady`] if this is not the
    /// pinned TPM.
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

    /// Seals 1 to 128 bytes under the SRK of the pinned TPM.
    ///
    /// With `pcrs` (numbers up to 23, ascending) the data can be unsealed only while these have their current
    /// values, which are returned.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] for another length, an invalid selection, or PCRs that change during each
    /// attempt.
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

    /// Unseals what [`Tpm::seal`] made; `pcrs` are the values that it returned.
    ///
    /// # Errors
    /// [`Error::PcrsChanged`] if PCRs have other values now.
    pub async fn unseal(&self, blob: KeyBlob, pcrs: Option<PcrValues>) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.call(move |tpm| {
            let (connection, _) = tpm.provisioned()?;
            seal::unseal(connection, &blob, pcrs.as_ref())
        })
        .await
    }

    /// The host key's ECDSA P-256 signature over a SHA-256 digest: r and s, 32 bytes each, big endian.
    pub async fn host_sign(&self, digest: [u8; 32]) -> Result<[u8; 64], Error> {
        self.call(move |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            keys::host_sign(connection, objects, &digest)
        })
        .await
    }

    /// Creates an RSA-2048 key, certified by the AK. The caller stores it.
    ///
    /// Waits at most two minutes, or the deadline if that is longer. Other requests wait meanwhile, and the
    /// state is `busy` if it takes longer than the deadline.
    pub async fn create_rsa_key(&self) -> Result<RsaKeyBlob, Error> {
        self.call_within(self.deadline.max(RSA_KEY_DEADLINE), |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            rsa::create(connection, objects)
        })
        .await
    }

    /// Checks that a stored RSA key is certified by this host's AK, and that this TPM signs with it.
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] if the key is another host's or was modified.
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

    /// Checks that this TPM loads AK and host key, and that the AK certifies the host key (`TPM2_Certify`).
    ///
    /// # Errors
    /// [`Error::InvalidObjects`] if they are another TPM's or were modified.
    pub async fn check_certification(&self) -> Result<(), Error> {
        self.call(|tpm| {
            let (connection, objects) = tpm.provisioned()?;
            keys::check_certification(connection, objects)
        })
        .await
    }

    /// Quotes PCRs of the SHA-256 bank (numbers up to 23, ascending) with at most 32 bytes of qualifying
    /// data, and returns the public areas and the certification that a verifier needs with the quote.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] for an invalid selection, a TPM without a SHA-256 bank, or PCRs that change
    /// during each attempt.
    pub async fn attest(&self, pcrs: Vec<u8>, qualifying_data: Vec<u8>) -> Result<Attestation, Error> {
        self.call(move |tpm| {
            let (connection, objects) = tpm.provisioned()?;
            quote::attest(connection, objects, &pcrs, &qualifying_data)
        })
        .await
    }

    /// The endorsement keys with their certificates. Waits at most three deadlines for the first read, which
    /// may take a TPM seconds; later calls return the same.
    pub async fn ek_info(&self) -> Result<EkInfo, Error> {
        self.call_within(self.deadline * PRIMARY_DEADLINE_FACTOR, ConnectedTpm::ek_info).await
    }

    /// Decrypts a credential that was made for this TPM's endorsement key and the AK. Waits at most three
    /// deadlines.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] for a credential that is for another TPM or another AK, or is damaged.
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

    /// `length` random bytes of the TPM, at most 1024.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] for a greater length.
    pub async fn random(&self, length: usize) -> Result<Vec<u8>, Error> {
        self.call(move |tpm| random::random(&mut tpm.connection, length)).await
    }

    /// 32 random bytes of the TPM XORed with 32 of the kernel, so that a weak generator on one side does not
    /// weaken them.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] if the kernel gives no random numbers.
    pub async fn mixed_random(&self) -> Result<Zeroizing<[u8; 32]>, Error> {
        self.call(|tpm| random::mixed_random(&mut tpm.connection)).await
    }

    /// How many transient objects and sessions the TPM holds for this connection, or without a resource
    /// manager for all clients. Between requests there is at most one of each: the SRK and the HMAC session.
    pub async fn loaded_handles(&self) -> Result<LoadedHandles, Error> {
        self.call(|tpm| {
            Ok(LoadedHandles {
                objects: tpm.connection.count_handles(FIRST_TRANSIENT_HANDLE)?,
                sessions: tpm.connection.count_handles(FIRST_SESSION_HANDLE)?,
            })
        })
        .await
    }

    /// Ends the thread, which flushes its session and objects. Returns whether it has ended.
    ///
    /// Blocks until then, at most for the deadline, of which a call in progress has used a part, so it must not be called
    /// from an async task. A thread that waits for a stalled TPM ends when the TPM responds.
    pub fn shutdown(&self) -> bool {
        self.status.request_stop();
        // This request only wakes the thread; if the queue is full, the thread is awake.
        let (reply, _) = oneshot::channel::<Result<(), Error>>();
        let wake = PendingRequest::new(|_: &mut ConnectedTpm| Ok(()), reply, Instant::now());
        self.status.metrics().add_waiting();
        if self.requests.try_send(Box::new(wake)).is_err() {
            self.status.metrics().remove_waiting();
        }
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
        let request = PendingRequest::new(operation, reply, Instant::now() + timeout);
        let metrics = self.status.metrics();
        // Before the thread can take it.
        metrics.add_waiting();
        self.requests.try_send(Box::new(request)).map_err(|error| {
            metrics.remove_waiting();
            match error {
                TrySendError::Full(_) => {
                    metrics.queue_full.increment();
                    Error::QueueFull
                }
                TrySendError::Disconnected(_) => Error::Stopped,
            }
        })?;
        match tokio::time::timeout(timeout, response).await {
            Ok(Ok(response)) => response,
            // The thread dropped the request: it has ended, or it checked the deadline first.
            Ok(Err(_)) if self.status.is_stopping() || self.status.has_ended() => Err(Error::Stopped),
            Ok(Err(_)) => {
                metrics.deadline_exceeded.increment();
                Err(Error::DeadlineExceeded(timeout))
            }
            Err(_) => {
                metrics.deadline_exceeded.increment();
                self.status.report_caller_timeout();
                Err(Error::DeadlineExceeded(timeout))
            }
        }
    }
}

/// The number of handles that a TPM holds in its memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LoadedHandles {
    /// Transient objects.
    pub objects: usize,
    /// HMAC and policy sessions.
    pub sessions: usize,
}
