//! The challenge, the secret that the operator keeps for it, and the answer.

use data_encoding::{BASE64, HEXLOWER};
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::credential::{self, make_credential};
use super::request::VerifiedRequest;
use super::{ENROLLMENT_VERSION, Error, MAX_SMALL_FILE_SIZE, parse_document};
use crate::clock::Timestamp;
use crate::verify::Roots;

/// Bytes of the secret for each endorsement key.
const SECRET_LEN: usize = 32;
/// Each begins with this, so that a host tells it from what other tools' credentials hold and gives it out to nobody; the
/// other 224 bits are random.
const SECRET_PREFIX: &[u8; 4] = b"hbc1";

/// Whether a credential held a challenge's secret.
pub fn is_challenge_secret(secret: &[u8]) -> bool {
    secret.len() == SECRET_LEN && secret.starts_with(SECRET_PREFIX)
}

/// For the host. Holds a secret for each of its endorsement keys, all for its AK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentChallenge {
    pub version: u64,
    /// 128 random bits in hexadecimal.
    pub id: String,
    /// The host's id.
    pub host: String,
    /// The request's digest, in hexadecimal.
    pub request: String,
    /// Name of the AK in hexadecimal.
    pub ak: String,
    /// For the P-256 EK.
    pub p256: EncryptedCredential,
    /// For the RSA EK, where the request has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rsa: Option<EncryptedCredential>,
}

/// A credential as `TPM2_ActivateCredential` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptedCredential {
    /// Contents of the TPM2B_ID_OBJECT, base64.
    pub id_object: String,
    /// Contents of the TPM2B_ENCRYPTED_SECRET, base64.
    pub seed: String,
}

/// For the operator alone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeSecret {
    pub version: u64,
    pub challenge: String,
    pub request: String,
    /// The secrets one after the other, in hexadecimal: P-256, then RSA.
    secrets: String,
    /// What the operator was shown of the request.
    pub seen: OperatorReview,
    /// HMAC-SHA256 in hexadecimal over `seen`, by the secrets.
    seal: String,
    /// Whether a certificate was made already.
    pub used: bool,
}

/// What an operator has seen of a request, and asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorReview {
    pub host: String,
    pub trust_domain: String,
    /// The TPM maker that vouches for the host; none where nobody was asked.
    pub maker: Option<String>,
    /// SHA-256 of each EK certificate that leads to a maker's root, in hexadecimal; none where nobody was asked.
    pub ek_certificates: Option<Vec<String>>,
}

impl Drop for ChallengeSecret {
    fn drop(&mut self) {
        self.secrets.zeroize();
    }
}

/// For the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeAnswer {
    pub version: u64,
    pub challenge: String,
    pub request: String,
    /// HMAC-SHA256 in hexadecimal, see [`proof`].
    pub proof: String,
}

impl EnrollmentChallenge {
    /// Makes a challenge for a request, and the secret that belongs to it.
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
        let secrets = HEXLOWER.encode(&secrets);
        let secret = ChallengeSecret {
            version: ENROLLMENT_VERSION,
            challenge: id,
            request: challenge.request.clone(),
            secrets,
            seen: review,
            seal: review_mac,
            used: false,
        };
        Ok((challenge, secret))
    }

    pub fn parse(text: &[u8]) -> Result<EnrollmentChallenge, Error> {
        let challenge: EnrollmentChallenge = parse_document("challenge", text, MAX_SMALL_FILE_SIZE)?;
        let hex = |text: &str, size| HEXLOWER.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == size);
        match hex(&challenge.id, 16) && hex(&challenge.request, 32) && hex(&challenge.ak, 34) {
            true => Ok(challenge),
            false => Err(Error::Challenge("its id, request or AK is not of the right length".into())),
        }
    }
}

impl EncryptedCredential {
    /// Contents of the TPM2B_ID_OBJECT and of the TPM2B_ENCRYPTED_SECRET.
    pub fn decode(&self) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let bytes = |text: &str| match BASE64.decode(text.as_bytes()) {
            Ok(bytes) if bytes.len() <= credential::MAX_CREDENTIAL_PART_LEN => Ok(bytes),
            _ => Err(Error::Challenge("a credential in it is not base64, or too long".into())),
        };
        Ok((bytes(&self.id_object)?, bytes(&self.seed)?))
    }
}

