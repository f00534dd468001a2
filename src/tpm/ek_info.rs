//! Endorsement keys and their certificates, as the TPM's manufacturer provisioned them.

use super::activate::EkKind;
use super::connection::TpmConnection;
use super::ek_certificate::{EkCertificateFault, EkCertificateFaultCause};
use super::error::{Error, FaultClass};
use super::objects::write_public;
use super::{ek_certificate, templates};

/// An endorsement key with its certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndorsementKey {
    /// TPM2B_PUBLIC.
    pub public: Vec<u8>,
    /// The certificate in DER, if the TPM has one.
    pub certificate: Option<Vec<u8>>,
}

/// The endorsement keys of a TPM, with the certificates of its manufacturer. Each certificate is for its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EkInfo {
    /// ECC P-256, template L-2; the host's id is derived from its Name.
    pub p256: EndorsementKey,
    /// RSA-2048, template L-1; only if the TPM has a certificate for it.
    pub rsa: Option<EndorsementKey>,
    /// Issuers' certificates, each in DER, 16 at most.
    pub chain: Vec<Vec<u8>>,
}

/// What was read about the endorsement keys of one TPM. It is kept for later connections to the same TPM, so
/// that nothing that the TPM refused is tried again, and each fault is logged once.
#[derive(Debug, Default)]
pub(super) struct EkCache {
    /// The P-256 EK of that TPM, TPM2B_PUBLIC.
    ek_public: Vec<u8>,
    p256_certificate: Option<Result<Option<Vec<u8>>, EkCertificateFault>>,
    info: Option<EkInfo>,
}

impl EkCache {
    /// This cache if it is of the TPM with this P-256 EK (TPM2B_PUBLIC), else an empty one.
    pub(super) fn for_ek(self, ek_public: &[u8]) -> EkCache {
        match self.ek_public == ek_public {
            true => self,
            false => EkCache { ek_public: ek_public.to_vec(), ..EkCache::default() },
        }
    }

    /// The P-256 EK's certificate, or why the TPM's index for it does not give one.
    pub(super) fn p256_certificate(
        &mut self,
        connection: &mut TpmConnection,
    ) -> Result<Result<Option<Vec<u8>>, EkCertificateFault>, Error> {
        if let Some(certificate) = &self.p256_certificate {
            return Ok(certificate.clone());
        }
        let certificate = read_p256_certificate(connection)?;
        if let Err(fault) = &certificate {
            fault.log();
        }
        let is_final = !certificate.as_ref().is_err_and(EkCertificateFault::is_temporary);
        self.p256_certificate = is_final.then(|| certificate.clone());
        Ok(certificate)
    }

    /// The endorsement keys; read again if one could not be derived, or its certificate not be read, now.
    ///
    /// Deriving the RSA EK takes a TPM up to seconds and needs the endorsement hierarchy's authorization. If
    /// that has a password, the result has the P-256 EK alone, which was derived when connecting.
    pub(super) fn ek_info(&mut self, connection: &mut TpmConnection) -> Result<EkInfo, Error> {
        if let Some(info) = &self.info {
            return Ok(info.clone());
        }
        let certificate = self.p256_certificate(connection)?.ok().flatten();
        let p256 = EndorsementKey { public: connection.identity().ek_public.clone(), certificate };
        let (rsa, complete) = match read_rsa(connection)? {
            RsaEk::Complete(rsa) => (rsa, true),
            RsaEk::Unavailable => (None, false),
        };
        let info = EkInfo { p256, rsa, chain: ek_certificate::read_chain(connection)? };
        self.info = Some(info.clone()).filter(|_| complete && self.p256_certificate.is_some());
        Ok(info)
    }
}

fn read_p256_certificate(
    connection: &mut TpmConnection,
) -> Result<Result<Option<Vec<u8>>, EkCertificateFault>, Error> {
    let certificate = ek_certificate::read(connection, EkKind::P256)?;
    let public = &connection.identity().ek_public;
    let checked = certificate.and_then(|certificate| {
        certificate.as_deref().map(|der| ek_certificate::check_key(EkKind::P256, public, der)).transpose()?;
        Ok(certificate)
    });
    Ok(checked)
}

/// The RSA EK.
enum RsaEk {
    /// With its certificate; `None` if the TPM has no usable certificate for it.
    Complete(Option<EndorsementKey>),
    /// The endorsement hierarchy has a password, or the TPM is in lockout.
    Unavailable,
}

fn read_rsa(connection: &mut TpmConnection) -> Result<RsaEk, Error> {
    let without_certificate = |fault: EkCertificateFault| {
        fault.log();
        Ok(RsaEk::Complete(None))
    };
    let certificate = match ek_certificate::read(connection, EkKind::Rsa)? {
        Ok(None) => return Ok(RsaEk::Complete(None)),
        Ok(Some(certificate)) => certificate,
        Err(fault) if fault.is_temporary() => return Ok(RsaEk::Unavailable),
        Err(fault) => return without_certificate(fault),
    };
    let derived = connection.with_primary(templates::ek_rsa()?, |_, _, public| write_public(public));
    match derived {
        Ok(public) => match ek_certificate::check_key(EkKind::Rsa, &public, &certificate) {
            Ok(()) => Ok(RsaEk::Complete(Some(EndorsementKey { public, certificate: Some(certificate) }))),
            Err(fault) => without_certificate(fault),
        },
        Err(error) if error.fault_class() == FaultClass::Authorization => Ok(RsaEk::Unavailable),
        // A TPM without RSA, for example.
        Err(error) if error.fault_class() == FaultClass::Request => {
            let cause = EkCertificateFaultCause::NoKey(error.to_string());
            without_certificate(EkCertificateFault::new(EkKind::Rsa, cause))
        }
        Err(error) => Err(error),
    }
}
