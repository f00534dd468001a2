//! Evidence: what a host says about itself for a verifier far away, and what of it holds.
//!
//! The document is JSON; what is signed in it are the TPM's own structures, in base64. Nothing else in it is believed.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::endorsement::verify_endorsement;
use super::tpm_structures::{
    Attest, AttestedInfo, DECRYPT, FIXED_PARENT, FIXED_TPM, PublicKey, RESTRICTED, SENSITIVE_DATA_ORIGIN,
    SIGN,
};
use super::{Error, Jwk, eventlog, ima};

pub use super::evidence_trust::{CertifiedEk, EndorsementKeys};

/// The document's version. Format 1 has no RSA EK, no certificates of issuers, no host certificate and no IMA list; a reader of that
/// format refuses members that it does not know, so that these are a format of their own.
pub const EVIDENCE_VERSION: u64 = 2;
const MIN_EVIDENCE_VERSION: u64 = 1;
/// Nonces are this long, in bytes.
pub const NONCE_LEN: std::ops::RangeInclusive<usize> = 8..=64;
/// Evidence with long logs stays below this many bytes.
pub const MAX_EVIDENCE_SIZE: usize = 64 * 1024 * 1024;

/// The document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    pub version: u64,
    /// The host's id.
    pub host: String,
    /// As the verifier gave it, base64url.
    pub nonce: String,
    /// TPM2B_PUBLIC of the P-256 EK, base64.
    pub ek: String,
    /// The EK's certificate, DER in base64, where the TPM has one.
    pub ek_certificate: Option<String>,
    /// TPM2B_PUBLIC of the RSA-2048 EK, base64, where the TPM has a certificate for it.
    #[serde(default)]
    pub rsa_ek: Option<String>,
    #[serde(default)]
    pub rsa_ek_certificate: Option<String>,
    /// Certificates that the TPM's maker put beside those, DER in base64.
    #[serde(default)]
    pub ek_chain: Vec<String>,
    /// The certificate that an organisation gave the host key, and those that lead to its root, DER in base64.
    #[serde(default)]
    pub host_certificate: Vec<String>,
    /// Name of the SRK, in hexadecimal.
    pub srk: String,
    /// TPM2B_PUBLIC, base64.
    pub ak: String,
    pub quote: SignedAttestation,
    /// The SHA-256 bank, by number, in hexadecimal.
    pub pcrs: BTreeMap<u8, String>,
    /// What the firmware and the boot loaders measured, as the kernel has it, base64.
    pub event_log: Option<String>,
    /// The files that the kernel measured, as it has them in binary_runtime_measurements, base64. Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ima_log: Option<String>,
    /// Why there is no such list, where the host has one. Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ima_log_missing: Option<String>,
    /// TPM2B_PUBLIC, base64.
    pub host_key: String,
    /// The AK's word for the host key.
    pub certification: SignedAttestation,
    /// The host key's word for each issuing key, a JWS.
    pub endorsements: Vec<String>,
}

/// A TPMS_ATTEST and the AK's TPMT_SIGNATURE over it, base64.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedAttestation {
    pub attest: String,
    pub signature: String,
}

/// One thing that was checked: what, and what was found or why it does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    pub what: &'static str,
    /// Also true of what was not checked, which is nobody's fault.
    pub holds: bool,
    pub checked: bool,
    pub detail: String,
}

impl CheckResult {
    pub fn new(what: &'static str, holds: bool, detail: impl Into<String>) -> CheckResult {
        CheckResult { what, holds, checked: true, detail: detail.into() }
    }

    pub(super) fn from_result(what: &'static str, outcome: Result<String, String>) -> CheckResult {
        CheckResult::new(what, outcome.is_ok(), outcome.unwrap_or_else(|why| why))
    }

    pub(super) fn skipped(what: &'static str, detail: &str) -> CheckResult {
        CheckResult { what, holds: true, checked: false, detail: detail.to_owned() }
    }
}

