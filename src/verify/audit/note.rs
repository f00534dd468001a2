//! Signed notes (c2sp.org/signed-note) with ECDSA P-256, as `note.NewECDSAVerifier` of
//! github.com/transparency-dev/formats verifies them.
//!
//! A note is a text of lines, an empty line, and one line for each signature: an em dash, the key's name, and base64
//! of the key's id and the signature.

use data_encoding::{BASE64, HEXLOWER};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::super::error::Error;
use crate::digest::sha256;

/// The largest note that is accepted, in bytes.
pub const MAX_NOTE_SIZE: usize = 8 * 1024;
/// The type of a key for ECDSA with SHA-256.
const TYPE_ECDSA: u8 = 2;
/// A SubjectPublicKeyInfo of a P-256 key (RFC 5480 section 2) up to its uncompressed point.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A public key with the name by which it signs notes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    point: [u8; 65],
}

impl NoteKey {
    /// The key with this uncompressed point. The name must have neither white space nor a plus sign.
    pub fn new(name: &str, point: [u8; 65]) -> NoteKey {
        NoteKey { name: name.to_owned(), point }
    }

    /// The form in which verifiers take it: name, id in hexadecimal, and the key in base64, joined by plus signs.
    pub fn to_text(&self) -> String {
        let spki = self.spki();
        let key = BASE64.encode(&[&[TYPE_ECDSA], spki.as_slice()].concat());
        format!("{}+{}+{key}", self.name, HEXLOWER.encode(&self.id()))
    }

    /// A note of this text, which this key signed: `signature` is r and s, 32 bytes each. The text ends with a
    /// newline.
    pub fn note(&self, text: &str, signature: &[u8; 64]) -> String {
        let line = BASE64.encode(&[self.id().as_slice(), &der_signature(signature)].concat());
        format!("{text}\n\u{2014} {} {line}\n", self.name)
    }

    /// The text of a note that this key signed, and nobody else.
    ///
    /// # Errors
    /// [`Error::Audit`] for a note of another form, with further signatures, or not signed by this key.
    pub fn open<'a>(&self, note: &'a str) -> Result<&'a str, Error> {
        let invalid = |reason: &str| Error::Audit(format!("the signed note {reason}"));
        let (text, signature) =
            unverified_text(note).ok_or_else(|| invalid("does not have the form of a signed note"))?;
        let signature = signature
            .strip_prefix(&format!("\u{2014} {} ", self.name))
            .ok_or_else(|| invalid("is signed by a key of another name"))?;
        let bytes =
            BASE64.decode(signature.as_bytes()).map_err(|_| invalid("has a signature that is not base64"))?;
        let signature = bytes.strip_prefix(&self.id()).ok_or_else(|| invalid("is signed by another key"))?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.point);
        match key.verify(text.as_bytes(), signature) {
            Ok(()) => Ok(text),
            Err(_) => Err(invalid("has a signature that the host key did not make")),
        }
    }

    fn id(&self) -> [u8; 4] {
        let digest = sha256(&self.spki());
        [digest[0], digest[1], digest[2], digest[3]]
    }

    fn spki(&self) -> Vec<u8> {
        [P256_SPKI.as_slice(), &self.point].concat()
    }
}

/// The text of a note with one signature, and the line of the signature without its newline. Nothing is verified.
pub(super) fn unverified_text(note: &str) -> Option<(&str, &str)> {
    if note.len() > MAX_NOTE_SIZE {
        return None;
    }
    let end = note.find("\n\n")?;
    let (text, rest) = note.split_at(end + 1);
    let signature = rest.strip_prefix('\n')?.strip_suffix('\n')?;
    (!signature.is_empty() && !signature.contains('\n')).then_some((text, signature))
}

/// An ECDSA-Sig-Value (RFC 3279 section 2.2.3) of r and s, 32 bytes each.
fn der_signature(signature: &[u8; 64]) -> Vec<u8> {
    let (r, s) = signature.split_at(32);
    let content = [der_integer(r), der_integer(s)].concat();
    // Both together have at most 70 bytes.
    [&[0x30, content.len() as u8], content.as_slice()].concat()
}

/// An INTEGER of a big-endian number of 32 bytes.
fn der_integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take(number.len() - 1).take_while(|byte| **byte == 0).count();
    let mut content = number[zeros..].to_vec();
    if content[0] >= 0x80 {
        content.insert(0, 0);
    }
    [&[0x02, content.len() as u8], content.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    fn key_pair() -> EcdsaKeyPair {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap()
    }

    #[test]
    fn only_the_key_opens_its_notes_and_only_unchanged_ones() {
        let text = "example.org/log\n7\nAAAA\n";
        // Often enough that r or s begins with zeros and with a high bit.
        for _ in 0..600 {
            let pair = key_pair();
            let key = NoteKey::new("example.org/log", pair.public_key().as_ref().try_into().unwrap());
            let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            let note = key.note(text, signature.as_ref().try_into().unwrap());
            assert_eq!(key.open(&note).unwrap(), text);
        }
        let pair = key_pair();
        let key = NoteKey::new("example.org/log", pair.public_key().as_ref().try_into().unwrap());
        let signature = pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        let note = key.note(text, signature.as_ref().try_into().unwrap());
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut changed = note.clone().into_bytes();
                changed[at] ^= 1 << bit;
                if let Ok(changed) = String::from_utf8(changed) {
                    assert!(key.open(&changed).is_err(), "{changed}");
                }
            }
        }
        let other = NoteKey::new("example.org/log", key_pair().public_key().as_ref().try_into().unwrap());
        assert!(other.open(&note).unwrap_err().to_string().contains("another key"));
        let other = NoteKey::new("example.org/other", key.point);
        assert!(other.open(&note).unwrap_err().to_string().contains("another name"));
        assert!(key.open(&format!("{note}{}", note.lines().last().unwrap())).is_err(), "a second signature");
        assert!(key.open(text).is_err() && key.open("").is_err());
        assert!(key.open(&format!("{}{note}", "x".repeat(MAX_NOTE_SIZE))).is_err());
    }

    /// The key of Rekor, in the example of the verifier that this form is for.
    #[test]
    fn the_text_of_a_key_is_that_of_the_ecosystem() {
        let base64 = "AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/\
                      4sueRoVj//QP22Ni4Qt9DPfkWLc=";
        let bytes = BASE64.decode(base64.as_bytes()).unwrap();
        let key = NoteKey::new("rekor.sigstore.dev", bytes[27..].try_into().unwrap());
        assert!(key.to_text().ends_with(base64), "{}", key.to_text());
        let id = HEXLOWER.encode(&sha256(&bytes[1..])[..4]);
        assert_eq!(key.to_text(), format!("rekor.sigstore.dev+{id}+{base64}"));
    }
}
