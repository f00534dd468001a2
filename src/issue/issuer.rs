//! The issuers of this host, its own and those of its tenants: an immutable state for serving requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::documents::{BundleDocuments, IssuerDocuments};
use super::error::Error;
use super::host_identity::HostIdentity;
use super::jws::SigningHeader;
use super::key::IssuingKey;
use super::key_schedule::CLOCK_TOLERANCE;
use super::report::{KeyReport, KeyState};
use super::rsa::RsaSigningKey;
use super::tpm_keys::TpmKeys;
use crate::agents::TokenTyp;
use crate::clock::{Clock, ClockSync, Timestamp};
use crate::policy::Signer;
use crate::revocation::{RevocationSet, Target, TargetKind};
use crate::verify::{Jwk, STATUS_LIST_TYP};

/// Everything that issuing needs. It never changes: each step of a key schedule makes a new one.
#[derive(Debug)]
pub struct IssuerState {
    host: HostIdentity,
    /// For agents without a tenant.
    own: Arc<IssuerKeys>,
    tenants: BTreeMap<String, Arc<IssuerKeys>>,
    tpm_keys: TpmKeys,
    tpm_headers: TpmHeaders,
    bundles: BundleDocuments,
    key_reports: Vec<KeyReport>,
    sequence: u64,
    clock: Clock,
}

/// The issuing keys of one issuer, the host or a tenant, with its documents.
#[derive(Debug)]
pub struct IssuerKeys {
    /// `iss` of its tokens.
    issuer: String,
    /// The `kid` of the active key.
    signing_kid: String,
    /// The active key; `None` while it is revoked.
    issuing_key: Option<Arc<IssuingKey>>,
    /// The public keys, in the order of the key set.
    published: Vec<Jwk>,
    headers: HeadersOfKey,
    wit_svid: SigningHeader,
    status_list: SigningHeader,
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
#[derive(Clone, Debug)]
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
    /// `published` are the public keys in the order of the key set, which `tpm_keys` follow there; `reports` are
    /// those keys for administrators.
    pub(super) fn new(
        host_issuer: &str,
        issuer: String,
        issuing_key: Arc<IssuingKey>,
        published: Vec<Jwk>,
        tpm_keys: &[Jwk],
        reports: Vec<KeyReport>,
    ) -> Result<IssuerKeys, Error> {
        Ok(IssuerKeys {
            headers: HeadersOfKey::new(|typ| SigningHeader::for_memory_key(issuing_key.jwk(), typ))?,
            wit_svid: SigningHeader::for_wit_svid(issuing_key.jwk())?,
            status_list: SigningHeader::for_memory_key(issuing_key.jwk(), STATUS_LIST_TYP)?,
            documents: IssuerDocuments::new(host_issuer, &issuer, &published, tpm_keys)?,
            issuer,
            signing_kid: issuing_key.kid().to_owned(),
            issuing_key: Some(issuing_key),
            published,
            reports,
        })
    }

    /// How many of the published keys are revoked.
    fn count_revoked(&self, revocations: &RevocationSet) -> usize {
        self.published.iter().filter(|key| revocations.blocks_key(&key.kid)).count()
    }

    /// The same issuer without its revoked keys: they are in no document, and do not sign.
    fn without_revoked(
        &self,
        host_issuer: &str,
        tpm_keys: &[Jwk],
        revocations: &RevocationSet,
    ) -> Result<IssuerKeys, Error> {
        let is_revoked = |kid: &str| revocations.blocks_key(kid);
        let published: Vec<Jwk> =
            self.published.iter().filter(|key| !is_revoked(&key.kid)).cloned().collect();
        let report = |report: &KeyReport| match revocations.get(&Target::new(TargetKind::Key, &report.kid)) {
            Some(revocation) if report.is_revocable() => report.as_revoked(revocation.revoked_at),
            _ => report.clone(),
        };
        Ok(IssuerKeys {
            documents: IssuerDocuments::new(host_issuer, &self.issuer, &published, tpm_keys)?,
            issuing_key: self.issuing_key.clone().filter(|key| !is_revoked(key.kid())),
            published,
            reports: self.reports.iter().map(report).collect(),
            issuer: self.issuer.clone(),
            signing_kid: self.signing_kid.clone(),
            headers: self.headers.clone(),
            wit_svid: self.wit_svid.clone(),
            status_list: self.status_list.clone(),
        })
    }

    /// `iss` of the tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The active key, which signs in memory.
    ///
    /// # Errors
    /// [`Error::KeyRevoked`] while it is revoked and no other is active.
    pub fn issuing_key(&self) -> Result<&IssuingKey, Error> {
        self.issuing_key.as_deref().ok_or_else(|| Error::KeyRevoked(self.signing_kid.clone()))
    }

