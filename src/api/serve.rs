//! Accepts connections and serves HTTP/1.1 requests, one after the other on each connection.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admin::AdminApi;
use super::agent::AgentApi;
use super::client_connection::ClientConnection;
use super::connection_limits::ConnectionLimits;
use super::drain;
use super::reply::{self, Reply};
use super::workers::WorkerPool;
use super::workload::{self, WorkloadApi};
use super::write_deadline::WriteDeadline;
use crate::service::PeerTracker;

/// Largest request head in bytes.
const MAX_HEAD_SIZE: usize = 16 * 1024;
/// Bytes of a request head that are read before it is refused. Closing a connection with unread data discards the reply.
const READ_BUFFER_SIZE: usize = 4 * MAX_HEAD_SIZE;
/// A connection is closed if no complete request head arrives within this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection is closed if its client has not received a reply completely within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Refused connections that are answered at once, and for how long at most. Further ones are closed without a reply.
const MAX_REJECTIONS: usize = 64;
const REJECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// The reply to a connection beyond the limits.
const OVERLOADED_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
    retry-after: 1\r\nconnection: close\r\ncontent-length: 103\r\n\r\n\
    {\"error\":\"temporarily_unavailable\",\"error_description\":\"too many connections are open; try again soon\"}";

/// The API of a socket.
#[derive(Clone)]
pub enum Api {
    /// HTTP/1.1 for agents.
    Agent(Arc<AgentApi>),
    /// HTTP/1.1 for administrators.
    Admin(Arc<AdminApi>),
    /// gRPC for SPIFFE clients.
    Workload(Arc<WorkloadApi>),
}

/// The APIs of HTTP/1.1.
#[derive(Clone)]
enum Http1Api {
    Agent(Arc<AgentApi>),
    Admin(Arc<AdminApi>),
}

impl Api {
    /// Serves one connection to its end.
    async fn serve(self, stream: UnixStream, client: ClientConnection, stop: CancellationToken) {
        match self {
            Api::Agent(api) => serve_http1(stream, client, Http1Api::Agent(api), stop).await,
            Api::Admin(api) => serve_http1(stream, client, Http1Api::Admin(api), stop).await,
            Api::Workload(api) => workload::serve_grpc(stream, client, api, stop).await,
        }
    }

    /// The reply to a connection beyond the limits, in the protocol of the socket.
    fn overloaded_response(&self) -> &'static [u8] {
        match self {
            Api::Agent(_) | Api::Admin(_) => OVERLOADED_RESPONSE,
            Api::Workload(_) => workload::OVERLOADED_GOAWAY,
        }
    }
}

impl Http1Api {
    async fn handle_request(&self, client: &ClientConnection, request: Request<Incoming>) -> Reply {
        // RFC 9112 section 3.2: a server refuses a request that does not have exactly one Host.
        let hosts = request.headers().get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
            return reply::error_and_close(
                StatusCode::BAD_REQUEST,
                "a request must have exactly one Host header",
            );
        }
        if head_size(&request) > MAX_HEAD_SIZE {
            let description = "a request head must have at most 16 KiB";
            return reply::error_and_close(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, description);
        }
        match self {
            Http1Api::Agent(api) => api.handle_request(client, request).await,
            Http1Api::Admin(api) => api.handle_request(client, request).await,
        }
    }
}

/// Size of the head in bytes, without some punctuation of the request line.
fn head_size(request: &Request<Incoming>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + headers.sum::<usize>()
}

/// One listening socket.
pub struct Server {
    listener: UnixListener,
    api: Api,
    connection_limits: Arc<ConnectionLimits>,
    /// `None` where the accepting thread serves the connections.
    workers: Option<Arc<WorkerPool>>,
    stop: CancellationToken,
    connections: TaskTracker,
    /// Refused connections that are being answered.
    rejections: Arc<Semaphore>,
}

impl Server {
    /// A server on this listener. To be called inside a runtime, which then accepts; `workers` serve the connections.
    ///
    /// # Errors
    /// Where the listener cannot be made non-blocking or registered with the runtime.
    pub fn new(
        listener: StdListener,
        api: Api,
        connection_limits: Arc<ConnectionLimits>,
        workers: Option<Arc<WorkerPool>>,
        stop: CancellationToken,
    ) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let rejections = Arc::new(Semaphore::new(MAX_REJECTIONS));
        Ok(Server {
            listener,
            api,
            connection_limits,
            workers,
            stop,
            connections: TaskTracker::new(),
            rejections,
        })
    }

    /// Accepts until `stop` is cancelled, then waits at most 5 s for requests in progress.
    pub async fn run(self) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => self.admit(stream),
                Err(e) => self.accept_failed(&e).await,
            }
        }
        drop(self.listener);
        self.connections.close();
        let _ = tokio::time::timeout(drain::DRAIN_TIMEOUT, self.connections.wait()).await;
    }

    fn admit(&self, stream: UnixStream) {
        // Fails where the process has exited or the daemon has no free descriptor. The connection is closed.
        let Ok(peer_tracker) = PeerTracker::from_socket(&stream) else { return };
        let Some(permit) = self.connection_limits.acquire(peer_tracker.uid()) else {
            return self.reject(stream);
        };
        let client = ClientConnection::new(peer_tracker, permit);
        let (api, stop) = (self.api.clone(), self.stop.clone());
        let Some(workers) = &self.workers else {
            self.connections.spawn(api.serve(stream, client, stop));
            return;
        };
        let Some(worker) = workers.least_loaded() else { return };
        // Moves the descriptor from this runtime's poller to the worker's.
        let Ok(stream) = stream.into_std() else { return };
        let load_guard = worker.track();
        let connection = async move {
            let _load_guard = load_guard;
            if let Ok(stream) = UnixStream::from_std(stream) {
                api.serve(stream, client, stop).await;
            }
        };
        self.connections.spawn_on(connection, &worker.runtime);
    }

    /// Answers a connection beyond the limits. What its client sends is read, because closing a connection with unread data
    /// discards the reply.
    fn reject(&self, mut stream: UnixStream) {
        let response = self.api.overloaded_response();
        let Ok(permit) = self.rejections.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let mut buffer = vec![0; MAX_HEAD_SIZE];
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
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            _ => {
                tracing::error!("accepting a connection failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn serve_http1(stream: UnixStream, client: ClientConnection, api: Http1Api, stop: CancellationToken) {
    let service = service_fn(|request| async {
        client.mark_request_started();
        let reply = api.handle_request(&client, request).await;
        if let Some(delay) = client.finish_request(&reply) {
            tokio::time::sleep(delay).await;
        }
        Ok::<_, Infallible>(reply)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        // A client that has shut down its writing side still gets its reply.
        .half_close(true)
        .max_buf_size(READ_BUFFER_SIZE)
        .serve_connection(TokioIo::new(WriteDeadline::new(stream, WRITE_TIMEOUT)), service);
    drain::serve_until_drained(connection, &client, &stop, std::future::pending(), || {}).await;
}
