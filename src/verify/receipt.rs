//! Receipts: JWSs by which a host key, in the TPM, states that an agent was offboarded and what was destroyed.

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::evidence::{Evidence, SignedAttestation};
use super::jwks::Jwk;
use super::jws::Jws;
use super::token::LEEWAY;
use super::tpm_structures::AttestedInfo;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::json;

/// The `typ` of a receipt.
pub const RECEIPT_TYP: &str = "hostbadge-receipt+jwt";
/// The largest receipt that is accepted, in bytes: that of an agent with 1024 credentials.
pub const MAX_RECEIPT_SIZE: usize = 512 * 1024;

/// The claims of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptClaims {
    /// The host's id.
    pub iss: String,
    /// The agent's SPIFFE ID; absent if the agent was not registered any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// When the receipt was made, in seconds since 1970.
    pub iat: u64,
    /// The receipt's identifier.
    pub jti: String,
    /// The agent's name.
    pub agent: String,
    /// The administrator who offboarded it: uid and pid.
    pub requested_by: String,
    /// Why, in the administrator's words; absent if none were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The revocation of the agent.
    pub revocation: RevocationClaim,
    /// What was destroyed.
    pub destroyed: DestroyedClaim,
    /// Credentials that the agent could use and others can too. They were not destroyed.
    pub shared_credentials: Vec<SharedCredentialClaim>,
    /// The erasure of the agent's key-encryption key; absent if the agent had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erasure: Option<ErasureClaim>,
    /// The AK's statement of the counter's value (`TPM2_NV_Certify`) when the receipt was made; absent without an
    /// erasure. Its qualifying data is [`counter_binding`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter_certification: Option<SignedAttestation>,
    /// Earlier erasures of the key of an agent of this name, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_erasures: Vec<ErasureClaim>,
}

/// The revocation of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationClaim {
    /// What was issued to the agent at a lower epoch is revoked (`hostbadge.epoch` of tokens).
    pub epoch: u64,
    /// When the agent was revoked, in seconds since 1970.
    pub at: u64,
}

/// What was destroyed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyedClaim {
    /// The agent's own credentials.
    pub credentials: Vec<DestroyedCredentialClaim>,
    /// The agent's own keys.
    pub keys: Vec<DestroyedKey>,
}

/// A credential that was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyedCredentialClaim {
    /// The credential's name.
    pub name: String,
    /// The agent's tenant; absent where it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its versions.
    pub versions: Vec<u64>,
}

/// A key of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DestroyedKey {
    /// The key under which the agent's own credentials were encrypted.
    KeyEncryptionKey,
}

/// A credential that was not destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedCredentialClaim {
    /// The credential's name.
    pub name: String,
    /// The tenant whose agents may use it; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// The erasure of a key by a counter in the TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasureClaim {
    /// The NV index of the counter.
    pub nv_index: u32,
    /// The counter's value at which the TPM unsealed what opened the key.
    pub before: u64,
    /// The counter's value since.
    pub after: u64,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// The qualifying data by which a statement of the counter's value belongs to one receipt.
pub fn counter_binding(jti: &str, agent: &str) -> [u8; 32] {
    sha256(format!("hostbadge receipt\0{jti}\0{agent}").as_bytes())
}

/// Checks that the TPM of verified evidence states that the counter of a verified receipt has moved.
///
/// The host key signs whatever the host gives it. The AK signs only what the TPM itself knows, so this does not
/// depend on the host's word.
///
/// # Errors
///
/// [`Error::InvalidClaim`], or [`Error::Evidence`] for a statement of another TPM.
pub fn check_counter(claims: &ReceiptClaims, evidence: &Evidence) -> Result<String, Error> {
    let invalid = |reason: &str| Error::InvalidClaim(reason.to_owned());
    let Some(erasure) = claims.erasure else {
        return Ok("no counter was moved".to_owned());
    };
    let certification = claims
        .counter_certification
        .as_ref()
        .ok_or_else(|| invalid("the receipt has no statement of the TPM about its counter"))?;
    let attest = evidence.verify_by_ak(certification)?;
    if attest.extra_data != counter_binding(&claims.jti, &claims.agent) {
        return Err(invalid("the TPM's statement about the counter belongs to another receipt"));
    }
    let AttestedInfo::Nv { name, content } = attest.attested else {
        return Err(invalid("the TPM's statement is not about an NV index"));
    };
    if name != counter_name(erasure.nv_index) {
        return Err(invalid(
            "the TPM's statement is about another NV index, or one that is no erasure counter",
        ));
    }
    match content.try_into().map(u64::from_be_bytes) {
        Ok(value) if value >= erasure.after => Ok(format!("has the value {value}, by the TPM's AK")),
        _ => Err(invalid("the TPM's counter has not moved as the receipt says")),
    }
}

