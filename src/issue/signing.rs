//! The certificate by which an organisation lets the host key sign certificates of its trust domain.

use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use x509_cert::Certificate;
use x509_cert::der::Encode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};

use super::Error;
use crate::clock::Timestamp;
use crate::store;
use crate::verify::{der, parse_certificate};

pub const NAME: &str = "signing.json";
const VERSION: u64 = 1;

/// A CA's certificate for the host key, with those that lead to the organisation's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signing {
    /// DER each: the host's own, those between, the root.
    chain: Vec<Vec<u8>>,
    /// When it was installed.
    pub since: Timestamp,
    pub until: Timestamp,
}

/// `signing.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// DER in base64; empty where the organisation takes it back.
    chain: Vec<String>,
    /// Seconds since the epoch.
    since: u64,
}

impl Signing {
    pub fn read(dir: &Path) -> Result<Option<Signing>, Error> {
        let Some(stored) = store::read::<Stored>(&dir.join(NAME), VERSION)? else { return Ok(None) };
        if stored.chain.is_empty() {
            return Ok(None);
        }
        let torn = |what: String| Error::Enrollment(format!("{}: {what}", dir.join(NAME).display()));
        let chain: Result<Vec<_>, _> =
            stored.chain.iter().map(|text| BASE64.decode(text.as_bytes())).collect();
        let chain = chain.map_err(|e| torn(e.to_string()))?;
        let first = parse_certificate(&chain[0]).map_err(|e| torn(e.to_string()))?;
        Ok(Some(Signing { until: until(&first), chain, since: Timestamp::from_secs(stored.since) }))
    }

    pub(super) fn stored(signing: Option<&Signing>) -> Stored {
        let chain = signing.map_or(&[][..], |signing| &signing.chain);
        Stored {
            chain: chain.iter().map(|der| BASE64.encode(der)).collect(),
            since: signing.map_or(0, |signing| signing.since.secs()),
        }
    }

    /// The host's own certificate.
    pub fn certificate(&self) -> &[u8] {
        &self.chain[0]
    }

    /// That and those between it and the root.
    pub fn below_root(&self) -> &[Vec<u8>] {
        &self.chain[..self.chain.len() - 1]
    }

    pub fn root(&self) -> &[u8] {
        &self.chain[self.chain.len() - 1]
    }

    /// Parts what `hostbadge enroll certify --signing` made: the chain of the host's certificate, the certificate that the
    /// host signs with, the root. Where the second is missing, all is the first.
    pub(super) fn split(
        given: &[Vec<u8>],
        host_key: &[u8; 65],
        trust_domain: &str,
        now: Timestamp,
    ) -> Result<(Vec<Vec<u8>>, Option<Signing>), Error> {
        let refused = |why: String| Error::Enrollment(why);
        let all = given.iter().map(|der| parse_certificate(der)).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|e| refused(e.to_string()))?;
        let own = der::p256_key(host_key);
        let is_own = |one: &Certificate| {
            one.tbs_certificate().subject_public_key_info().to_der().is_ok_and(|info| info == own)
        };
        let Some(at) = (1..all.len()).find(|at| is_own(&all[*at])) else { return Ok((given.to_vec(), None)) };
        let first = &all[at];
        may_sign(first, trust_domain)
            .map_err(|why| refused(format!("the certificate to sign with {why}")))?;
        if until(first) <= now {
            return Err(refused(format!("the certificate to sign with has expired at {}", until(first))));
        }
        // Both have the same issuer, so those between are the same.
        let chain: Vec<usize> = std::iter::once(at).chain(1..at).chain(at + 1..all.len()).collect();
        let issuer = |at: usize| all[at].tbs_certificate().issuer();
        let linked = chain.windows(2).all(|two| issuer(two[0]) == all[two[1]].tbs_certificate().subject());
        let last = chain[chain.len() - 1];
        if !linked || issuer(last) != all[last].tbs_certificate().subject() {
            let what = "the certificate to sign with does not lead to a root in the same file";
            return Err(refused(what.into()));
        }
        let signing = Signing {
            chain: chain.into_iter().map(|at| given[at].clone()).collect(),
            since: Timestamp::from_secs(now.secs()),
            until: until(first),
        };
        Ok((given[..at].to_vec(), Some(signing)))
    }
}

fn until(certificate: &Certificate) -> Timestamp {
    Timestamp::from_secs(certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
}

/// The error says what it is not.
fn may_sign(certificate: &Certificate, trust_domain: &str) -> Result<(), String> {
    let body = certificate.tbs_certificate();
    let constraints = body.get_extension::<BasicConstraints>().ok().flatten();
    let fits = constraints.is_some_and(|(_, constraints)| {
        constraints.ca && constraints.path_len_constraint.is_none_or(|length| length >= 1)
    });
    let usage = body.get_extension::<KeyUsage>().ok().flatten();
    if !fits || !usage.is_some_and(|(_, usage)| usage.key_cert_sign() && usage.crl_sign()) {
        return Err("is not a CA's that may have another CA below it and sign revocation lists".into());
    }
    let uri = format!("spiffe://{trust_domain}");
    let names = body.get_extension::<SubjectAltName>().ok().flatten();
    let named = names.is_some_and(|(_, names)| {
        names
            .0
            .iter()
            .any(|name| matches!(name, GeneralName::UniformResourceIdentifier(of) if of.as_str() == uri))
    });
    match named {
        true => Ok(()),
        false => Err(format!("is not for the trust domain of this host, {uri}")),
    }
}