impl ChallengeSecret {
    pub fn parse(text: &[u8]) -> Result<ChallengeSecret, Error> {
        parse_document("secret of a challenge", text, MAX_SMALL_FILE_SIZE)
    }

    /// Whether the answer is what only the TPM of this request can give.
    pub fn verify_answer(&self, request: &VerifiedRequest, answer: &ChallengeAnswer) -> Result<(), Error> {
        let reject = |why: &str| Err(Error::Answer(why.into()));
        if self.used {
            return Err(Error::ChallengeUsed);
        }
        if self.request != request.digest {
            return reject("the secret is another request's, or the request was changed since");
        }
        if answer.challenge != self.challenge {
            return reject("it answers another challenge");
        }
        if answer.request != self.request {
            return reject("it is about another request");
        }
        let keys = 1 + usize::from(request.endorsement_keys.rsa.is_some());
        let decoded = HEXLOWER.decode(self.secrets.as_bytes()).map(Zeroizing::new);
        let Some(secrets) = decoded.ok().filter(|secrets| secrets.len() == keys * SECRET_LEN) else {
            return reject("the secret file was changed");
        };
        let Ok(given_proof) = HEXLOWER.decode(answer.proof.as_bytes()) else {
            return reject("its proof is not hexadecimal");
        };
        let key = hmac_key(&secrets);
        let review_mac = HEXLOWER.decode(self.seal.as_bytes()).unwrap_or_default();
        if hmac::verify(&key, &self.seen.mac_input()?, &review_mac).is_err() {
            return reject("the secret file was changed");
        }
        if (&self.seen.host, &self.seen.trust_domain) != (&request.host, &request.trust_domain) {
            return reject("the secret is for another host or trust domain");
        }
        match hmac::verify(&key, &answer_mac_input(&self.challenge, &self.request), &given_proof) {
            Ok(()) => Ok(()),
            Err(_) => reject("its proof is not what the host's TPM would have found in the challenge"),
        }
    }
}

impl OperatorReview {
    /// Of a request, with what the makers' roots say, if they were asked.
    pub fn new(
        request: &VerifiedRequest,
        maker_roots: Option<(&Roots, Timestamp)>,
    ) -> Result<OperatorReview, Error> {
        let fault = |e| Error::Request(format!("no TPM maker vouches for this host: {e}"));
        let certified = maker_roots
            .map(|(roots, now)| request.endorsement_keys.certified_ek(roots, now))
            .transpose()
            .map_err(fault)?;
        let trusted_fingerprints = |(roots, now)| {
            request.endorsement_keys.trusted_certificates(roots, now).into_iter().map(fingerprint).collect()
        };
        Ok(OperatorReview {
            host: request.host.clone(),
            trust_domain: request.trust_domain.clone(),
            maker: certified.map(|vouched| vouched.issuer),
            ek_certificates: maker_roots.map(trusted_fingerprints),
        })
    }

    /// Whether this EK certificate is to be in the host certificate: where makers were asked, only what leads to a root.
    pub fn lists_ek_certificate(&self, certificate: &[u8]) -> bool {
        self.ek_certificates.as_ref().is_none_or(|taken| taken.contains(&fingerprint(certificate)))
    }

    fn mac_input(&self) -> Result<Vec<u8>, Error> {
        let mut text = b"hostbadge enrollment seen 1\0".to_vec();
        serde_json::to_writer(&mut text, self).map_err(|e| Error::Challenge(e.to_string()))?;
        Ok(text)
    }
}

fn fingerprint(certificate: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, certificate).as_ref())
}

impl ChallengeAnswer {
    pub fn parse(text: &[u8]) -> Result<ChallengeAnswer, Error> {
        parse_document("answer", text, MAX_SMALL_FILE_SIZE)
    }
}

/// What shows that all secrets were found: HMAC-SHA256, keyed with them one after the other, over what they were for.
pub fn answer_proof(secrets: &[u8], challenge: &str, request: &str) -> String {
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