/// The Name of an erasure counter: SHA-256 over its TPMS_NV_PUBLIC (TPM 2.0 Part 1, section 16, and Part 2, section
/// 13.5).
fn counter_name(nv_index: u32) -> Vec<u8> {
    const SHA256_ID: u16 = 0x000B;
    /// TPMA_NV: AUTHWRITE, TPM_NT_COUNTER, OWNERREAD, NO_DA, WRITTEN.
    const ATTRIBUTES: u32 = 0x2202_0014;
    const SIZE: u16 = 8;
    let mut public = nv_index.to_be_bytes().to_vec();
    public.extend_from_slice(&SHA256_ID.to_be_bytes());
    public.extend_from_slice(&ATTRIBUTES.to_be_bytes());
    public.extend_from_slice(&0_u16.to_be_bytes()); // no policy
    public.extend_from_slice(&SIZE.to_be_bytes());
    [&SHA256_ID.to_be_bytes()[..], &sha256(&public)].concat()
}

/// The `kid` of the key that is said to have signed a receipt. It proves nothing.
///
/// # Errors
///
/// [`Error::Malformed`].
pub fn receipt_kid(text: &str) -> Result<String, Error> {
    let jws = Jws::parse_with_limit(text, MAX_RECEIPT_SIZE)?;
    jws.expect_typ(RECEIPT_TYP)?;
    Ok(jws.kid().to_owned())
}

/// The claims of a receipt, which may be anyone's: nothing is verified.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::InvalidClaim`].
pub fn unverified_claims(text: &str) -> Result<ReceiptClaims, Error> {
    let jws = Jws::parse_with_limit(text, MAX_RECEIPT_SIZE)?;
    jws.expect_typ(RECEIPT_TYP)?;
    read_claims(jws.unverified_payload())
}

/// Verifies a receipt by `host_key`.
///
/// # Errors
///
/// [`Error::Malformed`], [`Error::UnknownKey`], [`Error::Signature`], [`Error::KeySet`], and
/// [`Error::InvalidClaim`] for claims that contradict each other or are of the future.
pub fn verify_receipt(text: &str, host_key: &Jwk, now: Timestamp) -> Result<ReceiptClaims, Error> {
    let jws = Jws::parse_with_limit(text, MAX_RECEIPT_SIZE)?;
    jws.expect_typ(RECEIPT_TYP)?;
    if jws.kid() != host_key.kid {
        return Err(Error::UnknownKey(jws.kid().escape_debug().to_string()));
    }
    let claims = read_claims(jws.verify(host_key)?)?;
    let invalid = |reason: &str| Err(Error::InvalidClaim(reason.to_owned()));
    let limit = now.as_secs().saturating_add(LEEWAY);
    if claims.iat > limit {
        return invalid("the receipt was made in the future");
    }
    if claims.erasure.iter().chain(&claims.earlier_erasures).any(|erasure| erasure.after <= erasure.before) {
        return invalid("an erasure did not increment its counter");
    }
    if claims.erasure.is_some() == claims.destroyed.keys.is_empty() {
        return invalid("a key was destroyed without an erasure, or the reverse");
    }
    Ok(claims)
}

