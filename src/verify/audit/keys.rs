//! The public keys that checkpoints are verified with: the AK, the host key that the AK certifies, and the NV index.

use std::str;

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::super::evidence::SignedAttestation;
use super::super::tpm_structures::{
    Attest, AttestedInfo, DECRYPT, FIXED_PARENT, FIXED_TPM, PublicKey, RESTRICTED, SENSITIVE_DATA_ORIGIN,
    SIGN,
};
use super::note::NoteKey;
use crate::digest::sha256;
use crate::json;

/// The file of a log's directory that has the keys of all its checkpoints, one object a line.
pub const KEYS_FILE: &str = "checkpoint.keys";
/// The largest such file that is read, in bytes.
pub const MAX_KEYS_SIZE: usize = 1024 * 1024;

const VERSION: u32 = 1;
/// NV indices that checkpoints extend, in the owner's range (TCG Registry of Reserved TPM 2.0 Handles, section 2.2.2).
pub const AUDIT_INDICES: std::ops::Range<u32> = 0x0180_4882..0x0180_488A;
/// The size of the NV index in bytes: that of a SHA-256 digest.
pub const AUDIT_INDEX_SIZE: u16 = 32;
/// TPMA_NV of the NV index: OWNERWRITE, TPM_NT_EXTEND, OWNERREAD, NO_DA, WRITTEN (TPM 2.0 Part 2, section 13.4).
const ATTRIBUTES: u32 = 0x2202_0042;
/// TPMA_NV_WRITTEN.
const WRITTEN: u32 = 0x2000_0000;

/// One line of the file. All of it is public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysLine {
    v: u32,
    /// The host's id.
    host: String,
    /// The AK's TPM2B_PUBLIC in base64.
    ak: String,
    /// The host key's TPM2B_PUBLIC in base64.
    host_key: String,
    /// The AK's certification that the host key is in the same TPM.
    certification: SignedAttestation,
    /// The NV index that checkpoints extend.
    nv_index: u32,
}

impl KeysLine {
    /// The line for these public areas.
    pub fn new(
        host: &str,
        ak_public: &[u8],
        host_key_public: &[u8],
        certification: SignedAttestation,
        nv_index: u32,
    ) -> KeysLine {
        KeysLine {
            v: VERSION,
            host: host.to_owned(),
            ak: BASE64.encode(ak_public),
            host_key: BASE64.encode(host_key_public),
            certification,
            nv_index,
        }
    }
}

/// The keys of one line, of which the AK has certified the host key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKeys {
    host: String,
    ak: PublicKey,
    host_key: [u8; 65],
    nv_index: u32,
}

impl LogKeys {
    /// Reads a file of keys. Bytes after the last newline that are no keys are passed over: a crash of the machine left
    /// them, and the daemon removes them at its next start.
    ///
    /// # Errors
    /// [`Error::Audit`] with the number of the first line that is not valid.
    pub fn parse_file(text: &[u8]) -> Result<Vec<LogKeys>, Error> {
        let end_of_lines = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (whole, rest) = text.split_at(end_of_lines);
        let whole = whole.split_inclusive(|byte| *byte == b'\n');
        let rest = json::from_object::<KeysLine>(rest).is_ok().then_some(rest);
        let lines = whole.chain(rest).enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
        lines
            .map(|(at, line)| {
                let with_line =
                    |e: &dyn std::fmt::Display| Error::Audit(format!("keys, line {}: {e}", at + 1));
                let line: KeysLine = json::from_object(line).map_err(|e| with_line(&e))?;
                LogKeys::check(&line).map_err(|e| with_line(&e))
            })
            .collect()
    }

    /// Checks that the AK is one that signs only what its TPM knows, and that it certifies the host key.
    ///
    /// # Errors
    /// [`Error::Audit`], [`Error::Evidence`] for a structure that cannot be read.
    pub fn check(line: &KeysLine) -> Result<LogKeys, Error> {
        let invalid = |reason: &str| Error::Audit(reason.to_owned());
        if line.v != VERSION {
            return Err(invalid("this release does not know the format of the keys"));
        }
        let in_tpm = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | SIGN;
        let ak = PublicKey::parse(&decode(&line.ak)?)?;
        if !ak.has_attributes(in_tpm | RESTRICTED) || ak.attributes & DECRYPT != 0 {
            return Err(invalid("the attributes of the AK are not those of an AK"));
        }
        let host_key = PublicKey::parse(&decode(&line.host_key)?)?;
        let attest = verify_by(&ak, &line.certification)?;
        if !matches!(&attest.attested, AttestedInfo::Certify { name } if *name == host_key.name) {
            return Err(invalid("the AK does not certify the host key"));
        }
        if !host_key.has_attributes(in_tpm) || host_key.attributes & (DECRYPT | RESTRICTED) != 0 {
            return Err(invalid("the attributes of the host key are not those of a host key"));
        }
        if !AUDIT_INDICES.contains(&line.nv_index) {
            return Err(invalid("the NV index is none that checkpoints extend"));
        }
        let is_id = !line.host.is_empty() && line.host.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_id {
            return Err(invalid("the host is not an id"));
        }
        Ok(LogKeys { host: line.host.clone(), ak, host_key: host_key.point, nv_index: line.nv_index })
    }

    /// The AK's Name in lower-case hexadecimal.
    pub fn ak_name(&self) -> String {
        HEXLOWER.encode(&self.ak.name)
    }

    /// The host's id.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The NV index.
    pub fn nv_index(&self) -> u32 {
        self.nv_index
    }

    /// The Name of the NV index: SHA-256 over its TPMS_NV_PUBLIC (TPM 2.0 Part 1, section 16, and Part 2, section
    /// 13.5). An index with other attributes, another policy or another size has another Name.
    pub fn nv_name(&self) -> Vec<u8> {
        audit_index_name(self.nv_index, true)
    }

    /// The key that signs the notes of the log with this origin.
    pub fn note_key(&self, origin: &str) -> NoteKey {
        NoteKey::new(origin, self.host_key)
    }

    /// Verifies an attestation by the AK, and returns what it says.
    pub(super) fn verify(&self, attestation: &SignedAttestation) -> Result<Attest, Error> {
        verify_by(&self.ak, attestation)
    }
}

/// The Name of an NV index for checkpoints at this handle, before or after it was extended for the first time.
pub fn audit_index_name(nv_index: u32, is_written: bool) -> Vec<u8> {
    const SHA256_ID: u16 = 0x000B;
    let attributes = if is_written { ATTRIBUTES } else { ATTRIBUTES & !WRITTEN };
    let mut public = nv_index.to_be_bytes().to_vec();
    public.extend_from_slice(&SHA256_ID.to_be_bytes());
    public.extend_from_slice(&attributes.to_be_bytes());
    public.extend_from_slice(&0_u16.to_be_bytes()); // no policy
    public.extend_from_slice(&AUDIT_INDEX_SIZE.to_be_bytes());
    [&SHA256_ID.to_be_bytes()[..], &sha256(&public)].concat()
}

fn verify_by(ak: &PublicKey, attestation: &SignedAttestation) -> Result<Attest, Error> {
    let bytes = decode(&attestation.attest)?;
    if !ak.verify_signature(&bytes, &decode(&attestation.signature)?)? {
        return Err(Error::Audit("the AK did not make the signature".to_owned()));
    }
    Attest::parse(&bytes)
}

fn decode(text: &str) -> Result<Vec<u8>, Error> {
    BASE64.decode(text.as_bytes()).map_err(|_| Error::Audit("a member is not base64".to_owned()))
}
