//! Enrollment: how an operator who trusts TPM makers comes to vouch for a host, by four files and no server.
//!
//! ```text
//! host                       operator
//! request ──────────────────> challenge (and a secret that stays)
//! activate <────────────────── challenge
//! answer ───────────────────> certify
//! install <─────────────────── certificate
//! ```
//!
//! A request says which keys the host has: its endorsement keys with their makers' certificates, the attestation key
//! (AK), the host key that the AK certifies, and a quote over it all. A TPM's maker vouches for an endorsement key, which
//! signs nothing; so the challenge holds a secret for each, which a TPM gives out only if it has both that key and an AK
//! of that Name. Whoever answers with all of them has EKs and AK in one TPM, and the AK's word for the host key counts.
//!
//! Nothing here touches a TPM or a daemon: the operator's steps are made of this room alone.

mod certificate;
mod challenge;
mod credential;
mod organization_ca;
mod request;

pub use certificate::{CertificateTemplate, build_csr, csr_info, host_ca_name, pem};
pub use challenge::{
    ChallengeAnswer, ChallengeSecret, EncryptedCredential, EnrollmentChallenge, OperatorReview, answer_proof,
    is_challenge_secret,
};
pub use credential::{MAX_CREDENTIAL_SECRET_LEN, Tpm2ToolsCredential, make_credential};
pub use organization_ca::OrganizationCa;
pub use request::{EnrollmentRequest, VerifiedRequest};

use serde::de::DeserializeOwned;

/// The version of each of the four files.
pub const ENROLLMENT_VERSION: u64 = 1;
/// Answers, challenges and secrets stay far below this; requests hold boot logs and have a bound of their own.
pub const MAX_SMALL_FILE_SIZE: usize = 32 * 1024;

/// Why a step of enrollment is refused. The texts go to operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the CA's key: {0}")]
    OrganizationCa(String),
    #[error("the answer does not hold: {0}")]
    Answer(String),
    #[error("the challenge: {0}")]
    Challenge(String),
    #[error("the credential: {0}")]
    Credential(String),
    #[error("this is no {what}: {why}")]
    File { what: &'static str, why: String },
    #[error("the system gives no random numbers")]
    Random,
    #[error("the request does not hold: {0}")]
    Request(String),
    #[error("this challenge was answered and certified already; a challenge is good for one certificate")]
    ChallengeUsed,
}

/// Reads one of the files: bounded, of a version that is known, with no member too many.
fn parse_document<T: DeserializeOwned>(what: &'static str, text: &[u8], max_len: usize) -> Result<T, Error> {
    let fault = |why: String| Error::File { what, why };
    if text.len() > max_len {
        return Err(fault(format!("it is larger than {max_len} bytes")));
    }
    #[derive(serde::Deserialize)]
    struct DocumentVersion {
        version: u64,
    }
    let DocumentVersion { version } = serde_json::from_slice(text).map_err(|e| fault(e.to_string()))?;
    if version != ENROLLMENT_VERSION {
        return Err(fault(format!(
            "it is of format {version}; this program reads format {ENROLLMENT_VERSION}"
        )));
    }
    serde_json::from_slice(text).map_err(|e| fault(e.to_string()))
}
