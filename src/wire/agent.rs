//! The agent socket: tokens, certificates, introspection, evidence, `whoami` and health.
//!
//! Types that hold a token or a private key have no `Debug`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::boundary::Boundary;
use super::host::{Health, Posture, TpmKind};
use crate::clock::Timestamp;

/// `POST /v1/token`, as JSON or as a form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenRequest<'a> {
    /// The relying party that the token is for, exactly as the agent's grant names it. This or `resource` is
    /// required.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Cow<'a, str>>,
    /// Another name for `audience` (RFC 8707). Where both are given they must be equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<Cow<'a, str>>,
    /// Scopes, separated by spaces (RFC 6749 section 3.3); all scopes of the grant if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Cow<'a, str>>,
    /// Requested lifetime. It can shorten the grant's lifetime, which is also the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl<'a>>,
    /// The agent to act as; required where the caller matches several agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Cow<'a, str>>,
    /// What the token is to be bound to, where the grant does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<Bind>,
    /// With `bind` of `mtls`: the agent's certificate in PEM, alone or with its chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Cow<'a, str>>,
    /// `client_credentials`, or absent (RFC 6749 section 4.4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_type: Option<Cow<'a, str>>,
    /// Accepted and ignored (RFC 6749 section 2.3.1): the daemon identifies the calling process.
    #[serde(default, skip_serializing)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub client_id: Option<IgnoredAny>,
    /// Accepted and ignored, as `client_id` is.
    #[serde(default, skip_serializing)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub client_secret: Option<IgnoredAny>,
}

/// What a token is bound to (RFC 7800).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Bind {
    /// Nothing.
    None,
    /// The proof key of the agent's invocation (RFC 9449).
    Dpop,
    /// A certificate of the agent (RFC 8705).
    Mtls,
}

/// A lifetime of at least one second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "ttl must be a number of seconds or a duration like \"5m\"")]
pub enum Ttl<'a> {
    /// Whole seconds.
    Seconds(u64),
    /// A number with a unit, as in `90s`, `5m`, `1h`; without one, seconds.
    Text(#[serde(borrow)] Cow<'a, str>),
}

/// `200` of `POST /v1/token` (RFC 6749 section 5.1).
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TokenResponse<'a> {
    /// A JWS of type `at+jwt` (RFC 9068), or `JWT` where the grant says so.
    pub access_token: Cow<'a, str>,
    /// `Bearer`, or `DPoP` where the token is bound to the proof key.
    pub token_type: Cow<'a, str>,
    /// How long the token can be used from now on, in seconds: at most 3590.
    pub expires_in: u64,
    /// Scopes in alphabetical order, separated by spaces; may be empty.
    pub scope: Cow<'a, str>,
}

/// `POST /v1/certificate`, as JSON, as a form, or with an empty body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CertificateRequest<'a> {
    /// A PKCS#10 request (RFC 2986), PEM or DER in base64. Only its public key is used. If absent, the daemon
    /// generates a P-256 key.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub csr: Option<Cow<'a, str>>,
    /// Requested lifetime. It can shorten the host's `certificates.ttl`, which is also the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl<'a>>,
    /// The agent to act as; required where the caller matches several agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Cow<'a, str>>,
}

/// `200` of `POST /v1/certificate`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CertificateResponse {
    /// PEM, the leaf first, without the root.
    pub certificate_chain: String,
    /// PEM of a PKCS#8 key (RFC 5958); absent where the request had a `csr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub private_key: Option<Zeroizing<String>>,
    /// End of the certificate's validity.
    pub expires_at: Timestamp,
}

