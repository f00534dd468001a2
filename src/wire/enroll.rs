//! Enrollment steps of the admin socket.
//!
//! - `POST /v1/enroll/request` takes no members and returns a [`crate::enroll::EnrollmentRequest`].
//! - `POST /v1/enroll/activate` takes a [`crate::enroll::EnrollmentChallenge`] and returns a
//!   [`crate::enroll::ChallengeAnswer`].
//! - `POST /v1/enroll/credential` and `POST /v1/enroll/install` take the requests below; the latter returns a
//!   [`super::status::HostCertificate`].

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// `POST /v1/enroll/credential`: a file of `tpm2_makecredential` for this host's attestation key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CredentialRequest {
    /// The endorsement key that the credential is for: `ecc` (P-256) or `rsa` (2048 bits).
    pub ek: String,
    /// The file in base64.
    pub credential: String,
}

/// `200` of `POST /v1/enroll/credential`. Without `Debug`, because it holds a secret.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CredentialResponse {
    /// The secret in the credential, in base64.
    #[cfg_attr(test, schemars(with = "String"))]
    pub secret: Zeroizing<String>,
}

/// `POST /v1/enroll/install`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct InstallRequest {
    /// PEM: the host's certificate first, then those that lead to the organization's root, then, where the
    /// organization makes the host a CA, the signing certificate and the root.
    pub certificate: String,
    /// SHA-256 digest of that root's DER, 64 hexadecimal digits. Required where the organization makes the
    /// host a CA, because the root becomes part of the host's trust bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_sha256: Option<String>,
}
