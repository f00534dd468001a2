//! Watches the caller of a connection with open streams: which agents it matches now, and whether its process
//! exists.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tonic::Status;

use super::grpc_status;
use crate::api::client_connection::ClientConnection;
use crate::api::connection_limits::{CallClass, CallPermit, ConnectionPermit};
use crate::api::pace::Cost;
use crate::mutex::lock;
use crate::service::{
    AuthenticatedAgent, CallerCheck, ErrorCode, IdentityInputs, IdentityService, PeerLookup, RequestError,
};

/// How often a caller with open streams is read again. Streams are updated within twice this time of a
/// change.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// A connection without open calls for this time is closed, at the latest after twice as long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for the final status of streams to be sent, after the process that opened the connection has ended.
const FINAL_STATUS_GRACE: Duration = Duration::from_millis(500);

/// The caller of a connection, as its streams see it.
#[derive(Clone, Debug)]
pub enum CallerState {
    /// No stream has been opened yet.
    Unknown,
    /// The agents that the caller is, the default one first.
    Agents(Arc<[AuthenticatedAgent]>),
    /// The caller matches no agent any more, or has ended.
    Gone,
    /// The daemon is shutting down.
    ShuttingDown,
}

impl CallerState {
    fn has_same_agents(&self, agents: &[AuthenticatedAgent]) -> bool {
        let CallerState::Agents(current) = self else { return false };
        current.len() == agents.len()
            && current.iter().zip(agents).all(|(one, other)| one.is_same_snapshot(other))
    }
}

/// The caller of one connection.
pub struct CallerWatcher {
    client: ClientConnection,
    service: IdentityService,
    /// Whether the last call that was decided was one of an agent.
    is_agent: AtomicBool,
    /// The connection's permit among those of unidentified callers, until its caller is identified as an
    /// agent.
    unidentified: Mutex<Option<ConnectionPermit>>,
    /// Calls whose caller is being identified, which keep the connection from being evicted.
    identifying_calls: AtomicUsize,
    /// Open calls, including health and reflection.
    open_calls: AtomicUsize,
    /// Open calls of the Workload API, which keep the connection from being evicted.
    busy_calls: AtomicUsize,
    /// When the last call was closed.
    idle_since: Mutex<Instant>,
    state: watch::Sender<CallerState>,
    stream_opened: Notify,
}

/// One open call.
pub struct CallGuard {
    watcher: Arc<CallerWatcher>,
    busy: bool,
}

impl CallerWatcher {
    /// A watcher of a connection that was just accepted.
    pub fn new(
        client: ClientConnection,
        service: IdentityService,
        unidentified: ConnectionPermit,
    ) -> Arc<CallerWatcher> {
        Arc::new(CallerWatcher {
            client,
            service,
            is_agent: AtomicBool::new(false),
            unidentified: Mutex::new(Some(unidentified)),
            identifying_calls: AtomicUsize::new(0),
            open_calls: AtomicUsize::new(0),
            busy_calls: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            state: watch::Sender::new(CallerState::Unknown),
            stream_opened: Notify::new(),
        })
    }

    /// The connection.
    pub fn client(&self) -> &ClientConnection {
        &self.client
    }

    /// Counts a call as open until the guard is dropped. With `busy` the connection is not evicted meanwhile.
    pub fn begin_call(self: &Arc<Self>, busy: bool) -> CallGuard {
        self.client.mark_request_started();
        self.open_calls.fetch_add(1, Ordering::Relaxed);
        if busy {
            self.busy_calls.fetch_add(1, Ordering::Relaxed);
        }
        CallGuard { watcher: self.clone(), busy }
    }

    /// Whether the caller was an agent when it called last.
    pub fn is_agent(&self) -> bool {
        self.is_agent.load(Ordering::Relaxed)
    }

    /// A permit for a call; `None` where the caller's uid has as many open calls of its class as it may.
    pub fn acquire_call(&self, is_workload_api: bool) -> Option<CallPermit> {
        self.client.acquire_call(match is_workload_api {
            true if self.is_agent() => CallClass::Receiving,
            true => CallClass::Unidentified,
            false => CallClass::Public,
        })
    }

    /// Identifies a caller whose connection is not known to be an agent's, before the body of its call is
    /// read. The call is decided by an identification of its own when it has arrived completely.
    ///
    /// # Errors
    /// The refusal of a caller that is no agent.
    pub async fn admit(&self) -> Result<(), RequestError> {
        // A connection whose caller is being identified is not evicted.
        let _identifying = IdentifyingGuard::new(self);
        self.service.require_agent(self.begin_request()).await?;
        self.is_agent.store(true, Ordering::Relaxed);
        self.unidentified().take();
        Ok(())
    }

    /// Reads the calling process, for a call that has arrived completely.
    pub fn begin_request(&self) -> PeerLookup {
        self.client.begin_request()
    }

