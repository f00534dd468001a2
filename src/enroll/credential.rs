//! Credentials: `TPM2_MakeCredential` in software (TPM 2.0 Library part 1, section 24 and annexes B.10.4 and
//! C.6.4).
//!
//! The names are the specification's: a seed is encrypted to the EK, and the keys derived from it encrypt the
//! secret and bind it to the Name of the key that has to be in the same TPM as the EK.

use aes::Aes128;
use cfb_mode::cipher::{InnerIvInit, KeyInit};
use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U2048, Uint};
use data_encoding::BASE64;
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::digest::{Context, SHA256};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::{CredentialError, DocumentError, Error};
use crate::digest::sha256;
use crate::verify::{Ek, EkKey, TpmReader};

/// Bytes of a credential's secret: a TPM2B_DIGEST of the EK's hash algorithm, SHA-256, holds no more.
pub const MAX_CREDENTIAL_SECRET_LEN: usize = 32;
/// Bytes of either part of a credential. For keys of the EK templates both are shorter.
const MAX_CREDENTIAL_PART_LEN: usize = 512;

/// Bytes of a SHA-256 digest, and of the seed.
const DIGEST_LEN: usize = 32;

/// A credential, in the two parts that `TPM2_ActivateCredential` has as its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptedCredential {
    /// Content of the TPM2B_ID_OBJECT, base64.
    pub id_object: String,
    /// Content of the TPM2B_ENCRYPTED_SECRET, base64.
    pub seed: String,
}

impl EncryptedCredential {
    /// The contents of the TPM2B_ID_OBJECT and of the TPM2B_ENCRYPTED_SECRET.
    ///
    /// # Errors
    ///
    /// If one of them is not base64, or longer than 512 bytes.
    pub fn decode(&self) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let decode = |text: &str| match BASE64.decode(text.as_bytes()) {
            Ok(bytes) if bytes.len() <= MAX_CREDENTIAL_PART_LEN => Ok(bytes),
            _ => Err(Error::File { document: "challenge", error: DocumentError::Credential }),
        };
        Ok((decode(&self.id_object)?, decode(&self.seed)?))
    }
}

/// Makes a credential: encrypts `secret`, at most 32 bytes, so that only a TPM that has both `ek` and a key
/// with the Name `key_name` releases it.
///
/// # Errors
///
/// If the secret is too long or the EK is not valid.
pub fn make_credential(ek: &Ek, key_name: &[u8], secret: &[u8]) -> Result<EncryptedCredential, Error> {
    if secret.len() > MAX_CREDENTIAL_SECRET_LEN {
        return Err(CredentialError::SecretTooLong.into());
    }
    let random = SystemRandom::new();
    let (seed, encrypted) = match &ek.key {
        EkKey::P256(point) => ecdh_seed(point, &random)?,
        EkKey::Rsa(modulus) => {
            let (mut seed, mut padding) = (Zeroizing::new([0; DIGEST_LEN]), Zeroizing::new([0; DIGEST_LEN]));
            random.fill(&mut seed[..]).map_err(|_| Error::Random)?;
            random.fill(&mut padding[..]).map_err(|_| Error::Random)?;
            let encrypted = oaep_encrypt(modulus, &seed, &padding)?;
            (seed, encrypted)
        }
    };
    Ok(EncryptedCredential {
        id_object: BASE64.encode(&build_id_object(&seed, key_name, secret)),
        seed: BASE64.encode(&encrypted),
    })
}

/// TPMS_ID_OBJECT: the HMAC, then the encrypted secret with its size in front (part 1, sections 24.4 and
/// 24.5).
fn build_id_object(seed: &[u8; DIGEST_LEN], name: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut identity = Zeroizing::new((secret.len() as u16).to_be_bytes().to_vec());
    identity.extend_from_slice(secret);
    encrypt_cfb(&storage_key(seed, name), &mut identity);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &integrity_key(seed)[..]);
    let integrity = hmac::sign(&key, &[&identity[..], name].concat());
    [&(DIGEST_LEN as u16).to_be_bytes()[..], integrity.as_ref(), &identity].concat()
}

