//! Serves one connection of the workload socket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::call::handle_call;
use super::caller_watcher::CallerWatcher;
use super::paced_stream::PacedStream;
use super::workload_api::WorkloadApi;
use crate::api::client_connection::ClientConnection;
use crate::api::client_stream::ClientStream;
use crate::api::connection_limits::{ConnectionLimits, ConnectionPermit};
use crate::api::drain;
use crate::api::http2::AuthorityFilter;
use crate::api::pace::Cost;

/// Open calls per connection; further ones wait at the client.
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// Streams that a client opened and reset before they were accepted; more end the connection
/// (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 50;
/// Largest header list in bytes.
const MAX_HEADER_LIST_SIZE: u32 = 16 * 1024;
/// Bytes that a client may send ahead, on one stream and on all.
const STREAM_WINDOW: u32 = 16 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024;
/// Bytes of one stream that wait for the client to read them.
const MAX_SEND_BUFFER_SIZE: usize = 16 * 1024;
/// A client with open calls is pinged at this interval, and disconnected if it does not answer within the
/// timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often, and after which time each, a connection asks for a permit among those of unidentified callers.
const PERMIT_ATTEMPTS: u32 = 10;
const PERMIT_INTERVAL: Duration = Duration::from_millis(200);

/// The reply to a connection beyond the limits: empty SETTINGS, then GOAWAY with last stream 0 and
/// ENHANCE_YOUR_CALM (RFC 9113 sections 6.8 and 7).
pub const OVERLOADED_GOAWAY: &[u8] =
    &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b];

/// A permit among the connections of unidentified callers. While all of a uid's permits are held by callers
/// that are being identified, as when many processes of an agent start at once, it waits for one.
async fn wait_for_permit(unidentified: &Arc<ConnectionLimits>, uid: u32) -> Option<ConnectionPermit> {
    for _ in 0..PERMIT_ATTEMPTS {
        if let Some(permit) = unidentified.acquire(uid) {
            return Some(permit);
        }
        tokio::time::sleep(PERMIT_INTERVAL).await;
    }
    unidentified.acquire(uid)
}

/// Serves a connection to its end.
pub async fn serve_grpc(
    stream: ClientStream,
    client: ClientConnection,
    workload: Arc<WorkloadApi>,
    stop: CancellationToken,
) {
    // A uid that has used up its budget waits before it takes a permit.
    let permit = async {
        client.throttle(Cost::Unit).await;
        wait_for_permit(&workload.unidentified, client.uid()).await
    };
    let permit = tokio::select! {
        permit = permit => permit,
        () = client.evicted() => return,
    };
    let Some(permit) = permit else {
        // An error means that the client has closed the connection.
        let _ = stream.try_write(OVERLOADED_GOAWAY);
        return;
    };
    let stream = PacedStream::new(stream, client.pace().clone(), client.uid());
    let watcher = CallerWatcher::new(client, workload.service.clone(), permit);
    let service = service_fn(|request| {
        // Boxed, because the task of a call is as large as the larger of computing and sending the response,
        // as long as it is open.
        let response = Box::pin(handle_call(workload.clone(), watcher.clone(), request));
        async { Ok::<_, Infallible>(response.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(MAX_HEADER_LIST_SIZE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER_SIZE)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(AuthorityFilter::new(stream)), service);
    drain::serve_until_drained(connection, watcher.client(), &stop, watcher.run(), || watcher.shut_down())
        .await;
}