/// What a quote's extraData is for a nonce: the nonce, or its SHA-256 where it is longer than all TPMs take.
pub fn qualifying_data(nonce: &[u8]) -> Vec<u8> {
    match nonce.len() <= 32 {
        true => nonce.to_vec(),
        false => digest(&SHA256, nonce).as_ref().to_vec(),
    }
}

/// A host's id: the first 128 bits of SHA-256 over the EK's Name, base32.
pub fn host_id(ek_name: &[u8]) -> String {
    BASE32_NOPAD.encode(&digest(&SHA256, ek_name).as_ref()[..16]).to_ascii_lowercase()
}

impl Evidence {
    pub fn parse(text: &[u8]) -> Result<Evidence, Error> {
        if text.len() > MAX_EVIDENCE_SIZE {
            return Err(Error::Evidence(format!("evidence is larger than {MAX_EVIDENCE_SIZE} bytes")));
        }
        let evidence: Evidence =
            serde_json::from_slice(text).map_err(|e| Error::Evidence(format!("this is no evidence: {e}")))?;
        evidence.check_version()?;
        Ok(evidence)
    }

    /// Whether this program knows the document's format, and the document keeps to it.
    pub(super) fn check_version(&self) -> Result<(), Error> {
        match self.version {
            MIN_EVIDENCE_VERSION if self.ima_log.is_some() || self.ima_log_missing.is_some() => {
                Err(Error::Evidence("evidence of format 1 has no IMA list; this is no evidence".into()))
            }
            MIN_EVIDENCE_VERSION..=EVIDENCE_VERSION => Ok(()),
            other => Err(Error::Evidence(format!(
                "evidence of format {other}; this program reads formats {MIN_EVIDENCE_VERSION} to {EVIDENCE_VERSION}"
            ))),
        }
    }

    /// The host key, as it is shown: to be believed where the findings on it and its certification hold.
    pub fn host_key(&self) -> Result<Jwk, Error> {
        let key = decode_public_key(&self.host_key).map_err(Error::Evidence)?;
        Ok(Jwk::from_point(&key.point))
    }

    /// SHA-256 over the EK's Name, of which the host's id is the first half.
    pub fn ek_digest(&self) -> Result<[u8; 32], Error> {
        let key = decode_public_key(&self.ek).map_err(Error::Evidence)?;
        Ok(eventlog::sha256(&key.name))
    }

    /// Checks all that can be checked from the document alone. All findings, not the first fault only.
    pub fn check(&self, nonce: &[u8]) -> Vec<CheckResult> {
        let mut checks = CheckResults::default();
        checks.record("EK", self.check_ek());
        checks.record("endorsement keys", self.check_endorsement_keys());
        let ak = checks.record("AK", check_key("AK", &self.ak, RESTRICTED | SIGN, DECRYPT));
        let host_key =
            checks.record("host key", check_key("host key", &self.host_key, SIGN, DECRYPT | RESTRICTED));
        let Some(ak) = ak else { return checks.0 };
        let quote = checks.record("quote's signature", self.verify_attestation(&self.quote, &ak));
        if let Some(quote) = quote {
            checks.record("nonce", self.check_nonce(&quote, nonce));
            checks.record("TPM clock", Evidence::describe_clock(&quote));
            checks.record("PCR values", self.check_pcrs(&quote));
            if let Some(log) = &self.event_log {
                checks.record("boot event log", self.check_event_log(log));
            }
            if let Some(why) = &self.ima_log_missing {
                let why = format!("the host left it out: {}", why.escape_debug());
                checks.0.push(CheckResult::skipped("IMA list", &why));
            }
            if let Some(list) = &self.ima_log {
                if let Some(aggregate) = checks.record("IMA list", self.check_ima(list)) {
                    aggregate.map(|aggregate| {
                        checks.record("IMA boot aggregate", self.check_boot_aggregate(&aggregate))
                    });
                }
            }
        }
        let Some(host_key) = host_key else { return checks.0 };
        checks.record("host key's certification", self.check_host_key_certification(&ak, &host_key));
        checks.record("issuing keys", self.check_endorsements(&host_key));
        checks.0
    }