    /// Opens a stream: identifies the caller, and returns its state from now on.
    ///
    /// # Errors
    /// The status of a refused caller.
    pub async fn open_stream(&self) -> Result<watch::Receiver<CallerState>, Status> {
        let agents = match self.service.authenticate_agents(self.begin_request()).await {
            Ok(agents) => agents,
            Err(error) => return Err(self.reject(&error).await),
        };
        self.client.backoff(false);
        let receiver = self.state.subscribe();
        // The state may date from an earlier stream. Streams are woken only if the agents differ: otherwise
        // each new stream would make all streams of the connection compute their message again.
        if !self.state.borrow().has_same_agents(&agents) {
            self.publish(CallerState::Agents(agents.into()));
        }
        self.stream_opened.notify_one();
        Ok(receiver)
    }

    /// Publishes the state to the streams, unless the daemon is shutting down.
    fn publish(&self, state: CallerState) {
        self.state.send_if_modified(|current| {
            let modified = !matches!(current, CallerState::ShuttingDown);
            if modified {
                *current = state;
            }
            modified
        });
    }

    /// The gRPC status of a refusal, after a delay where the caller is rate-limited or its uid has used up
    /// its budget.
    pub async fn reject(&self, error: &RequestError) -> Status {
        if error.code() == ErrorCode::InvalidClient {
            self.is_agent.store(false, Ordering::Relaxed);
            self.client.throttle(Cost::Error).await;
        }
        if let Some(delay) = self.client.backoff(error.code() == ErrorCode::SlowDown) {
            tokio::time::sleep(delay).await;
        }
        grpc_status::from_request_error(error)
    }

    /// Ends all streams because the daemon is shutting down.
    pub fn shut_down(&self) {
        self.state.send_replace(CallerState::ShuttingDown);
    }

    /// Watches the caller. Returns when the connection is idle or its process has ended, or when it is
    /// evicted as the oldest of too many connections of unidentified callers.
    pub async fn run(&self) {
        let evicted = self.unidentified().as_ref().map(ConnectionPermit::evicted);
        let evicted = async {
            match evicted {
                Some(evicted) => evicted.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.watch() => {}
            () = evicted => {}
        }
    }

    fn set_unidentified_busy(&self, busy: bool) {
        if let Some(unidentified) = self.unidentified().as_ref() {
            unidentified.set_busy(busy);
        }
    }

    fn unidentified(&self) -> MutexGuard<'_, Option<ConnectionPermit>> {
        lock(&self.unidentified)
    }

    async fn watch(&self) {
        let mut inputs = None;
        let mut revocations = self.service.subscribe_revocations();
        loop {
            if self.state.receiver_count() == 0 {
                inputs = None;
                if self.is_idle() {
                    return;
                }
                tokio::select! {
                    () = self.stream_opened.notified() => {}
                    () = tokio::time::sleep(IDLE_TIMEOUT) => {}
                }
                continue;
            }
            revocations.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                // Streams of an agent that is revoked end at once.
                Ok(()) = revocations.changed() => {}
            }
            if self.refresh(&mut inputs).await.is_none() {
                tokio::time::sleep(FINAL_STATUS_GRACE).await;
                return;
            }
        }
    }

    fn is_idle(&self) -> bool {
        let idle_since = *lock(&self.idle_since);
        self.open_calls.load(Ordering::Relaxed) == 0 && idle_since.elapsed() >= IDLE_TIMEOUT
    }

    /// Reads the caller again and publishes what changed. `None` where the process that opened the connection
    /// has ended.
    async fn refresh(&self, inputs: &mut Option<Box<IdentityInputs>>) -> Option<()> {
        let lookup = self.begin_request();
        if self.busy_calls.load(Ordering::Relaxed) == 0 {
            self.client.mark_idle();
        }
        let current = match self.service.check_caller(lookup) {
            CallerCheck::Present(current) => current,
            CallerCheck::Retry => return Some(()),
            CallerCheck::Gone => {
                self.publish(CallerState::Gone);
                return None;
            }
        };
        if inputs.as_ref().is_some_and(|previous| previous.is_unchanged(&current)) {
            return Some(());
        }
        let agents = self.service.agents_of_caller(&current).await;
        *inputs = Some(current);
        self.publish(agents.map_or(CallerState::Gone, |agents| CallerState::Agents(agents.into())));
        Some(())
    }
}

/// Keeps an unidentified caller's connection from being evicted until it is dropped.
struct IdentifyingGuard<'a>(&'a CallerWatcher);

impl IdentifyingGuard<'_> {
    fn new(watcher: &CallerWatcher) -> IdentifyingGuard<'_> {
        if watcher.identifying_calls.fetch_add(1, Ordering::Relaxed) == 0 {
            watcher.set_unidentified_busy(true);
        }
        IdentifyingGuard(watcher)
    }
}

impl Drop for IdentifyingGuard<'_> {
    fn drop(&mut self) {
        if self.0.identifying_calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.set_unidentified_busy(false);
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let watcher = &self.watcher;
        if self.busy && watcher.busy_calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            watcher.client.mark_idle();
        }
        if watcher.open_calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lock(&watcher.idle_since) = Instant::now();
        }
    }
}
