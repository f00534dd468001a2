//! Making the host's keys, and signing with them.

use tss_esapi::constants::tss::TPM2_RH_NULL;
use tss_esapi::constants::tss::TPM2_ST_HASHCHECK;
use tss_esapi::structures::Data;
use tss_esapi::structures::Digest;
use tss_esapi::structures::HashcheckTicket;
use tss_esapi::structures::Public;
use tss_esapi::structures::SensitiveData;
use tss_esapi::structures::SignatureScheme;
use tss_esapi::traits::Marshall;
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

use super::connection::TpmConnection;
use super::connection::unexpected_response;
use super::error::Error;
use super::error::command_failed;
use super::objects::Certification;
use super::objects::KeyBlob;
use super::objects::TpmObjects;
use super::objects::join_signature;
use super::seal;
use super::templates;

/// Makes AK, host key, its certification and the sealed key-encryption key, and checks the result as if it had come
/// from disk.
pub(super) fn provision(connection: &mut TpmConnection) -> Result<TpmObjects, Error> {
    let ak = create(connection, templates::ak()?, None)?;
    let host_key = create(connection, templates::host_key()?, None)?;
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

/// `TPM2_Create` under the SRK; `secret` is what is sealed, for a sealed object.
pub(super) fn create(
    connection: &mut TpmConnection,
    template: Public,
    secret: Option<SensitiveData>,
) -> Result<KeyBlob, Error> {
    let srk = connection.srk();
    let created =
        connection.run("TPM2_Create", |context| context.create(srk, template, None, secret, None, None))?;
    KeyBlob::new(&created.out_public, created.out_private.value())
}

/// The AK says that a key is in the same TPM as itself (`TPM2_Certify`, no qualifying data).
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

/// Whether AK and host key load and the one certifies the other, now as when they were made.
pub(super) fn check_certification(connection: &mut TpmConnection, objects: &TpmObjects) -> Result<(), Error> {
    let certification = certify(connection, &objects.host_key, &objects.ak)?;
    TpmObjects { certification, ..objects.clone() }.validate()
}

/// ECDSA over a SHA-256 digest by the host key: r and s, 32 bytes each, big endian.
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

/// An unrestricted key signs digests that the TPM did not make, so it needs no proof that it made this one.
pub(super) fn null_hashcheck_ticket() -> Result<HashcheckTicket, Error> {
    HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: Default::default(),
    })
    .map_err(command_failed("TPM2_Sign"))
}