/// `POST /v1/introspect` (RFC 7662 section 2.1), as JSON or as a form.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct IntrospectionRequest {
    /// An access token of this host; with `proof` and without `method`, also a WIT.
    pub token: String,
    /// The requester's own audience. A token for another audience is then inactive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Whether this request uses the token up: of all such requests on this host, the first finds it active, and no
    /// other one does. Requests without it do not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
    /// The DPoP proof (RFC 9449) or, without `method`, the WPT that came with the token, which is verified and counts
    /// once. A token that is bound to another key, or with a DPoP proof to none, is then inactive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// With a DPoP proof: the method of the request that it came with. A WPT does not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// With `proof`: the absolute URL of that request, by the service's own configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// With a WPT beside an access token: the WIT of the request. It has to be of the same agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wit: Option<String>,
    /// The client certificate of the connection on which the token came, in PEM. A token that is bound to another
    /// certificate, or to none, is then inactive (RFC 8705).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Accepted and ignored (RFC 7662 section 2.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type_hint: Option<String>,
    /// Accepted and ignored (RFC 6749 section 2.3.1): the daemon identifies the calling process.
    #[serde(default, skip_serializing)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub client_id: Option<IgnoredAny>,
    /// Accepted and ignored, as `client_id` is.
    #[serde(default, skip_serializing)]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub client_secret: Option<IgnoredAny>,
}

/// `200` of `POST /v1/introspect` (RFC 7662 section 2.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct IntrospectionResponse {
    /// Whether the token is valid now. The other members are present only if it is.
    pub active: bool,
    /// `Bearer`, or `DPoP` where the token is bound to a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_type: Option<Cow<'static, str>>,
    /// The token's claims.
    #[serde(flatten)]
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// `200` of `POST /v1/nonce`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NonceResponse {
    /// 64 bytes in base64url without padding.
    pub nonce: String,
    /// How long it can be used, in seconds.
    pub expires_in: u64,
}

/// `POST /v1/nonce/use`, as JSON or as a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UseNonceRequest {
    /// The nonce that came back, as `POST /v1/nonce` returned it.
    pub nonce: String,
}

/// `200` of `POST /v1/nonce/use`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UseNonceResponse {
    /// Whether this host made the nonce for the caller at most 5 minutes ago, and this is its first use.
    pub valid: bool,
}

/// `POST /v1/prove`, as JSON or as a form.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProveRequest<'a> {
    /// The kind of proof.
    pub kind: ProofKind,
    /// The method of the HTTP request that the proof is for; required unless it is for an authorization server.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'a, str>>,
    /// Its absolute URL, as for `method`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Cow<'a, str>>,
    /// SHA-256 of its body: 64 hexadecimal digits, or 32 bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_sha256: Option<Cow<'a, str>>,
    /// The nonce or challenge of the server, where it gave one: at most 512 visible ASCII characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Cow<'a, str>>,
    /// The request's `Content-Type`, which `http-signature` and `sigv4` sign: at most 256 visible ASCII characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<Cow<'a, str>>,
    /// With `sigv4`: the credential; absent for the first of the agent that signs this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Cow<'a, str>>,
    /// The access token that the request has. The proof is for it, and made by the key to which it is bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Cow<'a, str>>,
    /// With `client-assertion` and `client-attestation`: the issuer of the authorization server, as the agent's grant names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<Cow<'a, str>>,
    /// The agent to act as; required where the caller matches several agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Cow<'a, str>>,
}

/// The kind of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProofKind {
    /// A DPoP proof (RFC 9449).
    Dpop,
    /// A Workload Proof Token, with its Workload Identity Token.
    Wpt,
    /// An HTTP message signature (RFC 9421), with its Workload Identity Token.
    HttpSignature,
    /// An assertion for an authorization server (RFC 7523).
    ClientAssertion,
    /// An attestation for an authorization server, with a proof of the proof key.
    ClientAttestation,
    /// A signature by a sealed access key (AWS Signature Version 4).
    Sigv4,
}

/// `200` of `POST /v1/prove`.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProveResponse {
    /// Headers of the request, by name; absent for a client assertion.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Parameters of a token request in its form encoding (RFC 7523 section 2.2); absent for other proofs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// Thumbprint of the key that made the proof (RFC 7638); absent where the issuing key or a credential did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jkt: Option<String>,
    /// How long the proof can be used, in seconds: at most 60, and with `sigv4` 300, which the service decides.
    pub expires_in: u64,
}

/// `POST /v1/attest`, as JSON or as a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AttestRequest {
    /// The verifier's challenge: 8 to 64 bytes in base64url without padding.
    pub nonce: String,
    /// The form of the response.
    #[serde(default)]
    pub format: EvidenceFormat,
}

