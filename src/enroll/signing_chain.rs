//! The certificates that a host installs: its own, and those by which an organization lets it sign.

use data_encoding::HEXLOWER;
use x509_cert::Certificate;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{KeyUsage, SubjectAltName};

use super::error::SigningChainFault;
use crate::clock::Timestamp;
use crate::digest::sha256;
use crate::verify::ca_chain::{verify_ca_chain, verify_host_chain};
use crate::verify::{self, not_after, parse_certificate};

/// The output of `hostbadge enroll certify`, split into its chains.
#[derive(Clone, Debug)]
pub struct InstallBundle {
    /// DER: the host's certificate and those that lead from it to the organization's root.
    pub host_chain: Vec<Vec<u8>>,
    /// With `--signing`: what makes the host key a CA.
    pub signing_chain: Option<SigningChain>,
}

/// A CA certificate for the host key, the intermediates, and the organization's root, which becomes a root
/// of the host's trust bundle. Not verified before [`SigningChain::verify`].
#[derive(Clone, Debug)]
pub struct SigningChain {
    /// DER, the root last; at least two.
    chain: Vec<Vec<u8>>,
}

impl InstallBundle {
    /// Splits certificates (DER), of which the first is the host's. A later one for the same key is the one
    /// that makes it a CA.
    ///
    /// # Errors
    ///
    /// If a certificate is malformed, or nothing follows the CA certificate.
    pub fn split(bundle: &[Vec<u8>]) -> Result<InstallBundle, SigningChainFault> {
        let parsed = bundle.iter().map(|der| parse_certificate(der)).collect::<Result<Vec<_>, _>>();
        let parsed = parsed.map_err(SigningChainFault::Certificate)?;
        let key = |at: usize| parsed[at].tbs_certificate().subject_public_key_info();
        let Some(index) = (1..parsed.len()).find(|at| key(*at) == key(0)) else {
            return Ok(InstallBundle { host_chain: bundle.to_vec(), signing_chain: None });
        };
        // Both certificates have the same issuer, so their intermediates are the same.
        let order = std::iter::once(index).chain(1..index).chain(index + 1..parsed.len());
        let chain: Vec<Vec<u8>> = order.map(|at| bundle[at].clone()).collect();
        if chain.len() < 2 {
            return Err(SigningChainFault::NoPathToRoot);
        }
        Ok(InstallBundle {
            host_chain: bundle[..index].to_vec(),
            signing_chain: Some(SigningChain { chain }),
        })
    }

    /// Checks the host's certificate, and every signature from it up to the last certificate given.
    ///
    /// # Errors
    ///
    /// [`verify::Error::Certificate`] with the certificate's subject and what is wrong with it.
    pub fn verify_host_chain(&self, now: Timestamp) -> Result<(), verify::Error> {
        let Some(signing_chain) = &self.signing_chain else {
            return verify_host_chain(&self.host_chain, now);
        };
        // The chain to the root is stored with the CA certificate alone.
        let issuers = &signing_chain.chain[1..];
        verify_host_chain(&[&self.host_chain[..1], issuers].concat(), now)
    }
}

impl SigningChain {
    /// DER: the host's CA certificate, the intermediates, the root.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// SHA-256 over the root's DER, in hexadecimal: what `openssl x509 -fingerprint -sha256` shows, without
    /// colons.
    pub fn root_sha256(&self) -> String {
        certificate_sha256(self.root_der())
    }

    /// The root's subject, as an RFC 4514 string, and when it expires.
    ///
    /// # Errors
    ///
    /// If the root is malformed.
    pub fn root(&self) -> Result<(String, Timestamp), SigningChainFault> {
        let root = parse(self.root_der())?;
        Ok((root.tbs_certificate().subject().to_string(), not_after(&root)))
    }

    /// When the host's CA certificate expires.
    ///
    /// # Errors
    ///
    /// If it is malformed.
    pub fn not_after(&self) -> Result<Timestamp, SigningChainFault> {
        Ok(not_after(&parse(&self.chain[0])?))
    }

    /// Checks that the host's CA certificate is for this trust domain and lets the host have an issuing CA,
    /// and that every signature of the chain, up to the root's own, is valid at `now`. That the root is the
    /// organization's is for an administrator to decide: see [`SigningChain::root_sha256`].
    ///
    /// # Errors
    ///
    /// A [`SigningChainFault`] that says what is wrong.
    pub fn verify(&self, trust_domain: &str, now: Timestamp) -> Result<(), SigningChainFault> {
        let (first, root) = (parse(&self.chain[0])?, parse(self.root_der())?);
        if root.tbs_certificate().issuer() != root.tbs_certificate().subject() {
            return Err(SigningChainFault::NoPathToRoot);
        }
        verify_ca_chain(&self.chain, trust_domain, now).map_err(SigningChainFault::Unverified)?;
        check_ca_certificate(&first, trust_domain)
    }

    fn root_der(&self) -> &[u8] {
        &self.chain[self.chain.len() - 1]
    }
}

/// SHA-256 over a certificate's DER, in hexadecimal.
pub fn certificate_sha256(der: &[u8]) -> String {
    HEXLOWER.encode(&sha256(der))
}

fn parse(der: &[u8]) -> Result<Certificate, SigningChainFault> {
    parse_certificate(der).map_err(|e: verify::Error| SigningChainFault::Certificate(e))
}

/// Checks what a host's CA certificate needs beyond those of other CAs.
fn check_ca_certificate(certificate: &Certificate, trust_domain: &str) -> Result<(), SigningChainFault> {
    let tbs = certificate.tbs_certificate();
    let usage = tbs.get_extension::<KeyUsage>().ok().flatten();
    if !usage.is_some_and(|(_, usage)| usage.crl_sign()) {
        return Err(SigningChainFault::NotForCrls);
    }
    let uri = format!("spiffe://{trust_domain}");
    let names = tbs.get_extension::<SubjectAltName>().ok().flatten();
    let has_trust_domain = names.is_some_and(|(_, names)| {
        names.0.iter().any(
            |name| matches!(name, GeneralName::UniformResourceIdentifier(value) if value.as_str() == uri),
        )
    });
    if has_trust_domain { Ok(()) } else { Err(SigningChainFault::TrustDomain(uri)) }
}
