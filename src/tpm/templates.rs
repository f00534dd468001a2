//! Templates: the public areas of all objects that hostbadge creates in the TPM.
//!
//! SRK and EKs follow the TCG's templates to the byte, since a primary key is derived from its template.

use ring::digest;
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, KeyedHashScheme,
    Public, PublicBuilder, PublicEccParameters, PublicKeyRsa, PublicKeyedHashParameters, PublicRsaParameters,
    RsaExponent, RsaScheme, SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall;

use super::error::{Error, command_failed};

/// The storage root key: ECC P-256 under the owner, no policy, outside the dictionary attack counter.
///
/// TCG TPM v2.0 Provisioning Guidance, section 7.5.1: the EK template with these attributes and no policy.
pub(super) fn srk() -> Result<Public, Error> {
    let attributes = base_attributes()
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true);
    storage_key(attributes, Digest::default())
}

/// The endorsement key: template L-2 (ECC P-256) of the TCG EK Credential Profile, section B.3.4.
pub(super) fn ek() -> Result<Public, Error> {
    let attributes = base_attributes()
        .with_sensitive_data_origin(true)
        .with_admin_with_policy(true)
        .with_restricted(true)
        .with_decrypt(true);
    let policy = Digest::try_from(EK_POLICY_A.as_slice()).map_err(command_failed("EK template"))?;
    storage_key(attributes, policy)
}

/// The RSA endorsement key: template L-1 (RSA-2048) of the same profile, section B.3.3.
pub(super) fn ek_rsa() -> Result<Public, Error> {
    let failed = command_failed("EK template");
    let attributes = base_attributes()
        .with_sensitive_data_origin(true)
        .with_admin_with_policy(true)
        .with_restricted(true)
        .with_decrypt(true);
    let parameters = PublicRsaParameters::new(
        SymmetricDefinitionObject::AES_128_CFB,
        RsaScheme::Null,
        RsaKeyBits::Rsa2048,
        RsaExponent::default(),
    );
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(build_attributes(attributes)?)
        .with_auth_policy(Digest::try_from(EK_POLICY_A.as_slice()).map_err(&failed)?)
        .with_rsa_parameters(parameters)
        .with_rsa_unique_identifier(PublicKeyRsa::try_from([0; 256].as_slice()).map_err(&failed)?)
        .build()
        .map_err(&failed)
}

/// The attestation key, restricted: signs only structures that the TPM itself creates.
pub(super) fn ak() -> Result<Public, Error> {
    signing_key(signing_attributes().with_restricted(true))
}

/// The host key, unrestricted: signs any digest.
pub(super) fn host_key() -> Result<Public, Error> {
    signing_key(signing_attributes())
}

/// The RSA host key, unrestricted: signs any SHA-256 digest with RSASSA-PKCS1-v1_5; default exponent 65537.
pub(super) fn rsa_key() -> Result<Public, Error> {
    let scheme = RsaScheme::RsaSsa(HashScheme::new(HashingAlgorithm::Sha256));
    let (symmetric, bits) = (SymmetricDefinitionObject::Null, RsaKeyBits::Rsa2048);
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(build_attributes(signing_attributes())?)
        .with_rsa_parameters(PublicRsaParameters::new(symmetric, scheme, bits, RsaExponent::default()))
        .with_rsa_unique_identifier(PublicKeyRsa::default())
        .build()
        .map_err(command_failed("RSA-2048 template"))
}

/// Sealed data, unsealed with an empty password.
pub(super) fn sealed_data() -> Result<Public, Error> {
    keyed_hash(base_attributes().with_user_with_auth(true).with_no_da(true), Digest::default())
}

/// Sealed data that is unsealed only with a policy session; it has no `userWithAuth`, so a password is not
/// accepted.
pub(super) fn sealed_data_with_policy(policy: &[u8; 32]) -> Result<Public, Error> {
    let policy = Digest::try_from(policy.as_slice()).map_err(command_failed("sealing template"))?;
    keyed_hash(base_attributes().with_admin_with_policy(true).with_no_da(true), policy)
}

fn keyed_hash(attributes: ObjectAttributesBuilder, policy: Digest) -> Result<Public, Error> {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(build_attributes(attributes)?)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
        .map_err(command_failed("sealing template"))
}