/// The form in which evidence is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum EvidenceFormat {
    /// The document of [`crate::verify::evidence::Evidence`].
    #[default]
    Evidence,
    /// [`EatResponse`].
    Eat,
}

/// `200` of `POST /v1/attest` with the format `eat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EatResponse {
    /// An Entity Attestation Token (RFC 9711): a JWS of the host key around the evidence.
    pub eat: String,
}

/// `200` of `GET /v1/whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WhoamiResponse {
    /// The caller's agent; `null` where it matches several, so that each request has to name one.
    pub agent: Option<String>,
    /// SPIFFE ID of `agent`; `null` where that is, or while the host's identity is not loaded.
    pub spiffe_id: Option<String>,
    /// Every agent that the caller matches, in alphabetical order.
    pub agents: Vec<String>,
    /// Of a sub-agent: what it was delegated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<WhoamiDelegation>,
    /// The calling process.
    pub peer: Peer,
    /// This host.
    pub host: WhoamiHost,
}

/// A delegation, as `GET /v1/whoami` and the comparisons of processes report it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WhoamiDelegation {
    /// The agent that delegated.
    pub parent: String,
    /// The cgroup whose processes are the sub-agent.
    pub cgroup: String,
    /// `kernel` if only root can move them into other cgroups, else `cooperative`.
    pub boundary: Boundary,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// The host, as `GET /v1/whoami` reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WhoamiHost {
    /// The host's id, 26 characters; `null` while the TPM has not been read.
    pub id: Option<String>,
    /// `null` while the TPM has not been read.
    pub tpm: Option<TpmKind>,
    /// The host's posture at this request.
    pub posture: Posture,
}

/// A process as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Peer {
    /// Process id in the host's pid namespace.
    pub pid: i32,
    /// Effective user id when the process connected.
    pub uid: u32,
    /// Effective group id when the process connected.
    pub gid: u32,
    /// systemd unit, such as `researcher.service`.
    pub unit: Option<String>,
    /// Invocation id, 32 hexadecimal digits: of the system unit, else of the cgroup or session.
    pub invocation: Option<String>,
    /// Unit in the service manager of the process's own user; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_unit: Option<String>,
    /// Id of the login session of the process's own user; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Id of the container, 64 hexadecimal digits; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Path of the executable as the kernel shows it; `null` where the daemon may not read it.
    pub exe: Option<String>,
    /// SHA-256 of the executable in hexadecimal; `null` where it is not known, or not yet.
    pub exe_sha256: Option<String>,
    /// Whether the kernel pinned the process to the connection (SO_PEERPIDFD, Linux 6.5).
    pub pinned: bool,
}

/// `200` of `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HealthResponse {
    /// Whether the daemon does everything that it is configured to do.
    pub status: Health,
    /// State of the TPM: `starting`, `ready`, `busy`, `reset`, `lockout`, `owner-auth`, `cleared`, `replaced`
    /// or `absent`.
    pub tpm: String,
    /// The host's posture at this request.
    pub posture: Posture,
}

/// `200` of `GET /v1/status-lists` (Token Status List, section 9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusListsResponse {
    /// The URIs of all status lists of the issuer.
    pub status_lists: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn introspection_response_flattens_claims() {
        let inactive = IntrospectionResponse { active: false, token_type: None, claims: Default::default() };
        assert_eq!(serde_json::to_string(&inactive).unwrap(), r#"{"active":false}"#);
        let text = r#"{"active":true,"token_type":"Bearer","sub":"spiffe://a/b"}"#;
        let active: IntrospectionResponse = serde_json::from_str(text).unwrap();
        assert_eq!(active.claims["sub"], "spiffe://a/b");
        assert_eq!(serde_json::to_string(&active).unwrap(), text);
    }

    #[test]
    fn absent_members_are_not_written() {
        let request = TokenRequest {
            audience: Some("https://x".into()),
            ttl: Some(Ttl::Seconds(60)),
            ..TokenRequest::default()
        };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"audience":"https://x","ttl":60}"#);
        assert_eq!(serde_json::to_string(&CertificateRequest::default()).unwrap(), "{}");
    }
}
