//! `TPM2_MakeCredential` in software (TPM 2.0 Part 1, section 24 and annexes B.10.4 and C.6.4).
//!
//! Where the TPM's names of the parts are used they are its own: a seed is encrypted to the EK, and from it come the keys
//! that encrypt the secret and bind it to the Name of the key that is to be in the same TPM.

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use crypto_bigint::modular::{MontyForm, MontyParams};
use crypto_bigint::{Odd, U2048, Uint};
use data_encoding::BASE64;
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::digest::{Context, SHA256, digest};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::Error;
use super::challenge::EncryptedCredential;
use crate::verify::TpmReader;
use crate::verify::{Ek, EkKey};

/// Most that a credential can hold: a TPM2B_DIGEST of the EK's hash algorithm.
pub const MAX_CREDENTIAL_SECRET_LEN: usize = 32;
/// No part of a credential for the templates' keys comes near this.
pub(super) const MAX_CREDENTIAL_PART_LEN: usize = 512;

/// A 256-bit digest's size, which is the seed's too.
const DIGEST_LEN: usize = 32;

/// Makes a credential: `secret`, of 32 bytes at most, for whoever has `ek` and a key named `name`.
pub fn make_credential(ek: &Ek, key_name: &[u8], secret: &[u8]) -> Result<EncryptedCredential, Error> {
    if secret.len() > MAX_CREDENTIAL_SECRET_LEN {
        return Err(Error::Credential(format!("a secret has {MAX_CREDENTIAL_SECRET_LEN} bytes at most")));
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

/// TPMS_ID_OBJECT: the integrity value, and the secret encrypted with a size in front (Part 1, section 24.4 and 24.5).
fn build_id_object(seed: &[u8; DIGEST_LEN], name: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut identity = Zeroizing::new((secret.len() as u16).to_be_bytes().to_vec());
    identity.extend_from_slice(secret);
    let key = kdfa(seed, "STORAGE", name);
    encrypt_cfb(&key[..16], &mut identity);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &kdfa(seed, "INTEGRITY", &[])[..]);
    let integrity = hmac::sign(&key, &[&identity[..], name].concat());
    [&(DIGEST_LEN as u16).to_be_bytes()[..], integrity.as_ref(), &identity].concat()
}

/// KDFa (Part 1, section 11.4.10.2) with SHA-256, for 256 bits. AES-128 takes the first half of what it would get for 128
/// bits, so the number of bits tells the two uses apart.
fn kdfa(seed: &[u8], label: &str, context: &[u8]) -> Zeroizing<[u8; DIGEST_LEN]> {
    let bits: u32 = if label == "STORAGE" { 128 } else { 256 };
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let input = [&1u32.to_be_bytes()[..], label.as_bytes(), &[0], context, &bits.to_be_bytes()].concat();
    let mut derived = Zeroizing::new([0; DIGEST_LEN]);
    derived.copy_from_slice(hmac::sign(&key, &input).as_ref());
    derived
}

/// AES-128 in CFB mode with an initial vector of zeros; a key is used for one message.
fn encrypt_cfb(key: &[u8], text: &mut [u8]) {
    let Ok(cipher) = Aes128::new_from_slice(key) else { unreachable!("the key has 16 bytes") };
    let mut feedback = [0u8; 16];
    for block in text.chunks_mut(16) {
        let mut keystream = feedback.into();
        cipher.encrypt_block(&mut keystream);
        for (byte, mask) in block.iter_mut().zip(keystream.iter()) {
            *byte ^= mask;
        }
        feedback[..block.len()].copy_from_slice(block);
    }
}

/// Annex C.6.4: a seed from one-pass Diffie-Hellman, by KDFe; and our point as a TPMS_ECC_POINT.
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
    let seed = seed.map_err(|_| Error::Credential("the EK's point is not on its curve".into()))?;
    let size = 32u16.to_be_bytes();
    Ok((seed, [&size[..], x, &size, y].concat()))
}

/// Annex B.10.4: RSAES-OAEP (RFC 8017, section 7.1.1) with SHA-256 and the label "IDENTITY", its final zero included.
fn oaep_encrypt(
    modulus: &[u8; 256],
    seed: &[u8; DIGEST_LEN],
    padding: &[u8; DIGEST_LEN],
) -> Result<Vec<u8>, Error> {
    let mut block = Zeroizing::new([0; 256]);
    block[1..33].copy_from_slice(padding);
    let data = &mut block[33..];
    data[..DIGEST_LEN].copy_from_slice(digest(&SHA256, b"IDENTITY\0").as_ref());
    let end = data.len();
    data[end - DIGEST_LEN - 1] = 1;
    data[end - DIGEST_LEN..].copy_from_slice(seed);
    mgf1_xor(padding, data);
    let (head, data) = block.split_at_mut(33);
    mgf1_xor(data, &mut head[1..]);

    let modulus: Option<Odd<U2048>> = Odd::new(U2048::from_be_slice(modulus)).into();
    let modulus = modulus.ok_or_else(|| Error::Credential("the EK's modulus is even".into()))?;
    let base = MontyForm::new(&U2048::from_be_slice(&block[..]), MontyParams::new(modulus));
    let exponent = Uint::<1>::from_u64(65537);
    Ok(base.pow(&exponent).retrieve().to_be_bytes().as_ref().to_vec())
}

/// Puts MGF1 (RFC 8017, annex B.2.1) over `data`.
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

/// A credential as `tpm2_makecredential` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tpm2ToolsCredential {
    /// Contents of the TPM2B_ID_OBJECT.
    pub id_object: Vec<u8>,
    /// Contents of the TPM2B_ENCRYPTED_SECRET.
    pub seed: Vec<u8>,
}

impl Tpm2ToolsCredential {
    /// A magic number, a version, then the two structures, each with its size.
    pub fn parse(bytes: &[u8]) -> Result<Tpm2ToolsCredential, Error> {
        let fault = |e: crate::verify::Error| Error::Credential(e.to_string());
        if bytes.len() > 2 * MAX_CREDENTIAL_PART_LEN {
            return Err(Error::Credential("it is too long for one".into()));
        }
        let mut reader = TpmReader::new("file of tpm2_makecredential", bytes);
        if reader.u32().map_err(fault)? != 0xBADC_C0DE {
            return Err(Error::Credential("tpm2_makecredential did not write this".into()));
        }
        match reader.u32().map_err(fault)? {
            1 => {}
            other => return Err(Error::Credential(format!("format {other} of tpm2-tools is not known"))),
        }
        let file = Tpm2ToolsCredential {
            id_object: reader.tpm2b().map_err(fault)?.to_vec(),
            seed: reader.tpm2b().map_err(fault)?.to_vec(),
        };
        reader.expect_end().map_err(fault)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, F.3.13 (CFB128-AES128) has another initial vector; with zeros the first block is the cipher's own
    /// answer to zeros under FIPS 197's key of zeros.
    #[test]
    fn cfb_chains_blocks() {
        let mut text = [0; 34];
        encrypt_cfb(&[0; 16], &mut text);
        let zeros = data_encoding::HEXLOWER.decode(b"66e94bd4ef8a2c3b884cfa59ca342b2e").unwrap();
        assert_eq!(text[..16], zeros[..]);
        assert_ne!(text[16..32], text[..16]);
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
