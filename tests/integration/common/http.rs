//! An HTTP/1.1 client that sends any bytes and reads the responses.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

/// One connection, which stays open between requests.
pub struct Connection {
    pub stream: UnixStream,
    read: Vec<u8>,
}

/// One response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Connection {
    #[track_caller]
    pub fn open(socket: &Path) -> Connection {
        match UnixStream::connect(socket) {
            Ok(stream) => Connection::new(stream),
            Err(e) => panic!("{}: {e}", socket.display()),
        }
    }

    pub fn new(stream: UnixStream) -> Connection {
        // A test fails instead of hanging when the daemon sends nothing.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        Connection { stream, read: Vec::new() }
    }

    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.exchange(&request("GET", target, None, b""))
    }

    #[track_caller]
    pub fn post(&mut self, target: &str, body: &Value) -> Response {
        self.exchange(&request("POST", target, Some("application/json"), body.to_string().as_bytes()))
    }

    #[track_caller]
    pub fn form(&mut self, target: &str, body: &str) -> Response {
        self.exchange(&request("POST", target, Some("application/x-www-form-urlencoded"), body.as_bytes()))
    }

    /// Sends bytes and reads one response.
    #[track_caller]
    pub fn exchange(&mut self, bytes: &[u8]) -> Response {
        self.send(bytes).expect("the request can be sent");
        self.read_response().expect("a response")
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next response; `None` if the daemon has closed the connection.
    #[track_caller]
    pub fn read_response(&mut self) -> Option<Response> {
        self.read(false)
    }

    /// The response to a HEAD request, which has no body whatever its Content-Length is.
    pub fn read_head_response(&mut self) -> Option<Response> {
        self.read(true)
    }

    #[track_caller]
    fn read(&mut self, head: bool) -> Option<Response> {
        loop {
            if let Some((response, length)) = Response::parse(&self.read, head) {
                self.read.drain(..length);
                return Some(response);
            }
            let mut more = [0; 16 * 1024];
            match self.stream.read(&mut more) {
                Ok(0) => return None,
                Ok(length) => self.read.extend_from_slice(&more[..length]),
                // A stopped and continued process.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(e) => {
                    panic!("no response: {e}; so far {:?}", String::from_utf8_lossy(&self.read))
                }
            }
        }
    }
}

/// A well-formed request.
pub fn request(method: &str, target: &str, kind: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    if let Some(kind) = kind {
        text += &format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    }
    let mut bytes = (text + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

impl Response {
    /// The first response in `bytes` and its length; `None` if it is incomplete.
    pub fn parse(bytes: &[u8], head: bool) -> Option<(Response, usize)> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = std::str::from_utf8(&bytes[..end]).expect("a response head is ASCII");
        let mut lines = text.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length =
            headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
        let total = end + if head { 0 } else { length };
        let body = bytes.get(end..total)?.to_vec();
        Some((Response { status, headers, body }, total))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {} {:?}", self.status, self.text()))
    }

    /// The `error` of an error response. Panics unless it has a description and is not cacheable.
    #[track_caller]
    pub fn error(&self) -> String {
        let body = self.json();
        let described = body["error_description"].as_str().is_some_and(|text| !text.is_empty());
        assert!(described && self.header("cache-control") == Some("no-store"), "{self:?}");
        body["error"].as_str().unwrap().to_owned()
    }
}

/// A part of a compact JWS: 0 for the header, 1 for the claims.
#[track_caller]
pub fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).expect("three parts");
    serde_json::from_slice(&BASE64URL_NOPAD.decode(part.as_bytes()).unwrap()).unwrap()
}

pub fn claims(token: &str) -> Value {
    part(token, 1)
}

pub fn jti(token: &str) -> String {
    claims(token)["jti"].as_str().unwrap().to_owned()
}

/// The token with one bit of its signature flipped.
pub fn tampered(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
    signature[40] ^= 1;
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}
