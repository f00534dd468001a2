//! The X.509 half of the Workload API: X509-SVIDs, and what they are verified with.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::pb::{X509BundlesResponse, X509svid, X509svidResponse};
use super::updates::Source;
use super::wallet::{Credential, Wallet};
use crate::agents::Agent;
use crate::clock::Timestamp;
use crate::pki::Certificate;
use crate::road::{Answer, Road};

/// What FetchX509SVID tells.
pub struct Svids(pub Wallet<Certificate>);

/// What FetchX509Bundles tells.
pub struct Bundles(pub Road);

impl Credential for Certificate {
    async fn issue(road: &Road, agent: &Agent, told: bool) -> Answer<Certificate> {
        road.x509_svid(agent, told).await
    }

    fn expires(&self) -> Timestamp {
        self.expires()
    }

    fn chance(&self) -> u8 {
        // A serial number is random.
        self.serial().get(2..4).and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }

    fn is_revoked(&self, road: &Road) -> bool {
        !road.authority.knows(self)
    }
}

impl Source for Svids {
    type Message = X509svidResponse;

    async fn compose(&mut self, agents: &[Agent]) -> Result<X509svidResponse, Status> {
        self.0.fill(agents, None).await?;
        let road = self.0.road();
        let bundle = own_bundle(road)?;
        let svids = self.0.entries().map(|(certificate, hint)| X509svid {
            spiffe_id: certificate.spiffe_id().to_owned(),
            x509_svid: certificate.chain().concat().into(),
            x509_svid_key: certificate.shared_key(),
            bundle: bundle.clone(),
            hint: hint.to_owned(),
        });
        Ok(X509svidResponse { svids: svids.collect(), crl: crls(road), federated_bundles: foreign(road) })
    }

    fn due(&self) -> Option<Duration> {
        self.0.due()
    }

    fn lasts(&self) -> bool {
        self.0.lasts()
    }
}

impl Source for Bundles {
    type Message = X509BundlesResponse;

    async fn compose(&mut self, _: &[Agent]) -> Result<X509BundlesResponse, Status> {
        let road = &self.0;
        let Some(standing) = road.issuer.standing() else {
            return Err(Status::unavailable(road.why_not_standing()));
        };
        let mut bundles = foreign(road);
        // Whatever a file is named, nobody's authorities stand for ours.
        bundles.insert(format!("spiffe://{}", standing.host().trust_domain), own_bundle(road)?);
        Ok(X509BundlesResponse { crl: crls(road), bundles })
    }
}

fn own_bundle(road: &Road) -> Result<Bytes, Status> {
    let roots = road.authority.bundle();
    if roots.is_empty() {
        return Err(Status::unavailable("the host's CA is being made; try again in a moment"));
    }
    Ok(roots.concat().into())
}

fn crls(road: &Road) -> Vec<Bytes> {
    road.authority.crls().into_iter().map(Bytes::from).collect()
}

/// Other trust domains' authorities.
fn foreign(road: &Road) -> BTreeMap<String, Bytes> {
    // Barred since the message was begun: without our own name, which of them claims to be us is not known.
    let Some(standing) = road.issuer.standing() else { return BTreeMap::new() };
    let own = &standing.host().trust_domain;
    let bundles = road.federation.bundles();
    let others = bundles.iter().filter(|(domain, bundle)| !bundle.x509.is_empty() && *domain != own);
    others.map(|(domain, bundle)| (format!("spiffe://{domain}"), bundle.x509.clone())).collect()
}
