//! How a connection ends, of whatever protocol: by its caller, to make room, or with the daemon.

use std::future::Future;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio_util::sync::CancellationToken;

use super::guest::Guest;

/// What is being answered when the daemon ends may take this long.
pub const LAST_WORDS: Duration = Duration::from_secs(5);
/// What is being written to a connection that has to make room may take this long.
const FAREWELL: Duration = Duration::from_millis(100);
/// When the daemon ends, a connection that was made before may take this long to say what for.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// Serves a connection to its end. It is also ended when `gone` says that its caller is, and `closing` is told when the
/// daemon ends.
///
/// The connection is put on the heap at once: moved from future to future it would take room in each of them.
pub fn serve<'a, C: GracefulConnection + 'a>(
    connection: C,
    guest: &'a Guest,
    stop: &'a CancellationToken,
    gone: impl Future<Output = ()> + 'a,
    closing: impl FnOnce() + 'a,
) -> impl Future<Output = ()> + 'a {
    let mut connection = Box::pin(connection);
    async move {
        // Whatever ends a connection is the caller's affair and was answered where it could be.
        let patience = tokio::select! {
            _ = connection.as_mut() => return,
            () = gone => FAREWELL,
            () = guest.evicted() => FAREWELL,
            () = stop.cancelled() => {
                closing();
                // Whoever connected just now is about to speak, and would find the connection closed.
                let heard = tokio::time::timeout(FIRST_WORD, guest.first_word());
                tokio::select! {
                    _ = connection.as_mut() => return,
                    _ = heard => LAST_WORDS,
                }
            }
        };
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(patience, connection).await;
    }
}
