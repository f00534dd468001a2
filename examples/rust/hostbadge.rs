//! A client of hostbadge in one file: tokens that are renewed before they expire, proofs, and whoami.
//!
//! ```text
//! let client = Client::new(None, None);
//! let headers = client.headers("https://api.example.com", None, "GET", "https://api.example.com/v1/items")?;
//! ```
//!
//! It needs the standard library and `serde_json`. The daemon identifies this process; there is no secret to configure.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

const DEFAULT_SOCKET: &str = "/run/hostbadge/agent.sock";
/// Longer than the daemon's own.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes.
const MAX_RESPONSE: u64 = 4 << 20;

/// A client, which several threads can share.
pub struct Client {
    socket: PathBuf,
    agent: Option<String>,
    tokens: Mutex<HashMap<Asked, (Token, Instant)>>,
}

/// The audience and scope of a token.
type Asked = (String, Option<String>);

/// A token response (RFC 6749 section 5.1). It has no `Debug`, which would show the token.
#[derive(Clone)]
pub struct Token {
    /// For the header `Authorization`.
    pub access_token: String,
    /// `Bearer`, or `DPoP` where the token is bound to a key.
    pub token_type: String,
    /// Its scopes, separated by spaces.
    pub scope: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// The daemon refused.
    Refused {
        /// The status of HTTP.
        status: u16,
        /// The code of RFC 6749, such as `invalid_target`.
        code: String,
        /// The reason.
        description: String,
    },
    /// The daemon cannot be reached, or it did not answer in time.
    Io(io::Error),
    /// The answer is not the daemon's.
    Malformed,
}

impl Client {
    /// A client of a socket; `None` for `$HOSTBADGE_SOCKET` or the default. `agent` is needed where this process
    /// matches several agents.
    pub fn new(socket: Option<PathBuf>, agent: Option<String>) -> Client {
        let socket = socket.or_else(|| std::env::var_os("HOSTBADGE_SOCKET").map(PathBuf::from));
        Client { socket: socket.unwrap_or_else(|| DEFAULT_SOCKET.into()), agent, tokens: Mutex::default() }
    }

    /// This process, as the daemon identifies it.
    pub fn whoami(&self) -> Result<Value, Error> {
        self.call("GET", "/v1/whoami", None)
    }

    /// A token for an audience, from the cache for half of its lifetime. Without `scope` it has all of the grant.
    pub fn token(&self, audience: &str, scope: Option<&str>) -> Result<Token, Error> {
        let key = (audience.to_owned(), scope.map(str::to_owned));
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, renew_at)) = tokens.get(&key)
            && Instant::now() < *renew_at
        {
            return Ok(token.clone());
        }
        let answer = self.post("/v1/token", &[("audience", Some(audience)), ("scope", scope)])?;
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let token = Token {
            access_token: text("access_token"),
            token_type: text("token_type"),
            scope: text("scope"),
        };
        let lifetime = Duration::from_secs(answer["expires_in"].as_u64().ok_or(Error::Malformed)?);
        tokens.insert(key, (token.clone(), Instant::now() + lifetime / 2));
        Ok(token)
    }

    /// The headers of a proof for one request. `body_sha256` is the digest of its body in hexadecimal digits.
    pub fn prove(
        &self,
        kind: &str,
        (method, url): (&str, &str),
        body_sha256: Option<&str>,
        token: Option<&str>,
        nonce: Option<&str>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let request = [
            ("kind", Some(kind)),
            ("method", Some(method)),
            ("url", Some(url)),
            ("body_sha256", body_sha256),
            ("token", token),
            ("nonce", nonce),
        ];
        let answer = self.post("/v1/prove", &request)?;
        serde_json::from_value(answer["headers"].clone()).map_err(|_| Error::Malformed)
    }

    /// `Authorization` for a request, and the DPoP proof where the token is bound to a key.
    pub fn headers(
        &self,
        audience: &str,
        scope: Option<&str>,
        method: &str,
        url: &str,
    ) -> Result<BTreeMap<String, String>, Error> {
        let token = self.token(audience, scope)?;
        let mut headers = match token.token_type.as_str() {
            "DPoP" => self.prove("dpop", (method, url), None, Some(&token.access_token), None)?,
            _ => BTreeMap::new(),
        };
        headers.insert("Authorization".to_owned(), format!("{} {}", token.token_type, token.access_token));
        Ok(headers)
    }

    fn post(&self, path: &str, members: &[(&str, Option<&str>)]) -> Result<Value, Error> {
        let agent = ("agent", self.agent.as_deref());
        let present = members.iter().chain([&agent]).filter_map(|(name, value)| Some((*name, (*value)?)));
        let request: Map<String, Value> =
            present.map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        self.call("POST", path, Some(&Value::Object(request)))
    }

    fn call(&self, method: &str, path: &str, request: Option<&Value>) -> Result<Value, Error> {
        let body = request.map(Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
        let mut text = Vec::new();
        stream.take(MAX_RESPONSE).read_to_end(&mut text)?;
        let text = String::from_utf8(text).map_err(|_| Error::Malformed)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(Error::Malformed)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(Error::Malformed)?;
        let answer: Value = serde_json::from_str(body).map_err(|_| Error::Malformed)?;
        if status == 200 {
            return Ok(answer);
        }
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Err(Error::Refused { status, code: text("error"), description: text("error_description") })
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused { code, description, .. } => write!(f, "{code}: {description}"),
            Error::Io(error) => write!(f, "hostbadge does not answer: {error}"),
            Error::Malformed => f.write_str("the answer is not one of hostbadge"),
        }
    }
}

impl StdError for Error {}