/// Whether a public area equals the template in all but the key itself (`unique`).
pub(super) fn matches_template(public: &Public, template: &Public) -> bool {
    let mut candidate = public.clone();
    match (&mut candidate, template) {
        (Public::Ecc { unique, .. }, Public::Ecc { unique: expected, .. }) => *unique = expected.clone(),
        (Public::Rsa { unique, .. }, Public::Rsa { unique: expected, .. }) => *unique = expected.clone(),
        (Public::KeyedHash { unique, .. }, Public::KeyedHash { unique: expected, .. }) => {
            *unique = expected.clone()
        }
        _ => return false,
    }
    candidate == *template
}

/// A public area's Name: the hash algorithm and the digest of the area (TPM 2.0 Part 1, section 16).
///
/// Computed from the area rather than taken from the TPM's response, since SRK and EK are pinned by it.
pub(super) fn object_name(public: &Public) -> Result<Vec<u8>, Error> {
    let area = public.marshall().map_err(command_failed("marshalling a public area"))?;
    let mut name = SHA256_ID.to_vec();
    name.extend_from_slice(digest::digest(&digest::SHA256, &area).as_ref());
    Ok(name)
}

/// TPM_ALG_SHA256 (TPM 2.0 Part 2, section 6.3), the first two bytes of a SHA-256 Name.
pub(super) const SHA256_ID: [u8; 2] = [0x00, 0x0B];

/// The uncompressed point of a P-256 key (SEC 1, section 2.3.3): 0x04, then x and y of 32 bytes each.
pub(super) fn p256_point(public: &Public) -> Option<[u8; 65]> {
    let Public::Ecc { unique, .. } = public else { return None };
    let mut point = [4; 65];
    point[1..33].copy_from_slice(&to_32_bytes(unique.x())?);
    point[33..].copy_from_slice(&to_32_bytes(unique.y())?);
    Some(point)
}

/// A TPM's big-endian number, which may lack leading zeros, as 32 bytes; `None` if it is longer.
pub(super) fn to_32_bytes(number: &EccParameter) -> Option<[u8; 32]> {
    let bytes = number.value();
    let mut fixed = [0; 32];
    fixed.get_mut(32usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(fixed)
}

fn base_attributes() -> ObjectAttributesBuilder {
    ObjectAttributesBuilder::new().with_fixed_tpm(true).with_fixed_parent(true)
}

fn signing_attributes() -> ObjectAttributesBuilder {
    base_attributes()
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
}

fn build_attributes(attributes: ObjectAttributesBuilder) -> Result<ObjectAttributes, Error> {
    attributes.build().map_err(command_failed("object attributes"))
}

fn storage_key(attributes: ObjectAttributesBuilder, policy: Digest) -> Result<Public, Error> {
    let zeros = EccParameter::try_from([0u8; 32].as_slice()).map_err(command_failed("primary template"))?;
    let parameters = (SymmetricDefinitionObject::AES_128_CFB, EccScheme::Null);
    ecc_p256(attributes, policy, parameters, EccPoint::new(zeros.clone(), zeros))
}

fn signing_key(attributes: ObjectAttributesBuilder) -> Result<Public, Error> {
    let ecdsa = EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256));
    let parameters = (SymmetricDefinitionObject::Null, ecdsa);
    ecc_p256(attributes, Digest::default(), parameters, EccPoint::default())
}

fn ecc_p256(
    attributes: ObjectAttributesBuilder,
    policy: Digest,
    (symmetric, scheme): (SymmetricDefinitionObject, EccScheme),
    unique: EccPoint,
) -> Result<Public, Error> {
    let kdf = KeyDerivationFunctionScheme::Null;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(build_attributes(attributes)?)
        .with_auth_policy(policy)
        .with_ecc_parameters(PublicEccParameters::new(symmetric, scheme, EccCurve::NistP256, kdf))
        .with_ecc_unique_identifier(unique)
        .build()
        .map_err(command_failed("P-256 template"))
}

/// PolicyA: `TPM2_PolicySecret(TPM_RH_ENDORSEMENT)` (EK Credential Profile, section B.6.2).
const EK_POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_matches_only_itself() {
        let all = [srk(), ek(), ek_rsa(), ak(), host_key(), rsa_key(), sealed_data()];
        let all = all.map(|template| template.unwrap());
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(matches_template(one, other), i == j, "{i} {j}");
            }
        }
    }

    #[test]
    fn numbers_are_left_padded() {
        let number = |bytes: &[u8]| EccParameter::try_from(bytes).unwrap();
        assert_eq!(to_32_bytes(&number(&[1])).unwrap()[31], 1);
        assert_eq!(to_32_bytes(&number(&[7; 32])).unwrap(), [7; 32]);
        assert_eq!(to_32_bytes(&number(&[7; 33])), None);
    }
}
