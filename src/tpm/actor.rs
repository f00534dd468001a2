//! The thread that owns the TPM: runs requests one by one, and recovers the connection after faults.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::actor_status::{ActorStatus, ExitGuard};
use super::config::TpmConfig;
use super::connected_tpm::ConnectedTpm;
use super::connection::TpmConnection;
use super::ek_info::EkCache;
use super::error::{Error, FaultClass};
use super::identity::TpmIdentity;
use super::objects::TpmObjects;
use super::probe::TpmaPermanent;
use super::request::TpmRequest;
use super::state::{StateKind, TpmState};
use super::{identity_check, probe};
use crate::stack::wipe_unused_stack;

/// The thread's loop runs at least this often, which bounds the heartbeat's interval and the delay of a
/// shutdown.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Upper bound on the delay between two attempts to connect.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);

/// How often a request is retried after TPM_RC_*_MEMORY, TPM_RC_RETRY and the like. libtss2 itself sends a
/// command up to five times, without a delay, after TPM_RC_RETRY, TPM_RC_YIELDED and TPM_RC_TESTING.
const MAX_TRANSIENT_RETRIES: u32 = 4;

/// The delay before the first of these retries; it doubles each time, to 750 ms in total.
const TRANSIENT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The thread's own state.
pub(super) struct Actor {
    config: TpmConfig,
    status: Arc<ActorStatus>,
    connected: Option<ConnectedTpm>,
    objects: Option<TpmObjects>,
    /// What earlier connections read about the endorsement keys, while there is no connection.
    ek_cache: EkCache,
    /// Names of SRK and EK to compare with: those of the stored objects, else those of the first connection.
    pins: Option<(Vec<u8>, Vec<u8>)>,
    last_connect_attempt: Option<Instant>,
    /// Failed attempts to connect since the last successful one.
    failed_connects: u32,
    /// The error of a request that failed after all retries for lack of TPM memory or time, until a probe
    /// succeeds.
    exhausted: Option<String>,
    /// The TPM that responded last has another EK than the pinned one.
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
            ek_cache: EkCache::default(),
            pins,
            last_connect_attempt: None,
            failed_connects: 0,
            exhausted: None,
            ek_mismatch: false,
            last_probe: Instant::now(),
        }
    }

    /// Runs until a shutdown is requested or the last handle is dropped.
    pub(super) fn run(mut self, requests: Receiver<Box<dyn TpmRequest>>) {
        let status = self.status.clone();
        let _exit_guard = ExitGuard(&status);
        while !status.is_stopping() {
            status.beat();
            if self.may_connect(self.retry_delay()) {
                self.connect();
            }
            match requests.recv_timeout(self.poll_timeout()) {
                Ok(request) => {
                    status.metrics().remove_waiting();
                    self.handle_request(request);
                    // libtss2 leaves secrets there that the TPM returned.
                    wipe_unused_stack();
                }
                Err(RecvTimeoutError::Timeout) => self.end_idle_session(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Also under constant load: requests do not reveal a lockout or a new password.
            if self.last_probe.elapsed() >= self.config.probe_every {
                self.probe();
            }
        }
        if let Some(tpm) = self.connected.take() {
            let _in_call = status.begin_call();
            tpm.connection.close();
        }
    }

    /// Runs one request, unless its caller has stopped waiting, and measures it.
    fn handle_request(&mut self, request: Box<dyn TpmRequest>) {
        if self.status.is_stopping() || request.is_cancelled() {
            return;
        }
        let begun = Instant::now();
        self.status.metrics().queue_wait.observe(begun.duration_since(request.queued_at()));
        self.run_request(request);
        self.status.metrics().duration.observe(begun.elapsed());
    }

    /// After a fault of the TPM or the connection it recovers, and retries if that can change the outcome: once
    /// on a new connection, or up to four times with delays for lack of TPM memory or time.
    fn run_request(&mut self, mut request: Box<dyn TpmRequest>) {
        // A caller is waiting, so the delay between attempts to connect does not grow beyond the initial one.
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
            // Without a resource manager, handles of lost responses may fill the TPM; reconnecting flushes
            // them.
            let may_be_ours = fault == FaultClass::OutOfMemory
                && retries == 0
                && self.exhausted.is_none()
                && self.is_emulator();
            if may_be_ours || self.connected.as_ref().is_some_and(|tpm| tpm.connection.has_leaked_handles()) {
                self.reconnect();
            }
            let Err(error) = outcome else { return };
            if retries >= max_retries(fault) || request.is_cancelled() {
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

    /// Tries a request. A fault of the TPM or the connection is returned, with the caller still waiting.
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
        outcome
    }

    /// Ends the session while no request waits, so that the process leaves none to flush when it exits.
    fn end_idle_session(&mut self) {
        let Some(tpm) = self.connected.as_mut().filter(|tpm| tpm.connection.has_idle_session()) else {
            return;
        };
        let in_call = self.status.begin_call();
        let outcome = tpm.connection.end_session();
        drop(in_call);
        if let Err(error) = outcome {
            self.recover(&error);
        }
    }

    /// Sets the state and reconnects, depending on what the failure says about the TPM.
    fn recover(&mut self, error: &Error) {
        self.status.metrics().count_fault(error.fault_class());
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
                tracing::warn!(
                    event = "tpm-connection-lost",
                    %error,
                    "the connection to the TPM failed; reconnecting"
                );
                self.reconnect();
            }
        }
    }

    fn set_exhausted(&mut self, error: &Error) {
        self.exhausted = Some(error.to_string());
        self.set_state(TpmState::new(StateKind::Busy, error.to_string()));
    }

    /// Probes the TPM; while it is exhausted, also checks whether it has memory again.
    fn probe(&mut self) {
        self.last_probe = Instant::now();
        let Some(tpm) = self.connected.as_mut() else { return };
        let in_call = self.status.begin_call();
        let outcome = probe::probe(&mut tpm.connection).and_then(|permanent| {
            if self.exhausted.is_some() {
                tpm.check_capacity()?;
            }
            Ok(permanent)
        });
        drop(in_call);
        self.last_probe = Instant::now();
        match outcome {
            Ok(permanent) => {
                self.exhausted = None;
                self.publish(permanent);
            }
            Err(error) if error.fault_class().is_transient() => self.set_exhausted(&error),
            // The TPM of this connection does not reject these commands, so it is another one or was changed.
            Err(error) if matches!(error.fault_class(), FaultClass::Request | FaultClass::Authorization) => {
                tracing::warn!(
                    event = "tpm-connection-lost",
                    %error,
                    "the TPM rejected a probe; reconnecting"
                );
                self.reconnect();
            }
            Err(error) => self.recover(&error),
        }
    }

    /// Sets the state of a TPM that responds.
    fn publish(&self, permanent: TpmaPermanent) {
        let Some(tpm) = &self.connected else { return };
        match tpm.identity_state.kind {
            // A new connection does not show that the TPM has memory again.
            StateKind::Ready if self.exhausted.is_some() => {}
            StateKind::Ready => self.set_state(identity_check::state_from_permanent(permanent)),
            _ => self.set_state(tpm.identity_state.clone()),
        }
    }

    fn reconnect(&mut self) {
        {
            let _in_call = self.status.begin_call();
            if let Some(tpm) = self.connected.take() {
                self.ek_cache = tpm.ek_cache;
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
                match probe::probe(&mut connection) {
                    Ok(permanent) => Ok((connection, permanent)),
                    // A response that is an error leaves a connection that can be closed in order.
                    Err(error) if error.is_no_response() => {
                        connection.abandon();
                        Err(error)
                    }
                    Err(error) => Err(error),
                }
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

    /// Compares the TPM with the pinned Names, and sets the state accordingly.
    fn accept(&mut self, connection: TpmConnection) {
        self.failed_connects = 0;
        self.status.metrics().connections.increment();
        let TpmIdentity { srk_name, ek_name, .. } = connection.identity();
        let (pinned_srk, pinned_ek) = self.pins.get_or_insert_with(|| (srk_name.clone(), ek_name.clone()));
        let identity_state = identity_check::compare_names((srk_name, ek_name), (pinned_srk, pinned_ek));
        let trusted = identity_state.kind == StateKind::Ready;
        self.ek_mismatch = identity_state.kind == StateKind::Replaced;
        let objects = self.objects.clone().filter(|_| trusted);
        let ek_cache = std::mem::take(&mut self.ek_cache).for_ek(&connection.identity().ek_public);
        self.connected = Some(ConnectedTpm::new(connection, identity_state.clone(), objects, ek_cache));
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

    /// The delay between two attempts to connect.
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

    /// How long to wait for a request before the next reconnect, probe or heartbeat is due.
    fn poll_timeout(&self) -> Duration {
        let timeout = match (&self.connected, self.last_connect_attempt) {
            (None, Some(at)) => self.retry_delay().saturating_sub(at.elapsed()),
            _ => self.config.probe_every.saturating_sub(self.last_probe.elapsed()),
        };
        // Never zero, which would be a busy loop.
        timeout.clamp(Duration::from_millis(1), HEARTBEAT_INTERVAL)
    }
}

/// How often a request is retried after a fault. A lockout or a missing authorization is the same a moment
/// later, and a further attempt could count towards a lockout.
fn max_retries(fault: FaultClass) -> u32 {
    match fault {
        FaultClass::OutOfMemory | FaultClass::RetryLater => MAX_TRANSIENT_RETRIES,
        FaultClass::Reset | FaultClass::Transport => 1,
        FaultClass::Authorization | FaultClass::Lockout | FaultClass::Request => 0,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a TPM has no notification for when it can run a command again"
)]
fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}
