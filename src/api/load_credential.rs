//! The socket for service managers that load credentials of units: one value for each connection, without
//! HTTP.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::client_connection::ClientConnection;
use super::client_stream::ClientStream;
use super::pace::Cost;
use crate::correlation::{self, Correlation, RequestContext};
use crate::service::{IdentityService, InvalidRequest, Recorded, ReleasedCredential};
use crate::wire::manager_address::ManagerAddress;

/// How long the decision may take, and then the last byte of the value.
const DECISION_TIMEOUT: Duration = Duration::from_secs(20);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a decision may take on, once the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// systemd refuses a credential of more than 1 MiB (`CREDENTIAL_SIZE_MAX`) and does not start the unit.
const MAX_SYSTEMD_CREDENTIAL_LEN: usize = 1024 * 1024;
/// Bytes without meaning, which are sent until there are more than systemd accepts.
static REFUSAL_PIECE: [u8; 64 * 1024] = [0; 64 * 1024];

/// Serves one connection to its end. The client sends nothing, so nothing is read.
pub async fn serve_service_manager(
    mut stream: ClientStream,
    client: ClientConnection,
    service: IdentityService,
    stop: CancellationToken,
) {
    let address = stream.abstract_peer_address();
    let address = ManagerAddress::parse(address.as_deref()).map_err(|e| InvalidRequest::new(e.to_string()));
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    let context = RequestContext {
        verb: "systemd",
        path: "LoadCredential",
        correlation: Correlation::of_request(std::iter::empty()),
    };
    let loaded = correlation::scope(context, service.load_credential(client.begin_request(), address));
    let answer = tokio::select! {
        loaded = loaded => match loaded {
            Ok(released) => Answer::Value(Box::new(released)),
            Err(refused) if refused.fails_unit => Answer::Failure,
            Err(_) => Answer::Nothing,
        },
        () = tokio::time::sleep(DECISION_TIMEOUT) => Answer::Failure,
        () = client.evicted() => Answer::Failure,
        () = stopped => Answer::Failure,
    };
    if !matches!(answer, Answer::Value(_)) {
        client.throttle(Cost::Error).await;
    }
    client.mark_idle();
    // An error means that the service manager has closed the connection.
    let _ = tokio::time::timeout(WRITE_TIMEOUT, answer.write(&mut stream)).await;
}

/// What a connection gets before it is closed.
enum Answer {
    Value(Box<Recorded<ReleasedCredential>>),
    /// More bytes than a service manager accepts: without any, it would start the unit with an empty
    /// credential.
    Failure,
    /// For clients that are no service managers.
    Nothing,
}

impl Answer {
    async fn write(self, stream: &mut ClientStream) -> io::Result<()> {
        match self {
            Answer::Value(released) => {
                stream.write_all(released.get().value().as_str().as_bytes()).await?;
            }
            Answer::Failure => {
                for _ in 0..=MAX_SYSTEMD_CREDENTIAL_LEN / REFUSAL_PIECE.len() {
                    stream.write_all(&REFUSAL_PIECE).await?;
                }
            }
            Answer::Nothing => {}
        }
        stream.shutdown().await
    }
}