    /// Whether it is this host's. To be believed where the EK's finding holds.
    pub fn check_host(&self, host: &str) -> CheckResult {
        let holds = self.host == host;
        let detail =
            if holds { "as expected".into() } else { format!("this is {}", self.host.escape_debug()) };
        CheckResult::new("host", holds, detail)
    }

    /// Whether it is signed by the AK of this Name, in hexadecimal.
    ///
    /// Nothing else in the document ties the AK to the EK's TPM: an EK's public area is no secret, and a program can make
    /// an AK that says of itself what it likes. So evidence is worth as much as the way by which the Name was learned.
    pub fn check_ak_by_name(&self, ak_name: Option<&str>) -> CheckResult {
        let check = |holds, detail: String| CheckResult::new("AK's TPM", holds, detail);
        let evidence_ak = match decode_public_key(&self.ak) {
            Ok(ak) => HEXLOWER.encode(&ak.name),
            Err(why) => return check(false, why),
        };
        match ak_name.map(str::to_ascii_lowercase) {
            None => check(
                false,
                format!(
                    "nothing here ties the AK to this host; learn its Name there, and give it by --ak (this is {evidence_ak}), or enroll the host and give --ca"
                ),
            ),
            Some(expected) if expected == evidence_ak => {
                check(true, "the AK is the one that is known".into())
            }
            Some(_) => check(false, format!("this is another AK: {evidence_ak}")),
        }
    }

    /// The attestation key's Name.
    pub fn ak_name(&self) -> Result<Vec<u8>, String> {
        Ok(decode_public_key(&self.ak)?.name)
    }

    /// The host key, as an uncompressed point.
    pub fn host_key_point(&self) -> Result<[u8; 65], String> {
        Ok(decode_public_key(&self.host_key)?.point)
    }

    fn check_ek(&self) -> Result<((), String), String> {
        let ek = decode_public_key(&self.ek)?;
        if !ek.has_attributes(FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT) {
            return Err("its attributes are not those of an EK".into());
        }
        let id = host_id(&ek.name);
        match id == self.host {
            true => Ok(((), format!("host {id}"))),
            false => Err(format!("it is host {id}'s, not {}'s", self.host.escape_debug())),
        }
    }

    /// What the AK signed, once it is certain that this very AK did, with the attributes that it is shown with.
    fn verify_attestation(
        &self,
        attestation: &SignedAttestation,
        ak: &PublicKey,
    ) -> Result<(Attest, String), String> {
        let bytes = |text: &str| BASE64.decode(text.as_bytes()).map_err(|e| format!("not base64: {e}"));
        let (attest, signature) = (bytes(&attestation.attest)?, bytes(&attestation.signature)?);
        if !ak.verify_signature(&attest, &signature).map_err(|e| e.to_string())? {
            return Err("the AK did not sign this".into());
        }
        let attest = Attest::parse(&attest).map_err(|e| e.to_string())?;
        let srk = HEXLOWER_PERMISSIVE.decode(self.srk.as_bytes()).map_err(|e| format!("SRK: {e}"))?;
        if attest.qualified_signer != ak.qualified_name_under(&srk) {
            return Err("the TPM names another key as the signer than the AK that is shown".into());
        }
        Ok((attest, "by the AK".to_owned()))
    }

    /// TPM 2.0 Library part 1, section 36.7: for a key that is not the endorsement hierarchy's, a TPM adds to its counts of
    /// resets and restarts a number that is the same each time. So they are worth nothing alone, and tell whether there was
    /// a reset between two quotes by the same AK.
    fn describe_clock(quote: &Attest) -> Result<((), String), String> {
        let clock = quote.clock;
        let seconds = clock.millis / 1000;
        let caveat = if clock.safe { "" } else { ", which may have gone back" };
        Ok((
            (),
            format!(
                "{seconds} s{caveat}; reset count {}, restart count {}, to be compared with those of other quotes by this AK only",
                clock.resets, clock.restarts
            ),
        ))
    }

