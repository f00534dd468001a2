//! Provisioning the host's keys, and signing with the host key.

use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::structures::{Data, Digest, HashcheckTicket, SignatureScheme};
use tss_esapi::traits::Marshall;
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

use super::connection::TpmConnection;
use super::error::{Error, command_failed, unexpected_response};
use super::objects::{Certification, KeyBlob, TpmObjects, join_signature};
use super::{seal, templates};

/// Creates AK, host key, its certification and the sealed key-encryption key, and validates them like stored
/// ones.
pub(super) fn provision(connection: &mut TpmConnection) -> Result<TpmObjects, Error> {
    let ak = connection.create_object(templates::ak()?, None)?;
    let host_key = connection.create_object(templates::host_key()?, None)?;
    let certification = certify(connection, &host_key, &ak)?;
    let kek = seal::create_sealed_kek(connection)?;
    let identity = connection.identity().clone();
    let objects = TpmObjects {
        srk_name: identity.srk_name,
        ek_name: identity.ek_name,
        ek_public: identity.ek_public,
        ak,
        host_key,
        certification,
        kek,
    };
    objects.validate()?;
    Ok(objects)
}

/// Certifies with the AK that a key is in the same TPM (`TPM2_Certify`, no qualifying data).
pub(super) fn certify(
    connection: &mut TpmConnection,
    key: &KeyBlob,
    ak: &KeyBlob,
) -> Result<Certification, Error> {
    let (attest, signature) = connection.with_loaded(key, |connection, key| {
        connection.with_loaded(ak, |connection, ak| {
            connection.run_with_password_auth("TPM2_Certify", |context| {
                context.certify(key.into(), ak, Data::default(), SignatureScheme::Null)
            })
        })
    })?;
    let marshal_error = command_failed("marshalling a certification");
    Ok(Certification {
        attest: attest.marshall().map_err(&marshal_error)?,
        signature: signature.marshall().map_err(&marshal_error)?,
    })
}

/// Checks that AK and host key load, and that the AK certifies the host key again.
pub(super) fn check_certification(connection: &mut TpmConnection, objects: &TpmObjects) -> Result<(), Error> {
    let certification = certify(connection, &objects.host_key, &objects.ak)?;
    TpmObjects { certification, ..objects.clone() }.validate()
}

/// The host key's ECDSA signature over a SHA-256 digest: r and s, 32 bytes each, big endian.
pub(super) fn host_sign(
    connection: &mut TpmConnection,
    objects: &TpmObjects,
    digest: &[u8; 32],
) -> Result<[u8; 64], Error> {
    let digest = Digest::try_from(digest.as_slice()).map_err(command_failed("TPM2_Sign"))?;
    let ticket = null_hashcheck_ticket()?;
    let signature = connection.with_loaded(&objects.host_key, |connection, key| {
        connection.run("TPM2_Sign", |context| context.sign(key, digest, SignatureScheme::Null, ticket))
    })?;
    join_signature(&signature).ok_or_else(|| unexpected_response("TPM2_Sign"))
}

/// The ticket for a digest that the TPM did not compute; unrestricted keys accept it (TPM 2.0 Part 3, section
/// 20.2).
pub(super) fn null_hashcheck_ticket() -> Result<HashcheckTicket, Error> {
    HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: Default::default(),
    })
    .map_err(command_failed("TPM2_Sign"))
}
