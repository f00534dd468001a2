//! Enrollment: an operator verifies which TPM a host has and certifies its host key, by four files and
//! without a server.
//!
//! ```text
//! host                        operator
//! request ──────────────────> challenge (and a secret that stays with the operator)
//! activate <───────────────── challenge
//! answer ───────────────────> certify
//! install <────────────────── certificate
//! ```
//!
//! A request names the host's keys: its endorsement keys (EKs) with their makers' certificates, the
//! attestation key (AK), the host key that the AK certifies, and a quote over all of it. A TPM's maker
//! certifies an EK, which cannot sign. So the challenge holds a secret for each EK, which a TPM releases only
//! if it has both that EK and an AK of that Name (`TPM2_ActivateCredential`). A host that answers with all
//! secrets has EKs and AK in one TPM, and what the AK certifies of the host key is true.
//!
//! Nothing here uses a TPM or a daemon: the operator's steps consist of this module and [`crate::verify`]
//! alone.

mod certificate;
mod challenge;
mod credential;
mod document;
mod error;
mod organization_ca;
mod pem;
mod request;
mod signing_chain;

pub use certificate::CertificateTemplate;
pub(crate) use certificate::{build_csr, csr_info, host_ca_name};
pub use challenge::{ChallengeAnswer, ChallengeSecret, EnrollmentChallenge, OperatorReview};
pub(crate) use challenge::{answer_proof, is_challenge_secret};
pub use credential::{EncryptedCredential, MAX_CREDENTIAL_SECRET_LEN, Tpm2ToolsCredential, make_credential};
pub use document::{ENROLLMENT_VERSION, MAX_SMALL_FILE_SIZE};
pub use error::{
    AnswerError, CredentialError, CsrMismatch, DocumentError, Error, OrganizationCaError, RequestError,
    SigningChainFault,
};
pub use organization_ca::OrganizationCa;
pub use pem::pem;
pub use request::{EnrollmentRequest, VerifiedRequest};
pub use signing_chain::{InstallBundle, SigningChain, certificate_sha256};
