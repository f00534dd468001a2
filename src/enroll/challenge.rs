//! The challenge, the secret that the operator keeps for it, and the answer.

use data_encoding::HEXLOWER;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::credential::{EncryptedCredential, make_credential};
use super::document::{ENROLLMENT_VERSION, MAX_SMALL_FILE_SIZE, parse_document};
use super::error::{AnswerError, DocumentError, Error, RequestError};
use super::request::VerifiedRequest;
use super::signing_chain::certificate_sha256;
use crate::clock::Timestamp;
use crate::verify::ManufacturerRoots;

/// Bytes of the secret for each EK.
const SECRET_LEN: usize = 32;
/// The first bytes of each secret, by which a host tells challenges from other tools' credentials: it never
/// returns a challenge's secret to a caller. The other 224 bits are random.
const SECRET_PREFIX: &[u8; 4] = b"hbc1";

/// Whether the secret of a credential belongs to a challenge.
pub(crate) fn is_challenge_secret(secret: &[u8]) -> bool {
    secret.len() == SECRET_LEN && secret.starts_with(SECRET_PREFIX)
}

/// The file for the host: one credential for each of its EKs, all for its AK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentChallenge {
    /// The format, [`ENROLLMENT_VERSION`].
    pub version: u64,
    /// 128 random bits in hexadecimal.
    pub id: String,
    /// The host's id.
    pub host: String,
    /// The digest of the request, in hexadecimal.
    pub request: String,
    /// The Name of the AK in hexadecimal.
    pub ak: String,
    /// For the P-256 EK.
    pub p256: EncryptedCredential,
    /// For the RSA EK, if the request has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rsa: Option<EncryptedCredential>,
}

/// The file that the operator keeps secret until the certificate is issued.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeSecret {
    /// The format, [`ENROLLMENT_VERSION`].
    pub version: u64,
    /// The challenge's id.
    pub challenge: String,
    /// The digest of the request, in hexadecimal.
    pub request: String,
    /// The concatenated secrets in hexadecimal: P-256, then RSA.
    secrets: String,
    /// What was shown to the operator of the request.
    #[serde(rename = "seen")]
    pub review: OperatorReview,
    /// HMAC-SHA256 of `review` in hexadecimal, keyed with the secrets.
    #[serde(rename = "seal")]
    review_mac: String,
    /// Whether a certificate has been issued.
    pub used: bool,
}

/// What the operator was shown of a request, and which checks the operator asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorReview {
    /// The host's id.
    pub host: String,
    /// The trust domain.
    pub trust_domain: String,
    /// The TPM manufacturer that certified an EK; `None` if the operator did not ask for it.
    pub maker: Option<String>,
    /// SHA-256 in hexadecimal of each EK certificate that leads to a maker's root; `None` if the operator did
    /// not ask.
    pub ek_certificates: Option<Vec<String>>,
}

impl Drop for ChallengeSecret {
    fn drop(&mut self) {
        self.secrets.zeroize();
    }
}

/// The file for the operator: the host's answer to a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeAnswer {
    /// The format, [`ENROLLMENT_VERSION`].
    pub version: u64,
    /// The challenge's id.
    pub challenge: String,
    /// The digest of the request, in hexadecimal.
    pub request: String,
    /// HMAC-SHA256 in hexadecimal over `challenge` and `request`, keyed with the concatenated secrets.
    pub proof: String,
}

impl EnrollmentChallenge {
    /// Makes a challenge for a request, and the secret that belongs to it.
    ///
    /// # Errors
    ///
    /// If an EK is not valid, or the kernel returns no random bytes.
    pub fn generate(
        request: &VerifiedRequest,
        review: OperatorReview,
    ) -> Result<(EnrollmentChallenge, ChallengeSecret), Error> {
        let id = HEXLOWER.encode(&random_bytes::<16>()?[..]);
        let mut secrets = Zeroizing::new(Vec::with_capacity(2 * SECRET_LEN));
        let mut encrypt_secret = |ek| {
            let mut secret = random_bytes::<SECRET_LEN>()?;
            secret[..SECRET_PREFIX.len()].copy_from_slice(SECRET_PREFIX);
            secrets.extend_from_slice(&secret[..]);
            make_credential(ek, &request.ak_name, &secret[..])
        };
        let challenge = EnrollmentChallenge {
            version: ENROLLMENT_VERSION,
            id: id.clone(),
            host: request.host.clone(),
            request: request.digest.clone(),
            ak: HEXLOWER.encode(&request.ak_name),
            p256: encrypt_secret(&request.endorsement_keys.p256.0)?,
            rsa: request.endorsement_keys.rsa.as_ref().map(|(ek, _)| encrypt_secret(ek)).transpose()?,
        };
        let review_mac = HEXLOWER.encode(hmac::sign(&hmac_key(&secrets), &review.mac_input()?).as_ref());
        let secret = ChallengeSecret {
            version: ENROLLMENT_VERSION,
            challenge: id,
            request: challenge.request.clone(),
            secrets: HEXLOWER.encode(&secrets),
            review,
            review_mac,
            used: false,
        };
        Ok((challenge, secret))
    }

