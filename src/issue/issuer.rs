//! The issuer of this host: who it is, and the key that signs now.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::{Documents, Error, IssuingKey, Token, token};
use crate::agents::Entry;
use crate::clock::Timestamp;
use crate::policy::{Permit, Reason, Refusal};

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

/// All that minting needs, complete.
#[derive(Debug)]
pub struct Standing {
    host: Host,
    key: IssuingKey,
    header: String,
    endorsement: String,
    documents: Documents,
}

impl Standing {
    pub(super) fn new(host: Host, key: IssuingKey, endorsement: String) -> Result<Standing, Error> {
        let documents = Documents::of(&host, &[&key])?;
        Ok(Standing { header: token::encoded_header(key.kid())?, documents, host, key, endorsement })
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn key(&self) -> &IssuingKey {
        &self.key
    }

    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// The host key's word for the issuing key, a JWS.
    pub fn endorsement(&self) -> &str {
        &self.endorsement
    }

    /// Mints what was permitted, in memory.
    pub fn token(&self, permit: Permit, now: Timestamp) -> Result<Token, Refusal> {
        let (agent, audience) = (permit.agent().clone(), permit.audience().to_owned());
        token::mint(self, permit, now).map_err(|e| {
            Refusal::new(Reason::ServerError, e.to_string())
                .by(agent.peer())
                .of(agent.name())
                .about(&audience)
        })
    }

    pub(super) fn header(&self) -> &str {
        &self.header
    }
}

/// The issuer. Cheap to clone; without a standing it mints nothing.
#[derive(Clone, Debug, Default)]
pub struct Issuer(Arc<ArcSwapOption<Standing>>);

impl Issuer {
    /// Puts a standing in force.
    pub fn set(&self, standing: Standing) {
        self.0.store(Some(Arc::new(standing)));
    }

    /// The standing in force.
    pub fn standing(&self) -> Option<Arc<Standing>> {
        self.0.load_full()
    }
}
