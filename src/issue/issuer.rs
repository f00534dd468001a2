//! The issuer of this host: who it is, and the key that signs now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::access_token::{self, SigningHeader};
use super::{
    AccessToken, Error, IssuingKey, JwtSvid, KeyReport, PublishedDocuments, RsaSigningKey, WitSvid, jwt_svid,
    wit_svid,
};
use crate::agents::AgentEntry;
use crate::clock::Timestamp;
use crate::policy::{ErrorCode, IdentityPermit, JwtSvidPermit, Permit, Refusal, Signer};
use crate::verify::Jwk;

/// What the host is called, and how well its key is guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIdentity {
    /// 26 characters, from the EK.
    pub id: String,
    pub trust_domain: String,
    /// `iss` of every token.
    pub issuer: String,
    /// Whether the TPM is a program rather than a chip.
    pub software_tpm: bool,
}

impl HostIdentity {
    /// The agent's SPIFFE ID on this host.
    pub fn spiffe_id(&self, agent: &AgentEntry) -> String {
        format!("spiffe://{}{}", self.trust_domain, agent.spiffe_path(&self.id))
    }

    pub fn tpm_kind(&self) -> &'static str {
        if self.software_tpm { "software" } else { "hardware" }
    }
}

/// All that minting needs, complete. Never changed: a step of the keys puts another in its place.
#[derive(Debug)]
pub struct IssuerState {
    host: HostIdentity,
    issuing_key: Arc<IssuingKey>,
    rsa_key: Option<Arc<RsaSigningKey>>,
    /// One for each key that signs: issuing key, host key, RSA key.
    signing_headers: (SigningHeader, SigningHeader, Option<SigningHeader>),
    /// The issuing key's for JWT-SVIDs.
    jwt_svid_header: SigningHeader,
    /// The same for WIT-SVIDs.
    wit_svid_header: SigningHeader,
    documents: PublishedDocuments,
    key_reports: Vec<KeyReport>,
}

impl IssuerState {
    pub(super) fn new(
        host: HostIdentity,
        issuing_key: Arc<IssuingKey>,
        host_key: &Jwk,
        rsa_key: Option<Arc<RsaSigningKey>>,
        documents: PublishedDocuments,
        key_reports: Vec<KeyReport>,
    ) -> Result<IssuerState, Error> {
        let rsa_header = rsa_key.as_ref().map(|rsa| SigningHeader::for_tpm_key(rsa.jwk())).transpose()?;
        let signing_headers = (
            SigningHeader::for_memory_key(issuing_key.jwk())?,
            SigningHeader::for_tpm_key(host_key)?,
            rsa_header,
        );
        let (jwt_svid_header, wit_svid_header) = (
            SigningHeader::for_jwt_svid(issuing_key.jwk())?,
            SigningHeader::for_wit_svid(issuing_key.jwk())?,
        );
        Ok(IssuerState {
            jwt_svid_header,
            wit_svid_header,
            host,
            issuing_key,
            rsa_key,
            signing_headers,
            documents,
            key_reports,
        })
    }

    pub fn host(&self) -> &HostIdentity {
        &self.host
    }

    /// The key that signs.
    pub fn issuing_key(&self) -> &IssuingKey {
        &self.issuing_key
    }

    pub fn documents(&self) -> &PublishedDocuments {
        &self.documents
    }

    /// The TPM's RSA key, where there is one.
    pub fn rsa_key(&self) -> Option<&RsaSigningKey> {
        self.rsa_key.as_deref()
    }

    /// Every key with its state, for administrators: active, published, retired, destroyed, and those of the TPM.
    pub fn key_reports(&self) -> &[KeyReport] {
        &self.key_reports
    }

    /// Mints what was permitted and is signed by the issuing key, in memory.
    pub fn mint_token(&self, permit: Permit, now: Timestamp) -> Result<AccessToken, Refusal> {
        let (agent, audience) = (permit.agent().clone(), permit.audience().to_owned());
        if permit.signer() != Signer::Issuing {
            let message = "only the TPM signs what this grant permits";
            return Err(Refusal::new(ErrorCode::ServerError, message)
                .with_peer(agent.peer())
                .with_agent(agent.name())
                .with_audience(&audience));
        }
        access_token::build(self, permit, now).and_then(|token| token.sign(&self.issuing_key)).map_err(|e| {
            Refusal::new(ErrorCode::ServerError, e.to_string())
                .with_peer(agent.peer())
                .with_agent(agent.name())
                .with_audience(&audience)
        })
    }

    pub(super) fn signing_header(&self, signer: Signer) -> Result<&SigningHeader, Error> {
        let (issuing, host, rsa) = &self.signing_headers;
        match signer {
            Signer::Issuing => Ok(issuing),
            Signer::Host => Ok(host),
            Signer::Rsa => rsa.as_ref().ok_or_else(|| Error::Key("there is no RSA key".into())),
        }
    }

    /// Mints a SPIFFE token, in memory.
    pub fn mint_jwt_svid(&self, permit: JwtSvidPermit, now: Timestamp) -> Result<JwtSvid, Refusal> {
        let (agent, audiences) = (permit.agent().clone(), permit.audiences().join(" "));
        jwt_svid::mint(self, permit, now).map_err(|e| {
            Refusal::new(ErrorCode::ServerError, e.to_string())
                .with_peer(agent.peer())
                .with_agent(agent.name())
                .with_audience(&audiences)
        })
    }

    /// Mints a WIT-SVID and its key, in memory.
    pub fn mint_wit_svid(
        &self,
        permit: IdentityPermit,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<WitSvid, Refusal> {
        let agent = permit.agent().clone();
        wit_svid::mint(self, permit, ttl, now).map_err(|e| {
            Refusal::new(ErrorCode::ServerError, e.to_string())
                .with_peer(agent.peer())
                .with_agent(agent.name())
        })
    }

    /// Whether WIT-SVIDs are signed under this name now.
    pub fn is_current_wit_kid(&self, kid: &str) -> bool {
        self.wit_svid_header.kid == kid
    }

    pub(super) fn jwt_svid_header(&self) -> &SigningHeader {
        &self.jwt_svid_header
    }

    pub(super) fn wit_svid_header(&self) -> &SigningHeader {
        &self.wit_svid_header
    }
}

/// The issuer. Cheap to clone; without a standing it mints nothing.
#[derive(Clone, Debug, Default)]
pub struct Issuer(Arc<IssuerShared>);

#[derive(Debug, Default)]
struct IssuerShared {
    state: ArcSwapOption<IssuerState>,
    suspended: AtomicBool,
}

impl Issuer {
    /// Puts a standing in force.
    pub fn set_state(&self, state: IssuerState) {
        self.0.state.store(Some(Arc::new(state)));
    }

    /// While barred nothing is served, keys or documents; afterwards what was in force is so again.
    pub fn set_suspended(&self, suspended: bool) {
        self.0.suspended.store(suspended, Ordering::Release);
    }

    /// The standing in force.
    pub fn state(&self) -> Option<Arc<IssuerState>> {
        match self.0.suspended.load(Ordering::Acquire) {
            true => None,
            false => self.0.state.load_full(),
        }
    }
}