    fn check_nonce(&self, quote: &Attest, nonce: &[u8]) -> Result<((), String), String> {
        if !NONCE_LEN.contains(&nonce.len()) {
            return Err(format!("a nonce has {} to {} bytes", NONCE_LEN.start(), NONCE_LEN.end()));
        }
        match quote.extra_data == qualifying_data(nonce) {
            true => Ok(((), "is in the quote".into())),
            false => Err("the quote was made for another nonce: old, or for somebody else".into()),
        }
    }

    fn check_pcrs(&self, quote: &Attest) -> Result<((), String), String> {
        let AttestedInfo::Quote { pcr_indexes, digest: quoted } = &quote.attested else {
            return Err("this is no quote".into());
        };
        if !self.pcrs.keys().eq(pcr_indexes) {
            return Err(format!("the quote is about the PCRs {pcr_indexes:?}, and other values are given"));
        }
        let mut concatenated = Vec::new();
        for (number, value) in &self.pcrs {
            let value = HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok().filter(|value| value.len() == 32);
            concatenated.extend(
                value.ok_or_else(|| format!("the value of PCR {number} is not 64 hexadecimal digits"))?,
            );
        }
        match digest(&SHA256, &concatenated).as_ref() == quoted {
            true => Ok(((), format!("{} of the SHA-256 bank, as quoted", pcr_indexes.len()))),
            false => Err("they are not what was quoted".into()),
        }
    }

    /// The log is believed as far as its replay gives the quoted values. Firmware logs all that it measures into PCRs 0 to
    /// 7; into the others the running system measures as well, and that is not in this log.
    fn check_event_log(&self, log: &str) -> Result<((), String), String> {
        if !(0..8).all(|number| self.pcrs.contains_key(&number)) {
            return Err("not all of PCRs 0 to 7 were quoted, which it would have to give".into());
        }
        let bytes = BASE64.decode(log.as_bytes()).map_err(|e| format!("not base64: {e}"))?;
        let log = eventlog::EventLog::parse(&bytes).map_err(|e| e.to_string())?;
        let replayed = log.replay();
        let differs = |number: &u8| {
            let quoted = self.pcrs.get(number).map(|value| value.to_ascii_lowercase());
            quoted.is_some_and(|quoted| quoted != HEXLOWER.encode(&replayed[usize::from(*number)]))
        };
        let (firmware, other_pcrs): (Vec<u8>, Vec<u8>) =
            (0..24).filter(differs).partition(|number| *number < 8);
        if !firmware.is_empty() {
            return Err(format!("its replay does not give the quoted PCRs {firmware:?}"));
        }
        let detail = format!("{} events, which give PCRs 0 to 7 as quoted", log.events().len());
        Ok(((), if other_pcrs.is_empty() { detail } else { format!("{detail}; PCRs {other_pcrs:?} differ") }))
    }

    /// The list is believed up to the entry where its replay gives the quoted PCR 10: the host goes on measuring between the
    /// quote and the reading of its list. Gives the SHA-256 that the kernel took of the PCRs that it found, if it did.
    fn check_ima(&self, list: &str) -> Result<(Option<String>, String), String> {
        let quoted = self.pcrs.get(&10).and_then(|value| HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok());
        let quoted: eventlog::PcrDigest =
            quoted.and_then(|value| value.try_into().ok()).ok_or("PCR 10 was not quoted")?;
        let bytes = BASE64.decode(list.as_bytes()).map_err(|e| format!("not base64: {e}"))?;
        let list = ima::MeasurementList::parse(&bytes).map_err(|e| e.to_string())?;
        let proven = list.proven_by(&quoted).ok_or("no part of it replays to the quoted PCR 10")?;
        let entries = proven.entries().len();
        let mut detail = format!("{entries} entries give PCR 10 as quoted");
        if list.len() > entries {
            detail += &format!("; {} later ones are not proven", list.len() - entries);
        }
        if proven.violations() > 0 {
            detail += &format!("; {} files changed while they were measured", proven.violations());
        }
        let first = proven.entries().first().filter(|entry| entry.path == b"boot_aggregate");
        let aggregate = first.and_then(ima::ImaEntry::sha256).map(|digest| HEXLOWER.encode(&digest));
        if aggregate.is_none() {
            detail += "; it does not begin with a SHA-256 of the boot's PCRs, so nothing says that it is this boot's";
        }
        Ok((aggregate, detail))
    }

