//! The issuer of this host: who it is, and the key that signs now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::token::{self, Seal};
use super::{Documents, Error, IssuingKey, JwtSvid, KeyReport, RsaKey, Token, WitSvid, svid, wit};
use crate::agents::Entry;
use crate::clock::Timestamp;
use crate::policy::{IdentityPermit, Permit, Reason, Refusal, Signer, SvidPermit};
use crate::verify::Jwk;

/// What the host is called, and how well its key is guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// 26 characters, from the EK.
    pub id: String,
    pub trust_domain: String,
    /// `iss` of every token.
    pub issuer: String,
    /// Whether the TPM is a program rather than a chip.
    pub software: bool,
}

impl Host {
    /// The agent's SPIFFE ID on this host.
    pub fn spiffe_id(&self, agent: &Entry) -> String {
        format!("spiffe://{}{}", self.trust_domain, agent.spiffe_path(&self.id))
    }

    pub fn tpm(&self) -> &'static str {
        if self.software { "software" } else { "hardware" }
    }
}

/// All that minting needs, complete. Never changed: a step of the keys puts another in its place.
#[derive(Debug)]
pub struct Standing {
    host: Host,
    key: Arc<IssuingKey>,
    rsa: Option<Arc<RsaKey>>,
    /// One for each key that signs: issuing key, host key, RSA key.
    seals: (Seal, Seal, Option<Seal>),
    /// The issuing key's for JWT-SVIDs.
    svid_seal: Seal,
    /// The same for WIT-SVIDs.
    wit_seal: Seal,
    documents: Documents,
    keys: Vec<KeyReport>,
}

impl Standing {
    pub(super) fn new(
        host: Host,
        key: Arc<IssuingKey>,
        host_key: &Jwk,
        rsa: Option<Arc<RsaKey>>,
        documents: Documents,
        keys: Vec<KeyReport>,
    ) -> Result<Standing, Error> {
        let by_rsa = rsa.as_ref().map(|rsa| Seal::in_tpm(rsa.jwk())).transpose()?;
        let seals = (Seal::in_memory(key.jwk())?, Seal::in_tpm(host_key)?, by_rsa);
        let (svid_seal, wit_seal) = (Seal::of_svids(key.jwk())?, Seal::of_wits(key.jwk())?);
        Ok(Standing { svid_seal, wit_seal, host, key, rsa, seals, documents, keys })
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The key that signs.
    pub fn key(&self) -> &IssuingKey {
        &self.key
    }

    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// The TPM's RSA key, where there is one.
    pub fn rsa(&self) -> Option<&RsaKey> {
        self.rsa.as_deref()
    }

    /// Every key with its state, for administrators: active, published, retired, destroyed, and those of the TPM.
    pub fn keys(&self) -> &[KeyReport] {
        &self.keys
    }

    /// Mints what was permitted and is signed by the issuing key, in memory.
    pub fn token(&self, permit: Permit, now: Timestamp) -> Result<Token, Refusal> {
        let (agent, audience) = (permit.agent().clone(), permit.audience().to_owned());
        if permit.signer() != Signer::Issuing {
            let what = "only the TPM signs what this grant permits";
            return Err(Refusal::new(Reason::ServerError, what)
                .by(agent.peer())
                .of(agent.name())
                .about(&audience));
        }
        token::write(self, permit, now).and_then(|token| token.sign(&self.key)).map_err(|e| {
            Refusal::new(Reason::ServerError, e.to_string())
                .by(agent.peer())
                .of(agent.name())
                .about(&audience)
        })
    }

    pub(super) fn seal(&self, signer: Signer) -> Result<&Seal, Error> {
        let (issuing, host, rsa) = &self.seals;
        match signer {
            Signer::Issuing => Ok(issuing),
            Signer::Host => Ok(host),
            Signer::Rsa => rsa.as_ref().ok_or_else(|| Error::Key("there is no RSA key".into())),
        }
    }

    /// Mints a SPIFFE token, in memory.
    pub fn jwt_svid(&self, permit: SvidPermit, now: Timestamp) -> Result<JwtSvid, Refusal> {
        let (agent, audiences) = (permit.agent().clone(), permit.audiences().join(" "));
        svid::mint(self, permit, now).map_err(|e| {
            Refusal::new(Reason::ServerError, e.to_string())
                .by(agent.peer())
                .of(agent.name())
                .about(&audiences)
        })
    }

    /// Mints a WIT-SVID and its key, in memory.
    pub fn wit_svid(
        &self,
        permit: IdentityPermit,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<WitSvid, Refusal> {
        let agent = permit.agent().clone();
        wit::mint(self, permit, ttl, now)
            .map_err(|e| Refusal::new(Reason::ServerError, e.to_string()).by(agent.peer()).of(agent.name()))
    }

    /// Whether WIT-SVIDs are signed under this name now.
    pub fn signs_as(&self, kid: &str) -> bool {
        self.wit_seal.kid == kid
    }

    pub(super) fn svid_seal(&self) -> &Seal {
        &self.svid_seal
    }

    pub(super) fn wit_seal(&self) -> &Seal {
        &self.wit_seal
    }
}

/// The issuer. Cheap to clone; without a standing it mints nothing.
#[derive(Clone, Debug, Default)]
pub struct Issuer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    standing: ArcSwapOption<Standing>,
    barred: AtomicBool,
}

impl Issuer {
    /// Puts a standing in force.
    pub fn set(&self, standing: Standing) {
        self.0.standing.store(Some(Arc::new(standing)));
    }

    /// While barred nothing is served, keys or documents; afterwards what was in force is so again.
    pub fn bar(&self, barred: bool) {
        self.0.barred.store(barred, Ordering::Release);
    }

    /// The standing in force.
    pub fn standing(&self) -> Option<Arc<Standing>> {
        match self.0.barred.load(Ordering::Acquire) {
            true => None,
            false => self.0.standing.load_full(),
        }
    }
}
