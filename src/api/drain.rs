//! How a connection ends, of whatever protocol: by its caller, to make room, or with the daemon.

use std::future::Future;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio_util::sync::CancellationToken;

use super::client_connection::ClientConnection;

/// What is being answered when the daemon ends may take this long.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What is being written to a connection that has to make room may take this long.
const EVICT_GRACE: Duration = Duration::from_millis(100);
/// When the daemon ends, a connection that was made before may take this long to say what for.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Serves a connection to its end. It is also ended when `gone` says that its caller is, and `closing` is told when the
/// daemon ends.
///
/// The connection is put on the heap at once: moved from future to future it would take room in each of them.
pub fn serve_until_drained<'a, C: GracefulConnection + 'a>(
    connection: C,
    client: &'a ClientConnection,
    stop: &'a CancellationToken,
    peer_exited: impl Future<Output = ()> + 'a,
    on_drain: impl FnOnce() + 'a,
) -> impl Future<Output = ()> + 'a {
    let mut connection = Box::pin(connection);
    async move {
        // Whatever ends a connection is the caller's affair and was answered where it could be.
        let timeout = tokio::select! {
            _ = connection.as_mut() => return,
            () = peer_exited => EVICT_GRACE,
            () = client.evicted() => EVICT_GRACE,
            () = stop.cancelled() => {
                on_drain();
                // Whoever connected just now is about to speak, and would find the connection closed.
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
