//! The error types of enrollment.

use rustls_pki_types::pem;

use crate::verify;

/// Why a step of enrollment is refused. The texts go to operators.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The organization's CA cannot sign the certificate.
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

/// Why an organization's CA cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum OrganizationCaError {
    /// The certificate file is not PEM.
    #[error("the CA's certificate: not a PEM file: {0}")]
    CertificatePem(pem::Error),
    /// The certificate file has no certificate.
    #[error("the CA's certificate: there is no certificate in the file")]
    NoCertificate,
    /// The first certificate is malformed.
    #[error("the CA's certificate: {0}")]
    Certificate(#[source] verify::Error),
    /// The first certificate is an end entity's.
    #[error("the CA's certificate: it is not a CA's")]
    NotCa,
    /// The first certificate has a keyUsage without keyCertSign.
    #[error("the CA's certificate: it is not for signing certificates")]
    NotForSigning,
    /// The path length of the certificate does not allow a host that signs.
    #[error(
        "the CA's certificate allows {0} CAs below it, and a host that signs needs two; use another CA, \
         or leave out --signing"
    )]
    PathLength(u8),
    /// The chain does not end with a root.
    #[error(
        "the CA's certificate: there is no root in its file, and the bundle of the host's trust domain needs \
         it; append the root to the file"
    )]
    NoRoot,
    /// The certificate has expired, or a lifetime of 0 days was requested.
    #[error("the CA's certificate: it has expired, or the requested lifetime is 0 days")]
    Expired,
    /// The key file has no unencrypted PEM key.
    #[error("the CA's key: there is no unencrypted PEM key in the file: {0}")]
    KeyPem(pem::Error),
    /// The key's algorithm or size is not supported.
    #[error("the CA's key: it is not P-256, P-384 or RSA of at least 2048 bits")]
    UnsupportedKey,
    /// The key does not belong to the certificate.
    #[error("the CA's key: it is not the one that the CA's certificate is for")]
    OtherKey,
}

/// Why a request does not pass its checks.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A format that this program does not read.
    #[error("the request is invalid: it has format {0}")]
    UnknownVersion(u64),
    /// A check of the evidence failed.
    #[error("the request is invalid: {name}: {detail}")]
    Check {
        /// Which check.
        name: String,
        /// What it found.
        detail: String,
    },
    /// The quote is not over the digest of the request.
    #[error("the request is invalid: nonce: it is not the digest of the request")]
    Nonce,
    /// A key in the evidence cannot be read.
    #[error("the request is invalid: {0}")]
    Evidence(#[source] verify::Error),
    /// The trust domain does not have the form of SPIFFE ID section 2.1.
    #[error(
        "the request is invalid: its trust domain is not a name of 1 to 255 characters of a-z, 0-9, '.', '-' \
         and '_'"
    )]
    TrustDomain,
    /// The CSR is not base64.
    #[error("the request is invalid: CSR: {0}")]
    CsrBase64(#[source] data_encoding::DecodeError),
    /// The CSR is not for the keys and names of the request.
    #[error("the request is invalid: CSR: {0}")]
    Csr(#[source] CsrMismatch),
    /// No EK certificate leads to one of the roots.
    #[error("the request is invalid: no TPM manufacturer certifies an EK of this host: {0}")]
    NotCertified(#[source] verify::Error),
}

/// Why a CSR in an enrollment request is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrMismatch {
    /// Its content is not what the host's keys and names prescribe.
    #[error("its content does not match the keys and names of the request")]
    Content,
    /// Its signature does not verify.
    #[error("the host key did not sign it")]
    Signature,
}

/// Why a credential cannot be created or parsed.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The secret is longer than 32 bytes.
    #[error("the credential: a secret has 32 bytes at most")]
    SecretTooLong,
    /// The P-256 EK's point is not on the curve.
    #[error("the credential: the EK's point is not on its curve")]
    EkPoint,
    /// The RSA EK's modulus is even.
    #[error("the credential: the EK's modulus is even")]
    EkModulus,
    /// The file is longer than any credential.
    #[error("the credential: the file is too long")]
    FileTooLong,
    /// The file does not begin with the magic number of tpm2-tools.
    #[error("the credential: tpm2_makecredential did not write this file")]
    NotTpm2Tools,
    /// The file has another format than 1.
    #[error("the credential: format {0} of tpm2-tools is not supported")]
    UnknownFormat(u32),
    /// The file is truncated or has trailing bytes.
    #[error("the credential: {0}")]
    Malformed(#[source] verify::Error),
}

/// Why an answer does not fit the challenge or the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// A certificate has been issued for this challenge.
    #[error(
        "this challenge was answered and certified already; each challenge allows one certificate, so make a \
         new one: hostbadge enroll challenge"
    )]
    ChallengeUsed,
    /// The secret file belongs to another request.
    #[error("the answer is invalid: the secret is another request's, or the request was changed since")]
    OtherRequest,
    /// The answer names another challenge.
    #[error("the answer is invalid: it answers another challenge")]
    OtherChallenge,
    /// The answer names another request.
    #[error("the answer is invalid: it is about another request")]
    AboutOtherRequest,
    /// The secret file does not have its own MAC, or its secrets are malformed.
    #[error("the answer is invalid: the secret file was changed")]
    SecretChanged,
    /// The secret file has another host or trust domain.
    #[error("the answer is invalid: the secret is for another host or trust domain")]
    OtherHost,
    /// The proof is not hexadecimal.
    #[error("the answer is invalid: its proof is not hexadecimal")]
    MalformedProof,
    /// The proof was not made with the secrets of the challenge.
    #[error("the answer is invalid: its proof is not what the host's TPM would have found in the challenge")]
    WrongProof,
}

/// Why certificates do not let the host key sign certificates of its trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningChainFault {
    /// A certificate is malformed.
    #[error("the certificate that lets this host sign is malformed, or another in the file is: {0}")]
    Certificate(#[source] verify::Error),
    /// It has no key usage (RFC 5280 section 4.2.1.3), or one without cRLSign.
    #[error("the certificate that lets this host sign has no key usage that allows to sign revocation lists")]
    NotForCrls,
    /// The subject alternative name does not have this URI.
    #[error("the certificate that lets this host sign is not for the trust domain of this host, {0}")]
    TrustDomain(String),
    /// The certificates in the file do not lead to a self-signed one.
    #[error("the certificate that lets this host sign does not lead to a root in the same file")]
    NoPathToRoot,
    /// A certificate of the chain is not a CA's, not valid now, or not signed by the next one.
    #[error("the certificate that lets this host sign does not lead to its root: {0}")]
    Unverified(#[source] verify::Error),
}
