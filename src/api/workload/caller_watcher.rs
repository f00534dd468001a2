//! The caller of one connection, for as long as it follows streams: who it is now, and whether it is there still.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tonic::Status;

use super::grpc_status;
use crate::api::client_connection::ClientConnection;
use crate::api::connection_limits::StreamPermit;
use crate::service::{
    AuthenticatedAgent, CallerCheck, ErrorCode, IdentityInputs, IdentityService, PeerLookup, RequestError,
};

/// How often a caller with open streams is looked at: what changes is pushed within twice that.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// A connection on which nothing is open for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The caller of a process that has ended hears no more than this long why.
const FINAL_STATUS_GRACE: Duration = Duration::from_millis(500);

/// What a stream is made of, as it is now.
#[derive(Clone, Debug)]
pub enum CallerState {
    /// Nobody has asked for a stream yet.
    Unknown,
    /// The agents that the caller is, the default one first.
    Agents(Arc<[AuthenticatedAgent]>),
    /// The caller is no agent any more, or has ended.
    Gone,
    /// The daemon ends.
    ShuttingDown,
}

impl CallerState {
    fn has_same_agents(&self, agents: &[AuthenticatedAgent]) -> bool {
        let CallerState::Agents(current) = self else { return false };
        current.len() == agents.len()
            && current.iter().zip(agents).all(|(one, other)| one.is_same_snapshot(other))
    }
}

/// One connection's caller.
pub struct CallerWatcher {
    client: ClientConnection,
    service: IdentityService,
    /// Calls that are open, and those of them that make the connection one that is at work.
    open_calls: AtomicUsize,
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
    pub fn new(client: ClientConnection, service: IdentityService) -> Arc<CallerWatcher> {
        Arc::new(CallerWatcher {
            client,
            service,
            open_calls: AtomicUsize::new(0),
            busy_calls: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            state: watch::Sender::new(CallerState::Unknown),
            stream_opened: Notify::new(),
        })
    }

    pub fn client(&self) -> &ClientConnection {
        &self.client
    }

    /// Counts a call in. With `work` the connection need not make room for others meanwhile.
    pub fn begin_call(self: &Arc<Self>, busy: bool) -> CallGuard {
        self.client.mark_request_started();
        self.open_calls.fetch_add(1, Ordering::Relaxed);
        if busy {
            self.busy_calls.fetch_add(1, Ordering::Relaxed);
        }
        CallGuard { watcher: self.clone(), busy }
    }

    /// One look at the caller, for a call that has arrived whole.
    pub fn begin_request(&self) -> PeerLookup {
        self.client.begin_request()
    }

    /// Begins a stream: who the caller is, from now on, and the place that it takes.
    pub async fn open_stream(&self) -> Result<(watch::Receiver<CallerState>, StreamPermit), Status> {
        let agents = match self.service.authenticate_agents(self.begin_request()).await {
            Ok(agents) => agents,
            Err(error) => return Err(self.reject(&error).await),
        };
        self.client.backoff(false);
        let Some(permit) = self.client.acquire_stream() else {
            return Err(Status::unavailable("this user follows as many streams as it may; close some"));
        };
        let receiver = self.state.subscribe();
        // What was seen for an earlier stream may be long ago. Where it is the same, nobody is woken: a caller would have
        // all its streams do their work again each time that it opens another.
        if !self.state.borrow().has_same_agents(&agents) {
            self.publish(CallerState::Agents(agents.into()));
        }
        self.stream_opened.notify_one();
        Ok((receiver, permit))
    }

    /// Shows the streams what is seen now. The daemon's end is not undone by who comes late.
    fn publish(&self, state: CallerState) {
        self.state.send_if_modified(|current| {
            let modified = !matches!(current, CallerState::ShuttingDown);
            if modified {
                *current = state;
            }
            modified
        });
    }

    /// What a refusal is to gRPC; one of a flood takes its time.
    pub async fn reject(&self, error: &RequestError) -> Status {
        if let Some(delay) = self.client.backoff(error.code() == ErrorCode::SlowDown) {
            tokio::time::sleep(delay).await;
        }
        grpc_status::from_request_error(error)
    }

    /// Ends all streams, as the daemon does.
    pub fn shut_down(&self) {
        self.state.send_replace(CallerState::ShuttingDown);
    }

    /// Looks after the caller. Returns when its connection is of no more use.
    pub async fn run(&self) {
        let mut inputs = None;
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
            tokio::time::sleep(POLL_INTERVAL).await;
            if self.refresh(&mut inputs).await.is_none() {
                tokio::time::sleep(FINAL_STATUS_GRACE).await;
                return;
            }
        }
    }

    fn is_idle(&self) -> bool {
        let idle_since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.open_calls.load(Ordering::Relaxed) == 0 && idle_since.elapsed() >= IDLE_TIMEOUT
    }

    /// Tells the streams what is new. None where the process that opened the connection is not there any more.
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

impl Drop for CallGuard {
    fn drop(&mut self) {
        let watcher = &self.watcher;
        if self.busy && watcher.busy_calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            watcher.client.mark_idle();
        }
        if watcher.open_calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            *watcher.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}
