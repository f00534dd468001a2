//! The thread that owns the TPM: takes calls one by one, notices what goes wrong, and mends what can be mended.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;

use super::actor_status::ActorStatus;
use super::actor_status::ExitGuard;
use super::config::TpmConfig;
use super::connection::TpmConnection;
use super::connection::TpmIdentity;
use super::ek_info;
use super::ek_info::EkInfo;
use super::error::Error;
use super::error::FaultClass;
use super::identity_check;
use super::info;
use super::info::TpmInfo;
use super::objects::TpmObjects;
use super::probe::TpmaPermanent;
use super::state::StateKind;
use super::state::TpmState;

/// The thread turns at least this often, so that its heartbeat is seen and a shutdown is heard.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to reach a TPM.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);

/// How often a call is done again that the TPM had no room or no time for. libtss2 itself sends a command up to five
/// times, without a pause, where the TPM says so (TPM_RC_RETRY, TPM_RC_YIELDED, TPM_RC_TESTING).
const MAX_TRANSIENT_RETRIES: u32 = 4;

/// The pause before the first of these; each is twice the one before, 750 ms together.
const TRANSIENT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The thread's own state.
pub(super) struct Actor {
    config: TpmConfig,
    status: Arc<ActorStatus>,
    connected: Option<ConnectedTpm>,
    objects: Option<TpmObjects>,
    /// What the TPM's maker says, as it was read last: the same for as long as the EK is.
    ek_info: Option<EkInfo>,
    /// The Names to compare with: the stored ones, or else those of the first connection.
    pins: Option<(Vec<u8>, Vec<u8>)>,
    last_connect_attempt: Option<Instant>,
    /// Attempts to connect that failed since the last that did not.
    failed_connects: u32,
    /// The TPM had no room or no time for a call, and has not yet been seen to have some again.
    exhausted: Option<String>,
    /// The TPM that answered last is another than the pinned one.
    ek_mismatch: bool,
    last_probe: Instant,
}

impl Actor {
    pub(super) fn new(config: TpmConfig, status: Arc<ActorStatus>, objects: Option<TpmObjects>) -> Self {
        let pins = objects.as_ref().map(|stored| (stored.srk_name.clone(), stored.ek_name.clone()));
        Actor {
            config,
            status,
            connected: None,
            objects,
            ek_info: None,
            pins,
            last_connect_attempt: None,
            failed_connects: 0,
            exhausted: None,
            ek_mismatch: false,
            last_probe: Instant::now(),
        }
    }