/// The AES-128 key that encrypts the secret. KDFa derives 128 bits: the first half of one HMAC.
fn storage_key(seed: &[u8], name: &[u8]) -> Zeroizing<[u8; 16]> {
    let mut key = Zeroizing::new([0; 16]);
    key.copy_from_slice(&kdfa(seed, "STORAGE", name, 128)[..16]);
    key
}

/// The HMAC key that binds the encrypted secret to the Name.
fn integrity_key(seed: &[u8]) -> Zeroizing<[u8; DIGEST_LEN]> {
    kdfa(seed, "INTEGRITY", &[], 256)
}

/// The first block of KDFa with SHA-256 (part 1, section 11.4.10.2), for keys of at most 256 bits. The number
/// of bits is an input of the derivation.
fn kdfa(seed: &[u8], label: &str, context: &[u8], bits: u32) -> Zeroizing<[u8; DIGEST_LEN]> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let input = [&1u32.to_be_bytes()[..], label.as_bytes(), &[0], context, &bits.to_be_bytes()].concat();
    let mut derived = Zeroizing::new([0; DIGEST_LEN]);
    derived.copy_from_slice(hmac::sign(&key, &input).as_ref());
    derived
}

/// AES-128 in CFB mode with an IV of zeros. Each key encrypts one message.
fn encrypt_cfb(key: &[u8; 16], text: &mut [u8]) {
    cfb_mode::Encryptor::inner_iv_init(Aes128::new(key.into()), &[0; 16].into()).encrypt(text);
}

/// Annex C.6.4: a seed from one-pass ECDH by KDFe, and the ephemeral point as a TPMS_ECC_POINT.
fn ecdh_seed(
    point: &[u8; 65],
    random: &SystemRandom,
) -> Result<(Zeroizing<[u8; DIGEST_LEN]>, Vec<u8>), Error> {
    let ephemeral = EphemeralPrivateKey::generate(&ECDH_P256, random).map_err(|_| Error::Random)?;
    let public = ephemeral.compute_public_key().map_err(|_| Error::Random)?;
    let (x, y) = public.as_ref()[1..].split_at(32);
    let ek_public = UnparsedPublicKey::new(&ECDH_P256, point);
    let seed = agree_ephemeral(ephemeral, &ek_public, |z| {
        let mut context = Context::new(&SHA256);
        for part in [&1u32.to_be_bytes()[..], z, b"IDENTITY\0", x, &point[1..33]] {
            context.update(part);
        }
        let mut seed = Zeroizing::new([0; DIGEST_LEN]);
        seed.copy_from_slice(context.finish().as_ref());
        seed
    });
    let seed = seed.map_err(|_| CredentialError::EkPoint)?;
    let size = 32u16.to_be_bytes();
    Ok((seed, [&size[..], x, &size, y].concat()))
}

/// Annex B.10.4: RSAES-OAEP (RFC 8017, section 7.1.1) with SHA-256 and the label "IDENTITY", including its
/// final zero.
fn oaep_encrypt(
    modulus: &[u8; 256],
    seed: &[u8; DIGEST_LEN],
    padding: &[u8; DIGEST_LEN],
) -> Result<Vec<u8>, CredentialError> {
    let mut block = Zeroizing::new([0; 256]);
    block[1..33].copy_from_slice(padding);
    let data = &mut block[33..];
    data[..DIGEST_LEN].copy_from_slice(&sha256(b"IDENTITY\0"));
    let end = data.len();
    data[end - DIGEST_LEN - 1] = 1;
    data[end - DIGEST_LEN..].copy_from_slice(seed);
    mgf1_xor(padding, data);
    let (head, data) = block.split_at_mut(33);
    mgf1_xor(data, &mut head[1..]);

    let modulus: Option<Odd<U2048>> = Odd::new(U2048::from_be_slice(modulus)).into();
    let modulus = modulus.ok_or(CredentialError::EkModulus)?;
    let base = FixedMontyForm::new(&U2048::from_be_slice(&block[..]), &FixedMontyParams::new(modulus));
    let exponent = Uint::<1>::from_u64(65537);
    Ok(base.pow(&exponent).retrieve().to_be_bytes().as_ref().to_vec())
}