fn read_claims(payload: &[u8]) -> Result<ReceiptClaims, Error> {
    json::from_object(payload).map_err(|e| Error::InvalidClaim(format!("not a receipt: {e}")))
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    struct Signer {
        key: EcdsaKeyPair,
        jwk: Jwk,
    }

    impl Signer {
        fn new() -> Signer {
            let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
            let jwk = Jwk::from_point(key.public_key().as_ref().try_into().unwrap());
            Signer { key, jwk }
        }

        fn sign(&self, typ: &str, claims: &Value) -> String {
            let encode = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
            let header = json!({ "alg": "ES256", "kid": self.jwk.kid, "typ": typ });
            let input = format!("{}.{}", encode(&header), encode(claims));
            let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
            format!("{input}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }
    }

    fn claims() -> Value {
        json!({
            "iss": "abcdefghijklmnopqrstuvwxyz",
            "sub": "spiffe://example.org/host/abcdefghijklmnopqrstuvwxyz/agent/builder",
            "iat": NOW.as_secs(),
            "jti": "AAAAAAAAAAAAAAAAAAAAAA",
            "agent": "builder",
            "requested_by": "uid 0, pid 7",
            "reason": "left",
            "revocation": { "epoch": 9, "at": NOW.as_secs() },
            "destroyed": {
                "credentials": [{ "name": "github", "tenant": "acme", "versions": [1, 2] }],
                "keys": ["key-encryption-key"],
            },
            "shared_credentials": [{ "name": "stripe" }],
            "erasure": { "nv_index": 0x0180_4872, "before": 5, "after": 6, "at": NOW.as_secs() },
            "counter_certification": { "attest": "AAAA", "signature": "AAAA" },
        })
    }

    #[test]
    fn a_receipt_verifies_under_its_host_key_alone() {
        let signer = Signer::new();
        let text = signer.sign(RECEIPT_TYP, &claims());
        let verified = verify_receipt(&text, &signer.jwk, NOW).unwrap();
        assert_eq!(serde_json::to_value(&verified).unwrap(), claims());
        assert_eq!(receipt_kid(&text).unwrap(), signer.jwk.kid);
        let other = verify_receipt(&text, &Signer::new().jwk, NOW).unwrap_err();
        assert!(matches!(other, Error::UnknownKey(_)), "{other}");
        let typ = verify_receipt(&signer.sign("at+jwt", &claims()), &signer.jwk, NOW).unwrap_err();
        assert!(matches!(typ, Error::Malformed(_)), "{typ}");
        let early = Timestamp::from_secs(NOW.as_secs() - LEEWAY - 1);
        assert!(verify_receipt(&text, &signer.jwk, early).unwrap_err().to_string().contains("future"));
    }

    #[test]
    fn a_receipt_with_any_claim_changed_or_missing_is_refused() {
        let signer = Signer::new();
        let text = signer.sign(RECEIPT_TYP, &claims());
        let (header, rest) = text.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let with = |claims: &Value| {
            let payload = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
            format!("{header}.{payload}.{signature}")
        };
        let refused = |changed: Value| {
            let error = verify_receipt(&with(&changed), &signer.jwk, NOW).unwrap_err();
            assert!(matches!(error, Error::Signature(_)), "{changed}: {error}");
        };
        for name in claims().as_object().unwrap().keys() {
            let mut without = claims();
            without.as_object_mut().unwrap().remove(name);
            refused(without);
            let mut other = claims();
            other[name] = match &other[name] {
                Value::String(text) => json!(format!("{text}x")),
                Value::Number(number) => json!(number.as_u64().unwrap() + 1),
                Value::Array(_) => json!([]),
                _ => json!({}),
            };
            refused(other);
        }
        for (pointer, value) in [
            ("/revocation/epoch", json!(8)),
            ("/destroyed/credentials/0/name", json!("gitlab")),
            ("/destroyed/credentials/0/versions", json!([1])),
            ("/destroyed/keys", json!([])),
            ("/shared_credentials/0/name", json!("other")),
            ("/erasure/nv_index", json!(1)),
            ("/erasure/before", json!(4)),
            ("/erasure/after", json!(7)),
            ("/erasure/at", json!(1)),
        ] {
            let mut changed = claims();
            *changed.pointer_mut(pointer).unwrap() = value;
            refused(changed);
        }
    }

    /// Also under a valid signature.
    #[test]
    fn claims_that_contradict_each_other_are_refused() {
        let signer = Signer::new();
        let refused = |pointer: &str, value: Value| {
            let mut changed = claims();
            *changed.pointer_mut(pointer).unwrap() = value;
            let text = signer.sign(RECEIPT_TYP, &changed);
            let error = verify_receipt(&text, &signer.jwk, NOW).unwrap_err();
            assert!(matches!(error, Error::InvalidClaim(_)), "{pointer}: {error}");
        };
        refused("/erasure/after", json!(5));
        refused("/destroyed/keys", json!([]));
        refused("/destroyed/keys", json!(["other"]));
        refused("/iss", json!(7));
        refused("/revocation", json!({}));
    }
}