    /// The `kid` of the active key, also while it is revoked.
    pub fn signing_kid(&self) -> &str {
        &self.signing_kid
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

    pub(super) fn status_list_header(&self) -> &SigningHeader {
        &self.status_list
    }
}

impl IssuerState {
    /// `sequence` is greater after each change of the keys of any issuer.
    pub(super) fn new(
        host: HostIdentity,
        own: Arc<IssuerKeys>,
        tenants: BTreeMap<String, Arc<IssuerKeys>>,
        tpm_keys: TpmKeys,
        sequence: u64,
        clock: Clock,
    ) -> Result<IssuerState, Error> {
        let tpm_headers = TpmHeaders {
            host_key: HeadersOfKey::new(|typ| SigningHeader::for_tpm_key(&tpm_keys.host_key, typ))?,
            rsa_key: tpm_keys
                .rsa_key()
                .map(|rsa| HeadersOfKey::new(|typ| SigningHeader::for_tpm_key(rsa.jwk(), typ)))
                .transpose()?,
        };
        let issuers = || std::iter::once(&own).chain(tenants.values());
        let bundles = BundleDocuments::new(issuers().flat_map(|keys| &keys.published), sequence)?;
        let mut key_reports = own.reports.clone();
        key_reports.extend(tpm_keys.reports());
        key_reports.extend(tenants.values().flat_map(|keys| keys.reports.iter().cloned()));
        Ok(IssuerState { host, own, tenants, tpm_keys, tpm_headers, bundles, key_reports, sequence, clock })
    }

    /// How many of the keys are revoked.
    pub(super) fn count_revoked(&self, revocations: &RevocationSet) -> usize {
        self.count_revoked_issuing_keys(revocations) + self.tpm_keys.rsa.count_revoked(revocations)
    }

    fn count_revoked_issuing_keys(&self, revocations: &RevocationSet) -> usize {
        self.issuers().map(|keys| keys.count_revoked(revocations)).sum()
    }

    /// The same state without the revoked keys. Its sequence number, which is that of documents without RSA keys, is
    /// greater by the number of issuing keys among them, and the step of the key schedule that destroys them continues
    /// from there.
    pub(super) fn without_revoked(&self, revocations: &RevocationSet) -> Result<IssuerState, Error> {
        let tpm_keys = self.tpm_keys.without_revoked(revocations);
        let tpm_jwks = tpm_keys.jwks();
        let has_revoked_rsa_keys = self.tpm_keys.rsa.count_revoked(revocations) > 0;
        let valid = |keys: &Arc<IssuerKeys>| match has_revoked_rsa_keys || keys.count_revoked(revocations) > 0
        {
            true => keys.without_revoked(&self.host.issuer, &tpm_jwks, revocations).map(Arc::new),
            false => Ok(keys.clone()),
        };
        let tenant = |(name, keys): (&String, &Arc<IssuerKeys>)| Ok((name.clone(), valid(keys)?));
        let revoked = u64::try_from(self.count_revoked_issuing_keys(revocations)).unwrap_or_default();
        IssuerState::new(
            self.host.clone(),
            valid(&self.own)?,
            self.tenants.iter().map(tenant).collect::<Result<_, Error>>()?,
            tpm_keys,
            self.sequence.saturating_add(revoked),
            self.clock.clone(),
        )
    }

    fn issuers(&self) -> impl Iterator<Item = &Arc<IssuerKeys>> {
        std::iter::once(&self.own).chain(self.tenants.values())
    }

    /// The names of this host.
    pub fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// The host key, which is in the TPM.
    pub fn host_key(&self) -> &Jwk {
        &self.tpm_keys.host_key
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
            Some(tenant) => match self.tenants.get(tenant) {
                Some(keys) => Ok(keys),
                None => Err(Error::NoTenantKey(tenant.to_owned())),
            },
        }
    }

    /// Whether the key of this issuer is revoked and no other is active yet.
    pub fn waits_for_successor(&self, tenant: Option<&str>) -> bool {
        self.issuer_of(tenant).is_ok_and(|keys| keys.issuing_key.is_none())
    }

    /// The tenants that have issuing keys, in alphabetical order.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.keys().map(String::as_str)
    }

    /// The documents of the trust domain.
    pub fn bundles(&self) -> &BundleDocuments {
        &self.bundles
    }

    /// The RSA key that signs; `None` before a grant needs one, and while another is being made in place of a revoked
    /// one.
    pub fn rsa_key(&self) -> Option<&RsaSigningKey> {
        self.tpm_keys.rsa_key()
    }

    /// Every key with its state, for administrators: the issuing keys of the host (active, published, retired, destroyed),
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
        self.issuers().any(|keys| keys.issuing_key.is_some() && keys.wit_svid.kid() == kid)
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
