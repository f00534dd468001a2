//! The issuers of this host, its own and those of its tenants: an immutable state for serving requests, and the
//! handle that replaces it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use super::documents::{BundleDocuments, IssuerDocuments};
use super::error::Error;
use super::host_identity::HostIdentity;
use super::jws::SigningHeader;
use super::key::IssuingKey;
use super::key_schedule::CLOCK_TOLERANCE;
use super::report::{KeyReport, KeyState, tpm_key_reports};
use super::rsa::RsaSigningKey;
use crate::agents::TokenTyp;
use crate::clock::{Clock, ClockSync, Timestamp};
use crate::policy::Signer;
use crate::verify::Jwk;

/// Everything that issuing needs. It never changes: each step of a key schedule makes a new one.
#[derive(Debug)]
pub struct IssuerState {
    host: HostIdentity,
    /// For agents without a tenant.
    own: IssuerKeys,
    tenants: BTreeMap<String, IssuerKeys>,
    rsa_key: Option<Arc<RsaSigningKey>>,
    host_key: Jwk,
    tpm_headers: TpmHeaders,
    bundles: BundleDocuments,
    key_reports: Vec<KeyReport>,
    clock: Clock,
}

/// The issuing keys of one issuer, the host or a tenant, with its documents.
#[derive(Debug)]
pub struct IssuerKeys {
    /// `iss` of its tokens.
    issuer: String,
    issuing_key: Arc<IssuingKey>,
    /// The public keys, in the order of the key set.
    published: Vec<Jwk>,
    headers: HeadersOfKey,
    wit_svid: SigningHeader,
    documents: IssuerDocuments,
    reports: Vec<KeyReport>,
}

/// The headers of the tokens that the TPM signs, for every issuer.
#[derive(Debug)]
struct TpmHeaders {
    host_key: HeadersOfKey,
    rsa_key: Option<HeadersOfKey>,
}

/// The headers of one key's tokens, by `typ`.
#[derive(Debug)]
struct HeadersOfKey {
    at_jwt: SigningHeader,
    jwt: SigningHeader,
}

impl HeadersOfKey {
    fn new(header: impl Fn(&str) -> Result<SigningHeader, Error>) -> Result<HeadersOfKey, Error> {
        Ok(HeadersOfKey { at_jwt: header(TokenTyp::AtJwt.as_str())?, jwt: header(TokenTyp::Jwt.as_str())? })
    }

    fn get(&self, typ: TokenTyp) -> &SigningHeader {
        match typ {
            TokenTyp::AtJwt => &self.at_jwt,
            TokenTyp::Jwt => &self.jwt,
        }
    }
}

impl IssuerKeys {
    /// `published` are the public keys in the order of the key set, `reports` those keys for administrators.
    pub(super) fn new(
        issuer: String,
        issuing_key: Arc<IssuingKey>,
        published: Vec<Jwk>,
        documents: IssuerDocuments,
        reports: Vec<KeyReport>,
    ) -> Result<IssuerKeys, Error> {
        Ok(IssuerKeys {
            headers: HeadersOfKey::new(|typ| SigningHeader::for_memory_key(issuing_key.jwk(), typ))?,
            wit_svid: SigningHeader::for_wit_svid(issuing_key.jwk())?,
            issuer,
            issuing_key,
            published,
            documents,
            reports,
        })
    }

    /// `iss` of the tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The active key, which signs in memory.
    pub fn issuing_key(&self) -> &IssuingKey {
        &self.issuing_key
    }

    /// The documents for relying parties.
    pub fn documents(&self) -> &IssuerDocuments {
        &self.documents
    }

    pub(super) fn jwt_svid_header(&self) -> &SigningHeader {
        &self.headers.jwt
    }

    pub(super) fn wit_svid_header(&self) -> &SigningHeader {
        &self.wit_svid
    }
}

impl IssuerState {
    /// `sequence` is greater after each change of the keys of any issuer.
    pub(super) fn new(
        host: HostIdentity,
        own: IssuerKeys,
        tenants: BTreeMap<String, IssuerKeys>,
        host_key: &Jwk,
        rsa_key: Option<Arc<RsaSigningKey>>,
        sequence: u64,
        clock: Clock,
    ) -> Result<IssuerState, Error> {
        let tpm_headers = TpmHeaders {
            host_key: HeadersOfKey::new(|typ| SigningHeader::for_tpm_key(host_key, typ))?,
            rsa_key: rsa_key
                .as_ref()
                .map(|rsa| HeadersOfKey::new(|typ| SigningHeader::for_tpm_key(rsa.jwk(), typ)))
                .transpose()?,
        };
        let issuers = || std::iter::once(&own).chain(tenants.values());
        let bundles = BundleDocuments::new(issuers().flat_map(|keys| &keys.published), sequence)?;
        let mut key_reports = own.reports.clone();
        key_reports.extend(tpm_key_reports(host_key, rsa_key.as_deref()));
        key_reports.extend(tenants.values().flat_map(|keys| keys.reports.iter().cloned()));
        let host_key = host_key.clone();
        Ok(IssuerState { host, own, tenants, rsa_key, host_key, tpm_headers, bundles, key_reports, clock })
    }