    /// Parses a file of at most [`MAX_SMALL_FILE_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// If it is too large, not the JSON of a challenge, or of another format.
    pub fn parse(text: &[u8]) -> Result<EnrollmentChallenge, Error> {
        let document = "enrollment challenge";
        let challenge: EnrollmentChallenge = parse_document(document, text, MAX_SMALL_FILE_SIZE)?;
        let is_hex = |text: &str, len| HEXLOWER.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == len);
        if !(is_hex(&challenge.id, 16) && is_hex(&challenge.request, 32) && is_hex(&challenge.ak, 34)) {
            return Err(Error::File { document, error: DocumentError::Identifiers });
        }
        Ok(challenge)
    }
}

impl ChallengeSecret {
    /// Parses a file of at most [`MAX_SMALL_FILE_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// If it is too large, not the JSON of a challenge's secret, or of another format.
    pub fn parse(text: &[u8]) -> Result<ChallengeSecret, Error> {
        parse_document("secret of a challenge", text, MAX_SMALL_FILE_SIZE)
    }

    /// Checks that only the TPM of this request can have given the answer, and that the secret file is
    /// unchanged.
    ///
    /// # Errors
    ///
    /// [`AnswerError`] with the check that failed.
    pub fn verify_answer(&self, request: &VerifiedRequest, answer: &ChallengeAnswer) -> Result<(), Error> {
        if self.used {
            return Err(AnswerError::ChallengeUsed.into());
        }
        if self.request != request.digest {
            return Err(AnswerError::OtherRequest.into());
        }
        if answer.challenge != self.challenge {
            return Err(AnswerError::OtherChallenge.into());
        }
        if answer.request != self.request {
            return Err(AnswerError::AboutOtherRequest.into());
        }
        let eks = 1 + usize::from(request.endorsement_keys.rsa.is_some());
        let decoded = HEXLOWER.decode(self.secrets.as_bytes()).map(Zeroizing::new);
        let secrets = decoded.ok().filter(|secrets| secrets.len() == eks * SECRET_LEN);
        let key = hmac_key(&secrets.ok_or(AnswerError::SecretChanged)?);
        let given_proof =
            HEXLOWER.decode(answer.proof.as_bytes()).map_err(|_| AnswerError::MalformedProof)?;
        let review_mac = HEXLOWER.decode(self.review_mac.as_bytes()).unwrap_or_default();
        hmac::verify(&key, &self.review.mac_input()?, &review_mac).map_err(|_| AnswerError::SecretChanged)?;
        if (&self.review.host, &self.review.trust_domain) != (&request.host, &request.trust_domain) {
            return Err(AnswerError::OtherHost.into());
        }
        hmac::verify(&key, &answer_mac_input(&self.challenge, &self.request), &given_proof)
            .map_err(|_| AnswerError::WrongProof.into())
    }
}

impl OperatorReview {
    /// The review of a request. With roots, it checks that a TPM manufacturer certified an EK of the host at
    /// that time.
    ///
    /// # Errors
    ///
    /// If no EK certificate leads to one of the roots.
    pub fn new(
        request: &VerifiedRequest,
        maker_roots: Option<(&ManufacturerRoots, Timestamp)>,
    ) -> Result<OperatorReview, Error> {
        let keys = &request.endorsement_keys;
        let certified = maker_roots.map(|(roots, now)| keys.certified_ek(roots, now)).transpose();
        let certified = certified.map_err(RequestError::NotCertified)?;
        let trusted_digests = |(roots, now)| {
            keys.trusted_certificates(roots, now).into_iter().map(certificate_sha256).collect()
        };
        Ok(OperatorReview {
            host: request.host.clone(),
            trust_domain: request.trust_domain.clone(),
            maker: certified.map(|ek| ek.issuer),
            ek_certificates: maker_roots.map(trusted_digests),
        })
    }

    /// Whether the host certificate is to name this EK certificate (DER): if roots were given, only one that
    /// leads to a root.
    pub fn lists_ek_certificate(&self, certificate: &[u8]) -> bool {
        self.ek_certificates.as_ref().is_none_or(|trusted| trusted.contains(&certificate_sha256(certificate)))
    }

    fn mac_input(&self) -> Result<Vec<u8>, Error> {
        let mut text = b"hostbadge enrollment seen 1\0".to_vec();
        serde_json::to_writer(&mut text, self).map_err(Error::Json)?;
        Ok(text)
    }
}

impl ChallengeAnswer {
    /// Parses a file of at most [`MAX_SMALL_FILE_SIZE`] bytes.
    ///
    /// # Errors
    ///
    /// If it is too large, not the JSON of an answer, or of another format.
    pub fn parse(text: &[u8]) -> Result<ChallengeAnswer, Error> {
        parse_document("answer to a challenge", text, MAX_SMALL_FILE_SIZE)
    }
}

/// The proof that all secrets of a challenge were found: HMAC-SHA256 in hexadecimal over the challenge's id
/// and the digest of the request, keyed with the concatenated secrets.
pub(crate) fn answer_proof(secrets: &[u8], challenge: &str, request: &str) -> String {
    HEXLOWER.encode(hmac::sign(&hmac_key(secrets), &answer_mac_input(challenge, request)).as_ref())
}

fn hmac_key(secrets: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secrets)
}

fn answer_mac_input(challenge: &str, request: &str) -> Vec<u8> {
    ["hostbadge enrollment answer 1", challenge, request].join("\0").into_bytes()
}

fn random_bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(&mut bytes[..]).map_err(|_| Error::Random)?;
    Ok(bytes)
}
