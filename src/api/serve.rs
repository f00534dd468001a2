//! Accepts connections and answers their requests, one after the other on each.

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

use super::crowd::Crowd;
use super::ending;
use super::guest::Guest;
use super::patient::Patient;
use super::reply::{self, Reply};
use super::{Admin, AgentApi, Lanes, Workload, workload};
use crate::peer::Caller;

/// Largest request head.
const HEAD_MOST: usize = 16 * 1024;
/// Read of a head before it is judged: closing on what was not read would take the answer back from its sender.
const READ_MOST: usize = 4 * HEAD_MOST;
/// A connection on which no whole request head has come for this long is closed.
const IDLE_MOST: Duration = Duration::from_secs(60);
/// An answer that was not taken whole for this long is taken back, and its connection closed.
const TAKE_MOST: Duration = Duration::from_secs(60);
/// How many are told at once that there is no seat, and for how long at most.
const DOORSTEPS: usize = 64;
const DOORSTEP_MOST: Duration = Duration::from_secs(1);
/// Sent where there is no seat.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
    retry-after: 1\r\nconnection: close\r\ncontent-length: 103\r\n\r\n\
    {\"error\":\"temporarily_unavailable\",\"error_description\":\"too many connections are open; try again soon\"}";

/// Whose rules answer a socket.
#[derive(Clone)]
pub enum Api {
    Agent(Arc<AgentApi>),
    Admin(Arc<Admin>),
    /// gRPC; the others are HTTP/1.1.
    Workload(Arc<Workload>),
}

/// The two that speak HTTP/1.1.
#[derive(Clone)]
enum Http1 {
    Agent(Arc<AgentApi>),
    Admin(Arc<Admin>),
}

impl Api {
    /// Serves one connection to its end.
    async fn serve(self, stream: UnixStream, guest: Guest, stop: CancellationToken) {
        match self {
            Api::Agent(api) => serve(stream, guest, Http1::Agent(api), stop).await,
            Api::Admin(api) => serve(stream, guest, Http1::Admin(api), stop).await,
            Api::Workload(api) => workload::serve(stream, guest, api, stop).await,
        }
    }

    /// What a caller hears for whom there is no seat.
    fn full(&self) -> &'static [u8] {
        match self {
            Api::Agent(_) | Api::Admin(_) => FULL,
            Api::Workload(_) => workload::FULL,
        }
    }
}

impl Http1 {
    async fn answer(&self, guest: &Guest, request: Request<Incoming>) -> Reply {
        // RFC 9112 section 3.2: a request without exactly one Host is one to be wary of.
        let hosts = request.headers().get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
            return reply::fatal(StatusCode::BAD_REQUEST, "a request has exactly one Host header");
        }
        if head_size(&request) > HEAD_MOST {
            let what = "a request head has at most 16 KiB";
            return reply::fatal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, what);
        }
        match self {
            Http1::Agent(api) => api.answer(guest, request).await,
            Http1::Admin(api) => api.answer(guest, request).await,
        }
    }
}

/// What the head took on the wire, but for a few bytes of punctuation.
fn head_size(request: &Request<Incoming>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + headers.sum::<usize>()
}

/// One listening socket.
pub struct Server {
    listener: UnixListener,
    api: Api,
    crowd: Arc<Crowd>,
    /// None where connections are served by the thread that accepts them.
    lanes: Option<Arc<Lanes>>,
    stop: CancellationToken,
    connections: TaskTracker,
    /// Places for those who are told that there is no seat.
    doorstep: Arc<Semaphore>,
}

impl Server {
    /// Takes over a listener. To be called inside the runtime.
    pub fn new(
        listener: StdListener,
        api: Api,
        crowd: Arc<Crowd>,
        lanes: Option<Arc<Lanes>>,
        stop: CancellationToken,
    ) -> io::Result<Server> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let doorstep = Arc::new(Semaphore::new(DOORSTEPS));
        Ok(Server { listener, api, crowd, lanes, stop, connections: TaskTracker::new(), doorstep })
    }

    /// Accepts until told to stop, then lets what is being answered end.
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
        let _ = tokio::time::timeout(ending::LAST_WORDS, self.connections.wait()).await;
    }

    fn admit(&self, stream: UnixStream) {
        // Whoever cannot be told at all has gone, or the daemon is out of descriptors: nothing to answer to.
        let Ok(caller) = Caller::of(&stream) else { return };
        let Some(seat) = self.crowd.admit(caller.uid()) else { return self.turn_away(stream) };
        let guest = Guest::new(caller, seat);
        let (api, stop) = (self.api.clone(), self.stop.clone());
        let Some(lanes) = &self.lanes else {
            self.connections.spawn(api.serve(stream, guest, stop));
            return;
        };
        let Some(lane) = lanes.quietest() else { return };
        // Leaves this runtime's poll for the lane's.
        let Ok(stream) = stream.into_std() else { return };
        let ride = lane.ride();
        let connection = async move {
            let _ride = ride;
            if let Ok(stream) = UnixStream::from_std(stream) {
                api.serve(stream, guest, stop).await;
            }
        };
        self.connections.spawn_on(connection, &lane.runtime);
    }

    /// Tells a caller that there is no seat. Closing on what it is about to send would take the answer back, so a few
    /// are heard out on the doorstep.
    fn turn_away(&self, mut stream: UnixStream) {
        let full = self.api.full();
        let Ok(step) = self.doorstep.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _step = step;
            let mut heard = vec![0; HEAD_MOST];
            let told = async {
                let _ = stream.read(&mut heard).await?;
                stream.write_all(full).await?;
                stream.shutdown().await?;
                while stream.read(&mut heard).await? > 0 {}
                io::Result::Ok(())
            };
            // Whoever cannot be told has gone.
            let _ = tokio::time::timeout(DOORSTEP_MOST, told).await;
        });
    }

    async fn accept_failed(&self, error: &io::Error) {
        match error.raw_os_error().map(Errno::from_raw) {
            // The caller went away before it was its turn.
            Some(Errno::ECONNABORTED | Errno::EINTR) => {}
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                tracing::warn!(
                    "no connection can be accepted now: {error}; raise LimitNOFILE= or lower limits.connections"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            _ => {
                tracing::error!("accepting failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection, to its end.
async fn serve(stream: UnixStream, guest: Guest, api: Http1, stop: CancellationToken) {
    let service = service_fn(|request| async {
        guest.speaks();
        let reply = api.answer(&guest, request).await;
        if let Some(wait) = guest.answered(&reply) {
            tokio::time::sleep(wait).await;
        }
        Ok::<_, Infallible>(reply)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MOST)
        // Whoever has said all it will say still wants its answer.
        .half_close(true)
        .max_buf_size(READ_MOST)
        .serve_connection(TokioIo::new(Patient::new(stream, TAKE_MOST)), service);
    ending::serve(connection, &guest, &stop, std::future::pending(), || {}).await;
}