/// Applies MGF1 with SHA-256 (RFC 8017, annex B.2.1) to `data` by XOR.
fn mgf1_xor(seed: &[u8], data: &mut [u8]) {
    for (counter, block) in data.chunks_mut(DIGEST_LEN).enumerate() {
        let mut context = Context::new(&SHA256);
        context.update(seed);
        context.update(&(counter as u32).to_be_bytes());
        for (byte, mask) in block.iter_mut().zip(context.finish().as_ref()) {
            *byte ^= mask;
        }
    }
}

/// A credential in the file format of `tpm2_makecredential`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tpm2ToolsCredential {
    /// Content of the TPM2B_ID_OBJECT.
    pub id_object: Vec<u8>,
    /// Content of the TPM2B_ENCRYPTED_SECRET.
    pub seed: Vec<u8>,
}

impl Tpm2ToolsCredential {
    /// Parses a file: the magic number 0xBADCC0DE, format 1, then the two structures, each with its size in
    /// front.
    ///
    /// # Errors
    ///
    /// If the file is longer than 1 KiB or not in this format.
    pub fn parse(bytes: &[u8]) -> Result<Tpm2ToolsCredential, Error> {
        if bytes.len() > 2 * MAX_CREDENTIAL_PART_LEN {
            return Err(CredentialError::FileTooLong.into());
        }
        let mut reader = TpmReader::new("file of tpm2_makecredential", bytes);
        if reader.u32().map_err(CredentialError::Malformed)? != 0xBADC_C0DE {
            return Err(CredentialError::NotTpm2Tools.into());
        }
        match reader.u32().map_err(CredentialError::Malformed)? {
            1 => {}
            other => return Err(CredentialError::UnknownFormat(other).into()),
        }
        let file = Tpm2ToolsCredential {
            id_object: reader.tpm2b().map_err(CredentialError::Malformed)?.to_vec(),
            seed: reader.tpm2b().map_err(CredentialError::Malformed)?.to_vec(),
        };
        reader.expect_end().map_err(CredentialError::Malformed)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// NIST SP 800-38A, F.3.13 (CFB128-AES128) has another IV. With an IV of zeros the first block is AES of
    /// a block of zeros under a key of zeros (FIPS 197).
    #[test]
    fn cfb_chains_blocks() {
        let mut text = [0; 34];
        encrypt_cfb(&[0; 16], &mut text);
        let zeros = HEXLOWER.decode(b"66e94bd4ef8a2c3b884cfa59ca342b2e").unwrap();
        assert_eq!(text[..16], zeros[..]);
        assert_ne!(text[16..32], text[..16]);
    }

    /// What hostbadge's own CFB wrote before cfb-mode; a TPM opens credentials of both in
    /// tests/tpm_module.rs.
    #[test]
    fn id_objects_keep_their_bytes() {
        let id_object = |secret: &[u8]| HEXLOWER.encode(&build_id_object(&[3; 32], &[9; 34], secret));
        assert_eq!(
            id_object(&[5; 32]),
            "00209266ae680f705b7003d0074f99336e3f3e8d644297c6996820216d130ee514dcf9b1038a687715534fcae6\
             9d4f87764c4f7fc06eba81cfc979141c77fb367ebfed40"
        );
        assert_eq!(
            id_object(&[5; 3]),
            "0020dffaeb45cf0a8a2a88e3f9d86b442062567687efa3afb5b29f9fda1a2c94c660f992038a68"
        );
    }

    #[test]
    fn tpm2_tools_file_is_parsed_strictly() {
        let good = [&[0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1, 0, 2, 7, 7][..], &[0, 1, 9]].concat();
        let file = Tpm2ToolsCredential::parse(&good).unwrap();
        assert_eq!((file.id_object, file.seed), (vec![7, 7], vec![9]));
        for end in 0..good.len() {
            Tpm2ToolsCredential::parse(&good[..end]).unwrap_err();
        }
        Tpm2ToolsCredential::parse(&[&good[..], &[0]].concat()).unwrap_err();
        for at in 0..10 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            Tpm2ToolsCredential::parse(&bad).unwrap_err();
        }
    }
}
