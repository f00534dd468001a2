//! Accepts connections and serves HTTP/1.1 requests, one after the other on each connection.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::sync::Semaphore;
use tokio::time::{Instant as TokioInstant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admin::AdminApi;
use super::agent::AgentApi;
use super::client_connection::ClientConnection;
use super::client_stream::{ClientSocket, ClientStream};
use super::closer::Closer;
use super::connection_limits::ConnectionLimits;
use super::drain;
use super::listen::{FULL_BACKLOG, SHORT_BACKLOG, refuse_descriptors, set_backlog};
use super::load_credential::serve_service_manager;
use super::pace::{Cost, Pace};
use super::receiving_stream::ReceivingStream;
use super::reply::{self, Reply};
use super::workers::WorkerPool;
use super::workload::{self, WorkloadApi};
use super::write_deadline::WriteDeadline;
use crate::service::{IdentityService, PeerTracker};

/// Largest request head, and largest trailers of a chunked body, in bytes. It is also the least that the HTTP
/// library takes as the size of its buffer, so that a head that never ends does not make the buffer grow.
const MAX_HEAD_SIZE: usize = 8 * 1024;
/// Bytes that are read at once from a refused connection, and discarded.
const REJECTION_BUFFER_SIZE: usize = 16 * 1024;
/// A connection is closed if no complete request head arrives within this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection is closed if its client has not received a reply completely within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections of one uid a second in the long run, and at once after a pause. A connection above the rate is
/// served later; if it would have to wait too long, it is refused.
const CONNECTION_RATE: u32 = 1_000;
const CONNECTION_BURST: u32 = 10_000;
/// Of a burst that is accepted, this many connections are served at once, and then so many a second: a worker
/// serves what is ready in turn, and callers of other uids would wait for all that one uid made ready.
const SERVED_AT_ONCE: u32 = 64;
const SERVED_RATE: u32 = 5_000;
/// A uid with this many open connections that has used up its budget by replies makes no further requests on
/// new connections meanwhile. With fewer, an agent is not delayed by another process of its uid.
const MANY_CONNECTIONS: usize = 256;
/// A uid that makes as many connections at once, or more than the same rate, shortens the queue of waiting
/// connections, until no uid has done so for some time.
const CROWDING_BURST: u32 = 2_000;
const CROWDING_TIME: Duration = Duration::from_secs(1);
/// Connections that are accepted before other tasks of this thread run.
const ACCEPT_BATCH: usize = 64;
/// Pause after an error such as a lack of descriptors, which would otherwise occur again at once.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Refused connections that are answered at once, and for how long at most. Further ones are closed without a
/// reply.
const MAX_REJECTIONS: usize = 64;
const REJECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Refused connections of one uid that are answered: a second, and at once after a pause.
const REJECTION_RATE: u32 = 16;
const REJECTION_BURST: u32 = 16;
/// The reply to a connection beyond the limits.
const OVERLOADED_RESPONSE: &[u8] = concat!(
    "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncache-control: no-store\r\n",
    "retry-after: 1\r\nconnection: close\r\ncontent-length: 103\r\n\r\n",
    "{\"error\":\"temporarily_unavailable\",",
    "\"error_description\":\"too many connections are open; try again soon\"}"
)
.as_bytes();

/// The API of a socket.
#[derive(Clone)]
pub enum Api {
    /// HTTP/1.1 for agents.
    Agent(Arc<AgentApi>),
    /// HTTP/1.1 for administrators.
    Admin(Arc<AdminApi>),
    /// gRPC for SPIFFE clients.
    Workload(Arc<WorkloadApi>),
    /// Values of credentials for service managers.
    Credentials(IdentityService),
}

/// The APIs of HTTP/1.1.
#[derive(Clone)]
enum Http1Api {
    Agent(Arc<AgentApi>),
    Admin(Arc<AdminApi>),
}

impl Api {
    /// Serves one connection to its end.
    async fn serve(self, stream: ClientStream, client: ClientConnection, stop: CancellationToken) {
        match self {
            Api::Agent(api) => serve_http1(stream, client, Http1Api::Agent(api), stop).await,
            Api::Admin(api) => serve_http1(stream, client, Http1Api::Admin(api), stop).await,
            // Boxed, because the task of each connection would have room for it.
            Api::Workload(api) => Box::pin(workload::serve_grpc(stream, client, api, stop)).await,
            Api::Credentials(service) => {
                Box::pin(serve_service_manager(stream, client, service, stop)).await;
            }
        }
    }

    /// The reply to a connection beyond the limits, in the protocol of the socket; nothing where the protocol
    /// has no errors.
    fn overloaded_response(&self) -> &'static [u8] {
        match self {
            Api::Agent(_) | Api::Admin(_) => OVERLOADED_RESPONSE,
            Api::Workload(_) => workload::OVERLOADED_GOAWAY,
            Api::Credentials(_) => &[],
        }
    }
}

