//! The keys of the host's CA: their reports, and the next issuing CA.

use std::sync::Arc;

use data_encoding::HEXLOWER;

use super::{CaChange, CaRecord, HostCa};
use crate::clock::Timestamp;
use crate::issue::{KeyKind, KeyReport, KeyState, NextStep};
use crate::pki::ca_file::encrypt_key;
use crate::pki::ca_rotation::CaRotation;
use crate::pki::error::Error;
use crate::pki::issuing_ca::{LIFETIME, ParentCa, UnsignedCa};
use crate::pki::issuing_cas;
use crate::pki::root_ca::{self, sign};
use crate::risk::RiskClass;
use crate::verify::Jwk;

const ROOT_NOTE: &str = "does not rotate: its key is the host key, so that relying parties keep the root; its \
                         certificate is signed again a year before it expires";

impl HostCa {
    /// Makes the next issuing CA now, whenever it is due. Those before it stay valid and sign their lists, so their
    /// number is bounded.
    ///
    /// # Errors
    /// [`Error::TooManyIssuingCas`], and as [`HostCa::advance`].
    pub async fn rotate(&mut self) -> Result<(CaRotation, CaChange), Error> {
        let now = self.clock.now();
        let mut kept = self.issuing_cas.clone();
        issuing_cas::drop_expired(&mut kept, self.settled.horizon(now));
        if kept.len() >= issuing_cas::MAX_ON_COMMAND {
            let until = kept.iter().map(|record| record.ca.not_after()).min().unwrap_or(now);
            return Err(Error::TooManyIssuingCas { max: issuing_cas::MAX_ON_COMMAND, until });
        }
        let retired = self.issuing_cas.first().map(|record| record.ca.kid().to_owned());
        let change = self.create_issuing_ca(now).await?;
        let kid = self.issuing_cas.first().map(|record| record.ca.kid().to_owned()).unwrap_or_default();
        Ok((CaRotation { kid, retired }, change))
    }

    /// Has the host key sign an issuing CA, which is the active one from then on.
    pub(super) async fn create_issuing_ca(&mut self, now: Timestamp) -> Result<CaChange, Error> {
        let not_after =
            self.delegated_ca.as_ref().map_or(self.root.not_after, |delegated_ca| delegated_ca.not_after);
        if not_after <= now {
            return Err(Error::ParentExpired(not_after));
        }
        let parent = ParentCa {
            name: &self.root.name,
            key_id: self.root.key_id,
            not_after,
            host_id: &self.host.id,
            trust_domain: &self.host.trust_domain,
        };
        let unsigned = UnsignedCa::new(&parent, now)?;
        let kek = self.keystore.latest_kek().await?;
        let signature = sign(&self.tpm, unsigned.tbs()).await?;
        let ca = Arc::new(unsigned.into_signed(&signature)?);
        let encrypted_key = encrypt_key(&kek, &ca)?;
        let change =
            CaChange::IssuingCaCreated { name: HEXLOWER.encode(&ca.tag()), not_after: ca.not_after() };
        let mut issuing_cas = self.issuing_cas.clone();
        issuing_cas::drop_expired(&mut issuing_cas, self.settled.horizon(now));
        issuing_cas::add(&mut issuing_cas, CaRecord { ca, encrypted_key, revoked: Vec::new() }, now);
        self.persist(issuing_cas).await?;
        Ok(change)
    }

    /// The root, then the issuing CAs, the active one first.
    pub(super) fn key_reports(&self) -> Vec<KeyReport> {
        let mut reports = vec![self.root_report()];
        // A CA signs after its successor is made too: its list of revoked certificates.
        let mut successor: Option<Timestamp> = None;
        for record in &self.issuing_cas {
            let ca = &record.ca;
            let (state, since, step, at) = match successor {
                None => (KeyState::Active, ca.created_at(), "successor", ca.renew_at()),
                Some(since) => (KeyState::Retired, since, "destroyed", ca.not_after()),
            };
            reports.push(KeyReport {
                created: Some(ca.created_at()),
                since: Some(since),
                next: Some(NextStep { step, at }),
                rotate_every: Some(LIFETIME / 2),
                ..KeyReport::new(KeyKind::IssuingCa, ca.kid().to_owned(), state, RiskClass::High)
            });
            successor = Some(ca.created_at());
        }
        reports
    }

    fn root_report(&self) -> KeyReport {
        let kid = Jwk::from_point(&self.host_key).kid;
        let renewal = self.root.not_after.before(root_ca::RENEW_BEFORE);
        KeyReport {
            created: Some(self.root.not_before),
            since: Some(self.root.not_before),
            next: Some(NextStep { step: "renewed", at: renewal }),
            note: Some(ROOT_NOTE),
            ..KeyReport::new(KeyKind::HostCaRoot, kid, KeyState::Active, RiskClass::Low)
        }
    }
}
