//! One connection of the workload socket, to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::Workload;
use super::call::answer;
use super::presence::Presence;
use crate::api::ending;
use crate::api::guest::Guest;
use crate::api::http2::Normalised;

/// Calls that are open on one connection at once; more wait at the client.
const STREAMS_MOST: u32 = 100;
/// Streams that a client opened and took back before they were looked at.
const TAKEN_BACK_MOST: usize = 50;
const HEAD_MOST: u32 = 16 * 1024;
/// What a client may send ahead, on one stream and on all.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What waits for a client to read it, on one stream.
const SEND_MOST: usize = 16 * 1024;
/// A client with open calls that does not answer a ping is gone.
const PING_EVERY: Duration = Duration::from_secs(60);
const PONG_MOST: Duration = Duration::from_secs(30);

/// Sent where there is no seat: empty SETTINGS, then GOAWAY that nothing was looked at, ENHANCE_YOUR_CALM (RFC 9113).
pub const FULL: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b];

pub async fn serve(stream: UnixStream, guest: Guest, workload: Arc<Workload>, stop: CancellationToken) {
    let presence = Presence::new(guest, workload.road.clone());
    let service = service_fn(|request| {
        // Boxed, as a call's task is as large as the larger of making the answer and of sending it, for as long as it is
        // open.
        let answer = Box::pin(answer(workload.clone(), presence.clone(), request));
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(STREAMS_MOST)
        .max_pending_accept_reset_streams(TAKEN_BACK_MOST)
        .max_header_list_size(HEAD_MOST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_MOST)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_MOST)
        .serve_connection(TokioIo::new(Normalised::new(stream)), service);
    ending::serve(connection, presence.guest(), &stop, presence.attend(), || presence.close()).await;
}