    /// Runs until it is told to stop or nobody can call any more.
    pub(super) fn run(mut self, requests: Receiver<Box<dyn TpmRequest>>) {
        let status = self.status.clone();
        let _exit_guard = ExitGuard(&status);
        while !status.is_stopping() {
            status.beat();
            if self.may_connect(self.retry_delay()) {
                self.connect();
            }
            match requests.recv_timeout(self.poll_timeout()) {
                Ok(request) => self.handle_request(request),
                Err(RecvTimeoutError::Timeout) => self.end_idle_session(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Also while calls keep coming: they do not show a lockout or a password.
            if self.last_probe.elapsed() >= self.config.probe_every {
                self.probe();
            }
        }
        if let Some(tpm) = self.connected.take() {
            let _in_call = status.begin_call();
            tpm.connection.close();
        }
    }

    /// Does one call. What failed for the TPM's sake and not for its own is mended, and the call done again: once, and
    /// where the TPM has no room or no time a few times more, with pauses.
    fn handle_request(&mut self, mut request: Box<dyn TpmRequest>) {
        if self.status.is_stopping() || request.is_cancelled() {
            return;
        }
        // Somebody wants the TPM: no need to sit out the rest of a long pause.
        if self.may_connect(self.config.initial_retry_delay) {
            self.connect();
        }
        let mut retries = 0;
        loop {
            let outcome = self.try_request(request.as_mut());
            let fault = outcome.as_ref().map_or_else(Error::fault_class, |()| FaultClass::Request);
            if let Err(error) = &outcome {
                self.recover(error);
            }
            // Behind no resource manager what fills the TPM may be ours, from answers that never arrived.
            let may_be_ours = fault == FaultClass::OutOfMemory
                && retries == 0
                && self.exhausted.is_none()
                && self.is_emulator();
            if may_be_ours || self.connected.as_ref().is_some_and(|tpm| tpm.connection.has_leaked_handles()) {
                self.reconnect();
            }
            let Err(error) = outcome else { return };
            if retries >= if fault.is_transient() { MAX_TRANSIENT_RETRIES } else { 1 }
                || request.is_cancelled()
            {
                if fault.is_transient() {
                    self.set_exhausted(&error);
                }
                return request.fail(error);
            }
            if fault.is_transient() {
                sleep(TRANSIENT_RETRY_DELAY * (1 << retries));
            }
            retries += 1;
        }
    }

    /// A fault of the TPM is returned and the caller not answered.
    fn try_request(&mut self, request: &mut dyn TpmRequest) -> Result<(), Error> {
        let kind = self.status.last_state_kind();
        let Some(tpm) = self.connected.as_mut() else {
            request.fail(Error::NotReady(kind));
            return Ok(());
        };
        let _in_call = self.status.begin_call();
        let outcome = request.try_run(tpm);
        if self.objects.is_none() {
            self.objects = tpm.objects.clone();
        }
        if self.ek_info.is_none() {
            self.ek_info = tpm.ek_info.clone();
        }
        outcome
    }

    /// While nobody calls, nothing is held in the TPM that would have to be flushed at the end of the process.
    fn end_idle_session(&mut self) {
        let Some(tpm) = self.connected.as_mut().filter(|tpm| tpm.connection.has_idle_session()) else {
            return;
        };
        let in_call = self.status.begin_call();
        let outcome = tpm.connection.end_idle_session();
        drop(in_call);
        if let Err(error) = outcome {
            self.recover(&error);
        }
    }

    /// After a failure that says something about the TPM and not about the call.
    fn recover(&mut self, error: &Error) {
        match error.fault_class() {
            FaultClass::Request
            | FaultClass::Authorization
            | FaultClass::OutOfMemory
            | FaultClass::RetryLater => {}
            FaultClass::Lockout => self.set_state(TpmState::new(StateKind::Lockout, error.to_string())),
            FaultClass::Reset => {
                self.set_state(TpmState::new(StateKind::Reset, error.to_string()));
                self.reconnect();
            }
            FaultClass::Transport => {
                tracing::warn!(event = "tpm-connection-lost", %error, "lost the TPM; reconnecting");
                self.reconnect();
            }
        }
    }

    fn set_exhausted(&mut self, error: &Error) {
        self.exhausted = Some(error.to_string());
        self.set_state(TpmState::new(StateKind::Busy, error.to_string()));
    }

    /// Is the TPM still there, still the same, and well? After it had no room, also whether it has some now.
    fn probe(&mut self) {
        self.last_probe = Instant::now();
        let Some(tpm) = self.connected.as_mut() else { return };
        let in_call = self.status.begin_call();
        let outcome = tpm.connection.probe().and_then(|permanent| match self.exhausted {
            Some(_) => tpm.check_capacity().map(|()| permanent),
            None => Ok(permanent),
        });
        drop(in_call);
        self.last_probe = Instant::now();
        match outcome {
            Ok(permanent) => {
                self.exhausted = None;
                self.publish(permanent);
            }
            Err(error) if error.fault_class().is_transient() => self.set_exhausted(&error),
            // Nothing that we ask here is refused by the TPM that we connected with.
            Err(error) if matches!(error.fault_class(), FaultClass::Request | FaultClass::Authorization) => {
                tracing::warn!(event = "tpm-connection-lost", %error, "the TPM is not as it was; reconnecting");
                self.reconnect();
            }
            Err(error) => self.recover(&error),
        }
    }

    /// The state of a TPM that answers.
    fn publish(&self, permanent: TpmaPermanent) {
        let Some(tpm) = &self.connected else { return };
        match tpm.identity_state.kind {
            // A connection alone does not show that there is room again.
            StateKind::Ready if self.exhausted.is_some() => {}
            StateKind::Ready => self.set_state(identity_check::state_from_permanent(permanent)),
            _ => self.set_state(tpm.identity_state.clone()),
        }
    }

    fn reconnect(&mut self) {
        {
            let _in_call = self.status.begin_call();
            if let Some(tpm) = self.connected.take() {
                tpm.connection.abandon();
            }
        }
        self.connect();
    }

    fn connect(&mut self) {
        self.last_connect_attempt = Some(Instant::now());
        let outcome = {
            let _in_call = self.status.begin_call();
            TpmConnection::open(&self.config.tcti).and_then(|mut connection| {
                let permanent = connection.probe()?;
                Ok((connection, permanent))
            })
        };
        self.last_probe = Instant::now();
        match outcome {
            Ok((connection, permanent)) => {
                self.accept(connection);
                self.publish(permanent);
            }
            Err(error) => self.handle_connect_error(error),
        }
    }

    /// Compares the TPM with the pins and says which it is.
    fn accept(&mut self, connection: TpmConnection) {
        self.failed_connects = 0;
        let TpmIdentity { srk_name, ek_name, .. } = connection.identity();
        let (pinned_srk, pinned_ek) = self.pins.get_or_insert_with(|| (srk_name.clone(), ek_name.clone()));
        let identity_state = identity_check::compare_names((srk_name, ek_name), (pinned_srk, pinned_ek));
        let trusted = identity_state.kind == StateKind::Ready;
        self.ek_mismatch = identity_state.kind == StateKind::Replaced;
        let objects = self.objects.clone().filter(|_| trusted);
        let ek = &connection.identity().ek_public;
        self.ek_info = self.ek_info.take().filter(|ek_info| ek_info.p256.public == *ek);
        let ek_info = self.ek_info.clone();
        self.connected = Some(ConnectedTpm {
            connection,
            identity_state: identity_state.clone(),
            objects,
            info: None,
            ek_info,
        });
        match &self.exhausted {
            Some(reason) if trusted => self.set_state(TpmState::new(StateKind::Busy, reason)),
            _ => self.set_state(identity_state),
        }
    }

    fn handle_connect_error(&mut self, error: Error) {
        let kind = match error.fault_class() {
            _ if matches!(error, Error::DriverTimeout) => StateKind::Busy,
            FaultClass::Authorization => StateKind::OwnerAuth,
            FaultClass::OutOfMemory | FaultClass::RetryLater => StateKind::Busy,
            FaultClass::Lockout => StateKind::Lockout,
            FaultClass::Reset => StateKind::Reset,
            FaultClass::Request | FaultClass::Transport => StateKind::Absent,
        };
        self.failed_connects = self.failed_connects.saturating_add(1);
        self.set_state(TpmState::new(kind, error.to_string()));
    }

    /// How long to wait between two attempts to connect.
    fn retry_delay(&self) -> Duration {
        let doublings = self.failed_connects.saturating_sub(1).min(10);
        (self.config.initial_retry_delay * (1 << doublings))
            .min(MAX_RETRY_DELAY.max(self.config.initial_retry_delay))
    }

    fn set_state(&self, state: TpmState) {
        self.status.set_state(TpmState { ek_mismatch: self.ek_mismatch, ..state });
    }

    fn is_emulator(&self) -> bool {
        self.connected.as_ref().is_some_and(|tpm| tpm.connection.is_emulator())
    }

    fn may_connect(&self, delay: Duration) -> bool {
        self.connected.is_none() && self.last_connect_attempt.is_none_or(|at| at.elapsed() >= delay)
    }

    /// How long to wait for a call before looking around again.
    fn poll_timeout(&self) -> Duration {
        let timeout = match (&self.connected, self.last_connect_attempt) {
            (None, Some(at)) => self.retry_delay().saturating_sub(at.elapsed()),
            _ => self.config.probe_every.saturating_sub(self.last_probe.elapsed()),
        };
        // Never zero, so that what is due just now cannot turn the thread into a busy loop.
        timeout.clamp(Duration::from_millis(1), HEARTBEAT_INTERVAL)
    }
}

/// A connection and what it may be used for.
pub(super) struct ConnectedTpm {
    pub(super) connection: TpmConnection,
    identity_state: TpmState,
    objects: Option<TpmObjects>,
    info: Option<TpmInfo>,
    ek_info: Option<EkInfo>,
}

impl ConnectedTpm {
    /// The connection with the host's objects, if they are this TPM's.
    pub(super) fn provisioned(&mut self) -> Result<(&mut TpmConnection, &TpmObjects), Error> {
        if self.identity_state.kind != StateKind::Ready {
            return Err(Error::NotReady(self.identity_state.kind));
        }
        match &self.objects {
            Some(objects) => Ok((&mut self.connection, objects)),
            None => Err(Error::NotProvisioned),
        }
    }

    /// The connection, if no objects are to be harmed by making new ones.
    pub(super) fn unprovisioned(&mut self) -> Result<&mut TpmConnection, Error> {
        match (self.identity_state.kind, &self.objects) {
            (StateKind::Ready, None) => Ok(&mut self.connection),
            (StateKind::Ready, Some(_)) => Err(Error::AlreadyProvisioned),
            (kind, _) => Err(Error::NotReady(kind)),
        }
    }

    /// Tries what a call takes: a session, and a place for a key.
    fn check_capacity(&mut self) -> Result<(), Error> {
        match &self.objects {
            Some(objects) => self.connection.with_loaded(&objects.host_key, |_, _| Ok(())),
            None => self.connection.run("TPM2_GetRandom", |context| context.get_random(8)).map(drop),
        }
    }

    /// From now on these are the host's objects. The actor sees them here and keeps them for later connections.
    pub(super) fn use_keys(&mut self, objects: &TpmObjects) -> Result<(), Error> {
        self.unprovisioned()?;
        self.info = None;
        self.objects = Some(objects.clone());
        Ok(())
    }

    /// The facts; the TPM is asked once per connection.
    pub(super) fn info(&mut self) -> Result<TpmInfo, Error> {
        if let Some(info) = &self.info {
            return Ok(info.clone());
        }
        let info = info::read(&mut self.connection, self.objects.as_ref())?;
        self.info = Some(info.clone());
        Ok(info)
    }

    /// The endorsement keys; the TPM is asked once, or again where one could not be derived.
    pub(super) fn ek_info(&mut self) -> Result<EkInfo, Error> {
        if let Some(ek_info) = &self.ek_info {
            return Ok(ek_info.clone());
        }
        let (ek_info, complete) = ek_info::read(&mut self.connection)?;
        self.ek_info = Some(ek_info.clone()).filter(|_| complete);
        Ok(ek_info)
    }
}

/// A call on its way to the thread.
pub(super) trait TpmRequest: Send {
    /// Whether the caller no longer waits.
    fn is_cancelled(&self) -> bool;
    /// Does it and answers the caller. A fault of the TPM is returned instead, with the caller still waiting.
    fn try_run(&mut self, tpm: &mut ConnectedTpm) -> Result<(), Error>;
    fn fail(&mut self, error: Error);
}

/// The one kind of call there is: something to do, and somebody who waits for it.
pub(super) struct PendingRequest<T, F> {
    operation: F,
    reply: Option<oneshot::Sender<Result<T, Error>>>,
    deadline: Instant,
}

impl<T, F> PendingRequest<T, F>
where
    T: Send,
    F: FnMut(&mut ConnectedTpm) -> Result<T, Error> + Send,
{
    pub(super) fn new(operation: F, reply: oneshot::Sender<Result<T, Error>>, deadline: Instant) -> Self {
        PendingRequest { operation, reply: Some(reply), deadline }
    }

    fn respond(&mut self, result: Result<T, Error>) {
        if let Some(reply) = self.reply.take() {
            // A caller that left in the meantime needs no answer.
            let _ = reply.send(result);
        }
    }
}

impl<T, F> TpmRequest for PendingRequest<T, F>
where
    T: Send,
    F: FnMut(&mut ConnectedTpm) -> Result<T, Error> + Send,
{
    fn is_cancelled(&self) -> bool {
        Instant::now() >= self.deadline || self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn try_run(&mut self, tpm: &mut ConnectedTpm) -> Result<(), Error> {
        match (self.operation)(tpm) {
            Err(error) if error.fault_class() != FaultClass::Request => Err(error),
            result => {
                self.respond(result);
                Ok(())
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.respond(Err(error));
    }
}

#[expect(clippy::disallowed_methods, reason = "a TPM that has no time now tells nobody when it has some")]
fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}
