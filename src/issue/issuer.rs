//! The issuer of this host: an immutable state for serving requests, and the handle that replaces it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use super::documents::PublishedDocuments;
use super::error::Error;
use super::host_identity::HostIdentity;
use super::jws::SigningHeader;
use super::key::IssuingKey;
use super::key_schedule::CLOCK_TOLERANCE;
use super::report::{KeyReport, KeyState};
use super::rsa::RsaSigningKey;
use crate::agents::TokenTyp;
use crate::clock::{Clock, ClockSync, Timestamp};
use crate::policy::Signer;
use crate::verify::Jwk;

/// Everything that issuing needs. It never changes: each step of the key schedule makes a new one.
#[derive(Debug)]
pub struct IssuerState {
    host: HostIdentity,
    issuing_key: Arc<IssuingKey>,
    rsa_key: Option<Arc<RsaSigningKey>>,
    headers: SigningHeaders,
    documents: PublishedDocuments,
    key_reports: Vec<KeyReport>,
    clock: Clock,
}

/// One header for each token type and key.
#[derive(Debug)]
struct SigningHeaders {
    issuing_key: HeadersOfKey,
    host_key: HeadersOfKey,
    rsa_key: Option<HeadersOfKey>,
    wit_svid: SigningHeader,
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

impl IssuerState {
    pub(super) fn new(
        host: HostIdentity,
        issuing_key: Arc<IssuingKey>,
        host_key: &Jwk,
        rsa_key: Option<Arc<RsaSigningKey>>,
        documents: PublishedDocuments,
        key_reports: Vec<KeyReport>,
        clock: Clock,
    ) -> Result<IssuerState, Error> {
        let headers = SigningHeaders {
            issuing_key: HeadersOfKey::new(|typ| SigningHeader::for_memory_key(issuing_key.jwk(), typ))?,
            host_key: HeadersOfKey::new(|typ| SigningHeader::for_tpm_key(host_key, typ))?,
            rsa_key: rsa_key
                .as_ref()
                .map(|rsa| HeadersOfKey::new(|typ| SigningHeader::for_tpm_key(rsa.jwk(), typ)))
                .transpose()?,
            wit_svid: SigningHeader::for_wit_svid(issuing_key.jwk())?,
        };
        Ok(IssuerState { host, issuing_key, rsa_key, headers, documents, key_reports, clock })
    }

    /// The names of this host.
    pub fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// The active key, which signs in memory.
    pub fn issuing_key(&self) -> &IssuingKey {
        &self.issuing_key
    }

    /// The documents for relying parties.
    pub fn documents(&self) -> &PublishedDocuments {
        &self.documents
    }

    /// The TPM's RSA key, if the host has one.
    pub fn rsa_key(&self) -> Option<&RsaSigningKey> {
        self.rsa_key.as_deref()
    }

    /// Every key with its state, for administrators: active, published, retired, destroyed, and those in the
    /// TPM.
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

    /// Whether new WIT-SVIDs have this `kid`.
    pub fn is_current_wit_kid(&self, kid: &str) -> bool {
        self.headers.wit_svid.kid() == kid
    }

    /// The header of access tokens of this type by this signer.
    ///
    /// # Errors
    /// [`Error::NoRsaKey`] for RS256 before the host has an RSA key.
    pub(super) fn signing_header(&self, signer: Signer, typ: TokenTyp) -> Result<&SigningHeader, Error> {
        let headers = match signer {
            Signer::Issuing => &self.headers.issuing_key,
            Signer::Host => &self.headers.host_key,
            Signer::Rsa => self.headers.rsa_key.as_ref().ok_or(Error::NoRsaKey)?,
        };
        Ok(headers.get(typ))
    }

    pub(super) fn jwt_svid_header(&self) -> &SigningHeader {
        &self.headers.issuing_key.jwt
    }

    pub(super) fn wit_svid_header(&self) -> &SigningHeader {
        &self.headers.wit_svid
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
