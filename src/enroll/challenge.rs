//! The challenge, the secret that the operator keeps for it, and the answer.

use data_encoding::{BASE64, HEXLOWER};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::credential::{self, make};
use super::request::Checked;
use super::{Error, LARGEST_SMALL, VERSION, read};

/// Bytes of the secret for each endorsement key.
const SECRET: usize = 32;

/// For the host. Holds a secret for each of its endorsement keys, all for its AK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
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
    pub p256: Sealed,
    /// For the RSA EK, where the request has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rsa: Option<Sealed>,
}

/// A credential as `TPM2_ActivateCredential` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// Contents of the TPM2B_ID_OBJECT, base64.
    pub id_object: String,
    /// Contents of the TPM2B_ENCRYPTED_SECRET, base64.
    pub seed: String,
}

/// For the operator alone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    pub version: u64,
    pub challenge: String,
    pub request: String,
    /// The secrets one after the other, in hexadecimal: P-256, then RSA.
    secrets: String,
    /// Whether a certificate was made already.
    pub used: bool,
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.secrets.zeroize();
    }
}

/// For the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub version: u64,
    pub challenge: String,
    pub request: String,
    /// HMAC-SHA256 in hexadecimal, see [`proof`].
    pub proof: String,
}

impl Challenge {
    /// Makes a challenge for a request, and the secret that belongs to it.
    pub fn make(request: &Checked) -> Result<(Challenge, Secret), Error> {
        let id = HEXLOWER.encode(&random::<16>()?[..]);
        let mut secrets = Zeroizing::new(Vec::with_capacity(2 * SECRET));
        let mut seal = |ek| {
            let secret = random::<SECRET>()?;
            secrets.extend_from_slice(&secret[..]);
            make(ek, &request.ak_name, &secret[..])
        };
        let challenge = Challenge {
            version: VERSION,
            id: id.clone(),
            host: request.host.clone(),
            request: request.digest.clone(),
            ak: HEXLOWER.encode(&request.ak_name),
            p256: seal(&request.keys.p256.0)?,
            rsa: request.keys.rsa.as_ref().map(|(ek, _)| seal(ek)).transpose()?,
        };
        let secrets = HEXLOWER.encode(&secrets);
        let secret = Secret {
            version: VERSION,
            challenge: id,
            request: challenge.request.clone(),
            secrets,
            used: false,
        };
        Ok((challenge, secret))
    }

    pub fn parse(text: &[u8]) -> Result<Challenge, Error> {
        let challenge: Challenge = read("challenge", text, LARGEST_SMALL)?;
        let hex = |text: &str, size| HEXLOWER.decode(text.as_bytes()).is_ok_and(|bytes| bytes.len() == size);
        match hex(&challenge.id, 16) && hex(&challenge.request, 32) && hex(&challenge.ak, 34) {
            true => Ok(challenge),
            false => Err(Error::Challenge("its id, request or AK is not of the right length".into())),
        }
    }
}

impl Sealed {
    /// Contents of the TPM2B_ID_OBJECT and of the TPM2B_ENCRYPTED_SECRET.
    pub fn decode(&self) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let bytes = |text: &str| match BASE64.decode(text.as_bytes()) {
            Ok(bytes) if bytes.len() <= credential::LARGEST_PART => Ok(bytes),
            _ => Err(Error::Challenge("a credential in it is not base64, or too long".into())),
        };
        Ok((bytes(&self.id_object)?, bytes(&self.seed)?))
    }
}

impl Secret {
    pub fn parse(text: &[u8]) -> Result<Secret, Error> {
        read("secret of a challenge", text, LARGEST_SMALL)
    }

    /// Whether the answer is what only the TPM of this request can give.
    pub fn judge(&self, request: &Checked, answer: &Answer) -> Result<(), Error> {
        let no = |why: &str| Err(Error::Answer(why.into()));
        if self.used {
            return Err(Error::Used);
        }
        if self.request != request.digest {
            return no("the secret is another request's, or the request was changed since");
        }
        if answer.challenge != self.challenge {
            return no("it answers another challenge");
        }
        if answer.request != self.request {
            return no("it is about another request");
        }
        let keys = 1 + usize::from(request.keys.rsa.is_some());
        let decoded = HEXLOWER.decode(self.secrets.as_bytes()).map(Zeroizing::new);
        let Some(secrets) = decoded.ok().filter(|secrets| secrets.len() == keys * SECRET) else {
            return no("the secret file was changed");
        };
        let Ok(given) = HEXLOWER.decode(answer.proof.as_bytes()) else {
            return no("its proof is not hexadecimal");
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secrets);
        match hmac::verify(&key, &statement(&self.challenge, &self.request), &given) {
            Ok(()) => Ok(()),
            Err(_) => no("its proof is not what the host's TPM would have found in the challenge"),
        }
    }
}

impl Answer {
    pub fn parse(text: &[u8]) -> Result<Answer, Error> {
        read("answer", text, LARGEST_SMALL)
    }
}

/// What shows that all secrets were found: HMAC-SHA256, keyed with them one after the other, over what they were for.
pub fn proof(secrets: &[u8], challenge: &str, request: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secrets);
    HEXLOWER.encode(hmac::sign(&key, &statement(challenge, request)).as_ref())
}

fn statement(challenge: &str, request: &str) -> Vec<u8> {
    ["hostbadge enrollment answer 1", challenge, request].join("\0").into_bytes()
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new().fill(&mut bytes[..]).map_err(|_| Error::Random)?;
    Ok(bytes)
}
