use super::challenge::AnswerError;
use super::credential::CredentialError;
use super::organization_ca::OrganizationCaError;
use super::request::RequestError;

/// Why a step of enrollment is refused. The texts go to operators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The organisation's CA cannot sign the certificate.
    #[error(transparent)]
    OrganizationCa(#[from] OrganizationCaError),
    /// The answer does not fit the challenge or the request.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// A credential cannot be created or parsed.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The request does not pass its checks.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A file is not a document of enrollment of this kind.
    #[error("not a valid {document}: {error}")]
    File {
        /// The kind of document.
        document: &'static str,
        /// What is wrong with the file.
        #[source]
        error: DocumentError,
    },
    /// A document cannot be written as JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// A certificate, a CSR or a part of one cannot be encoded.
    #[error("cannot encode a certificate or CSR: {0}")]
    Encode(#[from] der::Error),
    /// A document cannot be written as PEM.
    #[error("cannot write PEM: {0}")]
    Pem(#[from] der::pem::Error),
    /// The kernel returned no random bytes.
    #[error("no random bytes from the kernel")]
    Random,
}

/// Why a file is not a document of enrollment.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Longer than this many bytes.
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    /// Not the JSON of this document.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Of a version that this program does not read.
    #[error("it has format {found}; this program reads format {supported}")]
    UnknownVersion {
        /// The document's version.
        found: u64,
        /// The version that this program reads.
        supported: u64,
    },
    /// An id, digest or Name in it is not hexadecimal of the right length.
    #[error("its id, request or AK does not have the right length")]
    Identifiers,
    /// A credential in it is not base64, or too long.
    #[error("a credential in it is not base64, or too long")]
    Credential,
}
