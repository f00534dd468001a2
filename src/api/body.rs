//! Reads request bodies within bounds of size, time and memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request, StatusCode};

use super::client_connection::ClientConnection;
use super::pace::Cost;
use super::reply::{self, Reply};
use super::routes::Body;
use super::uid_quota::UidQuota;

/// Largest body.
pub const MAX_BODY_SIZE: usize = 64 * 1024;
/// A body up to this size is read without a permit.
const SMALL_BODY_SIZE: usize = 4096;
/// Larger bodies that are read at once, over all connections of a socket: at most 16 MiB of memory.
const MAX_LARGE_BODIES: usize = 256;
/// Those of one uid: at most 2 MiB. No body waits for another, because a body that arrives takes less than a
/// millisecond to read, and one that does not arrive would be waited for in vain.
const MAX_LARGE_BODIES_PER_UID: usize = 32;
/// Pieces of a body that cost one unit of the uid's budget: a body can arrive as chunks of one byte each.
const PIECES_PER_UNIT: usize = 256;
/// Discarded bytes that cost one unit.
const DISCARDED_PER_UNIT: usize = 64 * 1024;
/// Bytes of a body over the limit that are read and discarded, so that its sender reads the reply before the
/// connection closes.
const MAX_DISCARDED_BYTES: usize = 32 * 1024 * 1024;
/// Longest time from the request's head to the end of its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body and its encoding.
#[derive(Default)]
pub struct RequestBody {
    /// Whether it is a form (`application/x-www-form-urlencoded`); JSON otherwise.
    pub is_form: bool,
    pub bytes: Bytes,
}

/// Limits the large bodies that are read at once on all connections of a socket, and those of each uid.
pub struct BodyBudget(UidQuota);

impl Default for BodyBudget {
    fn default() -> Self {
        BodyBudget(UidQuota::new(MAX_LARGE_BODIES, MAX_LARGE_BODIES_PER_UID))
    }
}

impl BodyBudget {
    /// Reads a body to its end; a body that the route ignores is not read and counts as empty.
    ///
    /// # Errors
    /// The reply: 400, 408, 413, 415 or 503.
    pub async fn read(
        &self,
        client: &ClientConnection,
        request: Request<Incoming>,
        body: Body,
    ) -> Result<RequestBody, Reply> {
        let Body::UpTo(max_size) = body else {
            client.mark_request_received();
            return Ok(RequestBody::default());
        };
        let Some(is_form) = is_form(request.headers()) else {
            let description = "the body must be application/json or application/x-www-form-urlencoded";
            return Err(reply::error_and_close(StatusCode::UNSUPPORTED_MEDIA_TYPE, description));
        };
        let collected =
            tokio::time::timeout(BODY_TIMEOUT, self.collect(client, request.into_body(), max_size));
        let bytes = match collected.await {
            Ok(result) => result.map_err(|error| error.reply(max_size))?,
            Err(_) => {
                let description = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                return Err(reply::error_and_close(StatusCode::REQUEST_TIMEOUT, &description));
            }
        };
        client.mark_request_received();
        // curl -d sends the content type of a form for JSON too. A form of this API never begins with a
        // brace.
        let is_form = is_form && bytes.trim_ascii_start().first() != Some(&b'{');
        Ok(RequestBody { is_form, bytes })
    }

    async fn collect(
        &self,
        client: &ClientConnection,
        mut body: Incoming,
        max_size: usize,
    ) -> Result<Bytes, BodyError> {
        let mut bytes = BytesMut::new();
        let (mut discarded, mut charged, mut pieces) = (0, 0, 0);
        let mut permit = None;
        while let Some(frame) = body.frame().await {
            pieces += 1;
            if pieces % PIECES_PER_UNIT == 0 {
                client.mark_waiting_for_bytes();
                client.throttle(Cost::Unit).await;
            }
            let Ok(data) = frame.map_err(|_| BodyError::Malformed)?.into_data() else { continue };
            if discarded == 0 && bytes.len() + data.len() <= max_size {
                if permit.is_none() && bytes.len() + data.len() > SMALL_BODY_SIZE {
                    permit = Some(self.0.acquire(client.uid()).ok_or(BodyError::Busy)?);
                }
                bytes.extend_from_slice(&data);
                continue;
            }
            discarded += bytes.len() + data.len();
            bytes.clear();
            if discarded > MAX_DISCARDED_BYTES {
                break;
            }
            while discarded - charged >= DISCARDED_PER_UNIT {
                charged += DISCARDED_PER_UNIT;
                client.mark_waiting_for_bytes();
                client.throttle(Cost::Unit).await;
            }
        }
        if discarded > 0 { Err(BodyError::TooLarge) } else { Ok(bytes.freeze()) }
    }
}

/// Why a body was not read to its end.
enum BodyError {
    Malformed,
    Busy,
    TooLarge,
}

impl BodyError {
    fn reply(&self, max_size: usize) -> Reply {
        match self {
            BodyError::Malformed => reply::error_and_close(
                StatusCode::BAD_REQUEST,
                "the body ended early or its chunks are malformed",
            ),
            BodyError::Busy => {
                reply::unavailable_and_close("too many large bodies arrive at once; try again in a moment")
            }
            BodyError::TooLarge => {
                let description = format!("a body must have at most {} KiB", max_size / 1024);
                reply::error_and_close(StatusCode::PAYLOAD_TOO_LARGE, &description)
            }
        }
    }
}

/// Whether the content type is a form (also where it is absent) or JSON; `None` for another one.
fn is_form(headers: &HeaderMap) -> Option<bool> {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let media_type = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    if media_type.is_empty() || media_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
        return Some(true);
    }
    media_type.eq_ignore_ascii_case(b"application/json").then_some(false)
}
