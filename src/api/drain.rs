//! How a connection of either protocol ends: by the client, by eviction, by the end of the process, or at
//! shutdown.

use std::future::Future;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio_util::sync::CancellationToken;

use super::client_connection::ClientConnection;

/// Requests in progress at shutdown may take this long.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Replies in progress on an evicted connection may take this long.
const EVICT_GRACE: Duration = Duration::from_millis(100);
/// At shutdown, the client of a new connection may take this long to send its first request.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Serves a connection to its end. It also ends when `ended` returns: the process has ended,
/// or the connection is idle or evicted. `on_drain` is called at shutdown.
///
/// The connection is boxed at once, because each future that it is moved through would have room for it.
pub fn serve_until_drained<'a, C: GracefulConnection + 'a>(
    connection: C,
    client: &'a ClientConnection,
    stop: &'a CancellationToken,
    ended: impl Future<Output = ()> + 'a,
    on_drain: impl FnOnce() + 'a,
) -> impl Future<Output = ()> + 'a {
    let mut connection = Box::pin(connection);
    async move {
        // An error of the connection is the client's, and was answered where that was possible.
        let timeout = tokio::select! {
            _ = connection.as_mut() => return,
            () = ended => EVICT_GRACE,
            () = client.evicted() => client.begin_eviction(EVICT_GRACE),
            () = stop.cancelled() => {
                on_drain();
                // A client that connected just before the shutdown still gets the reply to its first request.
                let first_request = tokio::time::timeout(FIRST_REQUEST_GRACE, client.first_request());
                tokio::select! {
                    _ = connection.as_mut() => return,
                    _ = first_request => DRAIN_TIMEOUT,
                }
            }
        };
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(timeout, connection).await;
    }
}