impl Http1Api {
    async fn handle_request(&self, client: &ClientConnection, request: Request<Incoming>) -> (Reply, Cost) {
        // RFC 9112 section 3.2: a server refuses a request that does not have exactly one Host.
        let hosts = request.headers().get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
            let description = "a request must have exactly one Host header";
            return (reply::error_and_close(StatusCode::BAD_REQUEST, description), Cost::Error);
        }
        match self {
            Http1Api::Agent(api) => api.handle_request(client, request).await,
            Http1Api::Admin(api) => (api.handle_request(client, request).await, Cost::Free),
        }
    }
}

/// One listening socket.
pub struct Server {
    listener: AsyncFd<UnixListener>,
    api: Api,
    connection_limits: Arc<ConnectionLimits>,
    /// What replies and connections cost each uid; only the replies' budget is shared with other sockets.
    pace: Arc<Pace>,
    connection_pace: Pace,
    serving_pace: Pace,
    crowding_pace: Pace,
    rejection_pace: Pace,
    /// `None` where the accepting thread serves the connections.
    workers: Option<Arc<WorkerPool>>,
    closer: Closer,
    stop: CancellationToken,
    connections: TaskTracker,
    /// Refused connections that are being answered.
    rejections: Arc<Semaphore>,
}

impl Server {
    /// A server on this listener. To be called inside a runtime, which then accepts; `workers` serve the
    /// connections. `pace` limits what the replies to each uid cost.
    ///
    /// # Errors
    /// Where the listener cannot be made non-blocking or registered with the runtime.
    pub fn new(
        listener: UnixListener,
        api: Api,
        connection_limits: Arc<ConnectionLimits>,
        pace: Arc<Pace>,
        workers: Option<Arc<WorkerPool>>,
        closer: Closer,
        stop: CancellationToken,
    ) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        refuse_descriptors(&listener);
        // SAFETY: `listener` owns its descriptor; nothing replaces or closes it before the AsyncFd is
        // dropped.
        let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?;
        let server = Server {
            listener,
            api,
            connection_limits,
            pace,
            connection_pace: Pace::new(CONNECTION_RATE, CONNECTION_BURST),
            serving_pace: Pace::new(SERVED_RATE, SERVED_AT_ONCE),
            crowding_pace: Pace::new(CONNECTION_RATE, CROWDING_BURST),
            rejection_pace: Pace::new(REJECTION_RATE, REJECTION_BURST),
            workers,
            closer,
            stop,
            connections: TaskTracker::new(),
            rejections: Arc::new(Semaphore::new(MAX_REJECTIONS)),
        };
        // The standard library listens with a backlog of 128, and a unit file may have another one.
        server.limit_waiting(FULL_BACKLOG);
        Ok(server)
    }

    /// Accepts until `stop` is cancelled, then waits at most 5 s for requests in progress.
    pub async fn run(self) {
        let mut crowded_until = None;
        loop {
            let crowding_over = async {
                match crowded_until {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                accepted = self.accept_batch() => accepted,
                () = crowding_over => {
                    crowded_until = None;
                    self.limit_waiting(FULL_BACKLOG);
                    continue;
                }
                () = self.stop.cancelled() => break,
            };
            match accepted {
                Ok(true) => {
                    if crowded_until.is_none() {
                        self.limit_waiting(SHORT_BACKLOG);
                    }
                    crowded_until = Some(TokioInstant::now() + CROWDING_TIME);
                }
                Ok(false) => {}
                Err(e) => self.accept_failed(&e).await,
            }
        }
        // With the connections that wait to be accepted.
        self.closer.close(self.listener.into_inner().into());
        self.connections.close();
        let _ = tokio::time::timeout(drain::DRAIN_TIMEOUT, self.connections.wait()).await;
    }

    /// Waits for connections and accepts those that wait, up to 64. Nothing but the lack of connections makes
    /// it wait: while one uid makes them faster than they are accepted, those of others wait behind them.
    /// Returns whether a uid connects faster than it may.
    async fn accept_batch(&self) -> io::Result<bool> {
        let mut ready = self.listener.readable().await?;
        let mut is_crowded = false;
        for _ in 0..ACCEPT_BATCH {
            // The error means that there is none; the next call waits.
            let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) else {
                return Ok(is_crowded);
            };
            let (stream, _) = accepted?;
            let socket = ClientSocket::new(stream, &self.closer);
            // Only the uid at first: a connection beyond the limits has to cost as little as possible.
            let Some(uid) = socket.uid() else { continue };
            let crowding = self.crowding_pace.charge(uid, Cost::Unit, Instant::now());
            is_crowded |= crowding != Some(Duration::ZERO);
            self.admit(socket, uid);
        }
        drop(ready);
        tokio::task::yield_now().await;
        Ok(is_crowded)
    }

    fn limit_waiting(&self, connections: i32) {
        if let Err(e) = set_backlog(self.listener.get_ref(), connections) {
            tracing::warn!("the number of waiting connections cannot be set: {e}");
        }
    }

    fn admit(&self, socket: ClientSocket, uid: u32) {
        let now = Instant::now();
        let Some(delay) = self.connection_pace.charge(uid, Cost::Unit, now) else {
            return self.reject(socket, uid);
        };
        let delay = delay.max(self.serving_pace.delay(uid, Cost::Unit, now));
        let Some(permit) = self.connection_limits.acquire(uid) else { return self.reject(socket, uid) };
        // Fails where the process has exited or the daemon has no free descriptor. The connection is closed.
        let Some(Ok(peer_tracker)) = socket.get().map(PeerTracker::from_socket) else { return };
        let delay = match permit.uid_connections() {
            MANY_CONNECTIONS.. => delay.max(self.pace.current_delay(uid, now)),
            _ => delay,
        };
        let client = ClientConnection::new(peer_tracker, permit, self.pace.clone());
        let (api, stop) = (self.api.clone(), self.stop.clone());
        let Some(workers) = &self.workers else {
            self.connections.spawn(serve_after(delay, socket, client, api, stop));
            return;
        };
        let Some(worker) = workers.least_loaded() else { return };
        let load_guard = worker.track();
        let connection = async move {
            let _load_guard = load_guard;
            serve_after(delay, socket, client, api, stop).await;
        };
        self.connections.spawn_on(connection, &worker.runtime);
    }

    /// Answers a connection beyond the limits. What its client sends is read, because closing a connection
    /// with unread data discards the reply.
    fn reject(&self, socket: ClientSocket, uid: u32) {
        let answered = self.rejection_pace.charge(uid, Cost::Unit, Instant::now());
        if answered.is_none_or(|delay| !delay.is_zero()) {
            return;
        }
        let response = self.api.overloaded_response();
        if response.is_empty() {
            return;
        }
        let Ok(permit) = self.rejections.clone().try_acquire_owned() else { return };
        let Ok(mut stream) = socket.register() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let mut buffer = vec![0; REJECTION_BUFFER_SIZE];
            let rejection = async {
                let _ = stream.read(&mut buffer).await?;
                stream.write_all(response).await?;
                stream.shutdown().await?;
                while stream.read(&mut buffer).await? > 0 {}
                io::Result::Ok(())
            };
            // An error means that the client has closed the connection.
            let _ = tokio::time::timeout(REJECTION_TIMEOUT, rejection).await;
        });
    }

    async fn accept_failed(&self, error: &io::Error) {
        match error.raw_os_error().map(Errno::from_raw) {
            // The client closed the connection before it was accepted.
            Some(Errno::ECONNABORTED | Errno::EINTR) => {}
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                tracing::warn!(
                    "connections cannot be accepted: {error}; raise LimitNOFILE= or lower limits.connections"
                );
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
            _ => {
                tracing::error!("accepting a connection failed: {error}");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Serves one connection to its end, after a delay, during which nothing is read.
async fn serve_after(
    delay: Duration,
    socket: ClientSocket,
    client: ClientConnection,
    api: Api,
    stop: CancellationToken,
) {
    if !delay.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = client.evicted() => return,
        }
    }
    if let Ok(stream) = socket.register() {
        api.serve(stream, client, stop).await;
    }
}

/// Serves one connection to its end.
async fn serve_http1(stream: ClientStream, client: ClientConnection, api: Http1Api, stop: CancellationToken) {
    let client = Arc::new(client);
    let stream = ReceivingStream::new(WriteDeadline::new(stream, WRITE_TIMEOUT), client.clone());
    let service = service_fn(|request| async {
        client.mark_request_started();
        // Boxed, because the HTTP library keeps room for this future as long as the connection is open.
        let (reply, cost) = Box::pin(api.handle_request(&client, request)).await;
        let (reply, delay) = client.finish_request(reply, cost);
        client.delay_reply(delay).await;
        client.head_deadline().mark_reply_made();
        Ok::<_, Infallible>(reply)
    });
    let connection = http1::Builder::new()
        // `HeadDeadline` is the timeout, without a timer for each request.
        .header_read_timeout(None)
        // A client that has shut down its writing side still gets its reply.
        .half_close(true)
        .max_buf_size(MAX_HEAD_SIZE)
        .max_header_size(MAX_HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), service);
    let idle = client.head_deadline().expired(IDLE_TIMEOUT);
    drain::serve_until_drained(connection, &client, &stop, idle, || {}).await;
}