    /// The names of this host.
    pub fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// The host key, which is in the TPM.
    pub fn host_key(&self) -> &Jwk {
        &self.host_key
    }

    /// The issuer of the agents without a tenant.
    pub fn own(&self) -> &IssuerKeys {
        &self.own
    }

    /// The issuer of a tenant's agents, or of agents without one.
    ///
    /// # Errors
    /// [`Error::NoTenantKey`] until the tenant's keys are made.
    pub fn issuer_of(&self, tenant: Option<&str>) -> Result<&IssuerKeys, Error> {
        match tenant {
            None => Ok(&self.own),
            Some(tenant) => self.tenants.get(tenant).ok_or_else(|| Error::NoTenantKey(tenant.to_owned())),
        }
    }

    /// The tenants that have issuing keys, in alphabetical order.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.keys().map(String::as_str)
    }

    /// The documents of the trust domain.
    pub fn bundles(&self) -> &BundleDocuments {
        &self.bundles
    }

    /// The TPM's RSA key, if the host has one.
    pub fn rsa_key(&self) -> Option<&RsaSigningKey> {
        self.rsa_key.as_deref()
    }

    /// Every key with its state, for administrators: those of the host (active, published, retired, destroyed),
    /// those in the TPM, then those of each tenant.
    pub fn key_reports(&self) -> &[KeyReport] {
        &self.key_reports
    }

    /// How many keys have been in their state since a time that has not come yet: the clock was ahead then,
    /// or is behind now.
    pub fn count_future_keys(&self, now: Timestamp) -> usize {
        let last = now.after(CLOCK_TOLERANCE);
        let keys = self.key_reports.iter().filter(|key| key.state != KeyState::Destroyed);
        keys.filter(|key| key.since.is_some_and(|since| since > last)).count()
    }

    /// Whether the clock from which tokens have their times is synchronized.
    pub(super) fn clock_sync(&self) -> ClockSync {
        self.clock.sync()
    }

    /// Whether new WIT-SVIDs of an issuer have this `kid`.
    pub fn is_current_wit_kid(&self, kid: &str) -> bool {
        std::iter::once(&self.own).chain(self.tenants.values()).any(|keys| keys.wit_svid.kid() == kid)
    }

    /// The header of access tokens of this type of an issuer of this host, by this signer.
    ///
    /// # Errors
    /// [`Error::NoRsaKey`] for RS256 before the host has an RSA key.
    pub(super) fn signing_header<'a>(
        &'a self,
        issuer: &'a IssuerKeys,
        signer: Signer,
        typ: TokenTyp,
    ) -> Result<&'a SigningHeader, Error> {
        let headers = match signer {
            Signer::Issuing => &issuer.headers,
            Signer::Host => &self.tpm_headers.host_key,
            Signer::Rsa => self.tpm_headers.rsa_key.as_ref().ok_or(Error::NoRsaKey)?,
        };
        Ok(headers.get(typ))
    }
}

/// A handle to the current [`IssuerState`]. Cheap to clone. Without a state nothing is issued.
#[derive(Clone, Debug, Default)]
pub struct Issuer(Arc<IssuerShared>);

#[derive(Debug, Default)]
struct IssuerShared {
    state: ArcSwapOption<IssuerState>,
    suspended: AtomicBool,
}

impl Issuer {
    /// Replaces the current state.
    pub fn set_state(&self, state: IssuerState) {
        self.0.state.store(Some(Arc::new(state)));
    }

    /// While suspended, [`Issuer::state`] is `None`; afterwards it is the previous state again.
    pub fn set_suspended(&self, suspended: bool) {
        self.0.suspended.store(suspended, Ordering::Release);
    }

    /// The current state; `None` before the first one and while suspended.
    pub fn state(&self) -> Option<Arc<IssuerState>> {
        if self.0.suspended.load(Ordering::Acquire) { None } else { self.0.state.load_full() }
    }
}
