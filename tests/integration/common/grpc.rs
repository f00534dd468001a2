//! A client of the SPIFFE Workload API with any headers and messages. The messages are declared here from the
//! specification and not from the server's .proto, so that a wrong field number fails the tests.

use std::path::Path;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// How long an expected message may take on a busy machine.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a stream is watched for a message that must not come.
pub const QUIET_PERIOD: Duration = Duration::from_secs(2);
/// The metadata that every call needs.
pub const HEADER: (&str, &str) = ("workload.spiffe.io", "true");
pub const METHODS: [&str; 7] = [
    "FetchX509SVID",
    "FetchX509Bundles",
    "FetchJWTSVID",
    "FetchJWTBundles",
    "ValidateJWTSVID",
    "FetchWITSVID",
    "FetchWITBundles",
];

pub const INVALID_ARGUMENT: u32 = 3;
pub const PERMISSION_DENIED: u32 = 7;
pub const UNIMPLEMENTED: u32 = 12;
pub const UNAVAILABLE: u32 = 14;

#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub struct JwtRequest {
    #[prost(string, repeated, tag = "1")]
    pub audience: Vec<String>,
    #[prost(string, tag = "2")]
    pub spiffe_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct JwtResponse {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<JwtSvid>,
}

#[derive(Clone, PartialEq, Message)]
pub struct JwtSvid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(string, tag = "2")]
    pub svid: String,
    #[prost(string, tag = "3")]
    pub hint: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Bundles {
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub bundles: std::collections::BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct X509Response {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    #[prost(bytes, repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub federated_bundles: std::collections::BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct X509Svid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(bytes, tag = "2")]
    pub x509_svid: Vec<u8>,
    #[prost(bytes, tag = "3")]
    pub x509_svid_key: Vec<u8>,
    #[prost(bytes, tag = "4")]
    pub bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub hint: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct X509Bundles {
    #[prost(bytes, repeated, tag = "1")]
    pub crl: Vec<Vec<u8>>,
    #[prost(btree_map = "string, bytes", tag = "2")]
    pub bundles: std::collections::BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WitRequest {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct WitResponse {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<WitSvid>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WitSvid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(string, tag = "2")]
    pub wit_svid: String,
    #[prost(string, tag = "3")]
    pub wit_svid_key: String,
    #[prost(string, tag = "4")]
    pub hint: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct WitBundles {
    #[prost(btree_map = "string, string", tag = "1")]
    pub bundles: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Validate {
    #[prost(string, tag = "1")]
    pub audience: String,
    #[prost(string, tag = "2")]
    pub svid: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Validated {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(message, optional, tag = "2")]
    pub claims: Option<prost_types::Struct>,
}

/// The status of a call: `grpc-status` and `grpc-message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    fn from_headers(headers: &HeaderMap) -> Option<Status> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let message = text("grpc-message").unwrap_or_default().replace("%20", " ").replace("%22", "\"");
        Some(Status { code: text("grpc-status")?.parse().ok()?, message })
    }

    fn transport_error(what: impl ToString) -> Status {
        Status { code: u32::MAX, message: what.to_string() }
    }
}

/// One connection and its runtime.
pub struct Grpc {
    pub runtime: Runtime,
    sender: http2::SendRequest<Full<Bytes>>,
}

/// A call whose response is being read.
pub struct Call {
    body: Incoming,
    /// The status of a response that has no message, from its headers.
    early: Option<Status>,
    read: BytesMut,
}

impl Grpc {
    #[track_caller]
    pub fn connect(socket: &Path) -> Grpc {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await.unwrap();
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender
        });
        Grpc { runtime, sender }
    }

    /// Starts a call of `path` with `headers` and one message.
    pub fn start<Q: Message>(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        message: &Q,
    ) -> Result<Call, Status> {
        let mut frame = vec![0; 5];
        message.encode(&mut frame).unwrap();
        let length = (frame.len() - 5) as u32;
        frame[1..5].copy_from_slice(&length.to_be_bytes());
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(Bytes::from(frame))).unwrap();
        let mut sender = self.sender.clone();
        let answer: Response<Incoming> = self.runtime.block_on(async {
            let answer = tokio::time::timeout(Duration::from_secs(30), sender.send_request(request)).await;
            answer.map_err(Status::transport_error)?.map_err(Status::transport_error)
        })?;
        assert_eq!(answer.status(), 200);
        let (head, body) = answer.into_parts();
        Ok(Call { body, early: Status::from_headers(&head.headers), read: BytesMut::new() })
    }

    /// Calls a method of the Workload API that returns one message.
    pub fn unary<Q: Message, A: Message + Default + std::fmt::Debug>(
        &self,
        method: &str,
        message: &Q,
    ) -> Result<A, Status> {
        let mut call = self.stream(method, message)?;
        let answer = self.next(&mut call, Duration::from_secs(30)).expect("an answer")?;
        match self.next::<A>(&mut call, Duration::from_secs(30)).expect("an end") {
            Err(Status { code: 0, .. }) => Ok(answer),
            other => panic!("after the message: {other:?}"),
        }
    }

    pub fn stream<Q: Message>(&self, method: &str, message: &Q) -> Result<Call, Status> {
        self.start(&format!("/SpiffeWorkloadAPI/{method}"), &[HEADER], message)
    }

    /// The next message, or the status at the end; `None` if neither arrives within the time.
    pub fn next<A: Message + Default>(&self, call: &mut Call, within: Duration) -> Option<Result<A, Status>> {
        let read = async {
            loop {
                if let Some(status) = call.early.take() {
                    return Err(status);
                }
                if call.read.len() >= 5 {
                    let length = u32::from_be_bytes([call.read[1], call.read[2], call.read[3], call.read[4]]);
                    if call.read.len() >= 5 + length as usize {
                        call.read.advance(5);
                        return Ok(A::decode(call.read.split_to(length as usize)).unwrap());
                    }
                }
                let frame = match call.body.frame().await {
                    Some(Ok(frame)) => frame,
                    Some(Err(e)) => return Err(Status::transport_error(e)),
                    None => return Err(Status::transport_error("no trailers")),
                };
                match frame.into_data() {
                    Ok(data) => call.read.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap();
                        return Err(Status::from_headers(&trailers)
                            .unwrap_or_else(|| Status::transport_error("no status")));
                    }
                }
            }
        };
        self.runtime.block_on(async { tokio::time::timeout(within, read).await.ok() })
    }

    // === the methods ===

    pub fn jwt(&self, audiences: &[&str], spiffe_id: &str) -> Result<Vec<JwtSvid>, Status> {
        let audience = audiences.iter().map(|audience| audience.to_string()).collect();
        let request = JwtRequest { audience, spiffe_id: spiffe_id.into() };
        self.unary::<_, JwtResponse>("FetchJWTSVID", &request).map(|answer| answer.svids)
    }

    pub fn validate(&self, audience: &str, svid: &str) -> Result<Validated, Status> {
        self.unary("ValidateJWTSVID", &Validate { audience: audience.into(), svid: svid.into() })
    }

    /// The first message of FetchJWTBundles.
    pub fn bundles(&self) -> Result<Bundles, Status> {
        let mut call = self.stream("FetchJWTBundles", &Empty {})?;
        self.next(&mut call, Duration::from_secs(30)).expect("the first message")
    }
}