    /// Linux, security/integrity/ima: SHA-256 over PCRs 0 to 9 of the SHA-256 bank, as IMA found them.
    fn check_boot_aggregate(&self, aggregate: &str) -> Result<((), String), String> {
        let mut concatenated = Vec::new();
        for number in 0..=9 {
            let value =
                self.pcrs.get(&number).and_then(|value| HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok());
            concatenated.extend(value.ok_or_else(|| format!("PCR {number} was not quoted"))?);
        }
        match HEXLOWER.encode(digest(&SHA256, &concatenated).as_ref()) == aggregate {
            true => Ok(((), "of PCRs 0 to 9 as quoted".into())),
            false => Err("it is not that of PCRs 0 to 9 as quoted: one was extended since the kernel started, or the kernel was started by another".into()),
        }
    }

    fn check_host_key_certification(
        &self,
        ak: &PublicKey,
        host_key: &PublicKey,
    ) -> Result<((), String), String> {
        let (attest, _) = self.verify_attestation(&self.certification, ak)?;
        match attest.attested {
            AttestedInfo::Certify { name } if name == host_key.name => {
                Ok(((), "the AK's TPM holds the host key".into()))
            }
            AttestedInfo::Certify { .. } => Err("the certification is about another key".into()),
            AttestedInfo::Quote { .. } => Err("this is a quote, and certifies no key".into()),
        }
    }

    fn check_endorsements(&self, host_key: &PublicKey) -> Result<((), String), String> {
        let jwk = Jwk::from_point(&host_key.point);
        let mut kids = Vec::new();
        for text in &self.endorsements {
            kids.push(verify_endorsement(text, &self.host, &jwk).map_err(|e| e.to_string())?.kid);
        }
        match kids.is_empty() {
            true => Err("none is endorsed by the host key".into()),
            false => Ok(((), kids.join(", "))),
        }
    }
}

pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(text.as_bytes()).map_err(|e| format!("not base64: {e}"))
}

pub(super) fn decode_base64_list(texts: &[String]) -> Result<Vec<Vec<u8>>, String> {
    texts.iter().map(|text| decode_base64(text)).collect()
}

pub(super) fn decode_public_key(text: &str) -> Result<PublicKey, String> {
    let bytes = decode_base64(text)?;
    PublicKey::parse(&bytes).map_err(|e| e.to_string())
}

fn check_key(
    key_kind: &str,
    text: &str,
    required: u32,
    forbidden: u32,
) -> Result<(PublicKey, String), String> {
    let key = decode_public_key(text)?;
    if !key.has_attributes(FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | required)
        || key.attributes & forbidden != 0
    {
        return Err(format!("its attributes are not those of an {key_kind} that cannot leave its TPM"));
    }
    Ok((key, "says that it was made in a TPM and cannot leave it".into()))
}

#[derive(Default)]
struct CheckResults(Vec<CheckResult>);

impl CheckResults {
    fn record<T>(&mut self, what: &'static str, outcome: Result<(T, String), String>) -> Option<T> {
        let (value, holds, detail) = match outcome {
            Ok((value, detail)) => (Some(value), true, detail),
            Err(why) => (None, false, why),
        };
        self.0.push(CheckResult::new(what, holds, detail));
        value
    }
}
