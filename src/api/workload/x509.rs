//! The X.509 half of the Workload API: X509-SVIDs, and what they are verified with.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::pb::{X509BundlesResponse, X509svid, X509svidResponse};
use super::svid_cache::{StreamedSvid, SvidCache};
use super::update_stream::UpdateSource;
use crate::agents::AuthenticatedAgent;
use crate::clock::Timestamp;
use crate::pki::IssuedX509Svid;
use crate::service::{IdentityService, RequestResult};

/// What FetchX509SVID tells.
pub struct X509Svids(pub SvidCache<IssuedX509Svid>);

/// What FetchX509Bundles tells.
pub struct X509Bundles(pub IdentityService);

impl StreamedSvid for IssuedX509Svid {
    async fn issue(
        service: &IdentityService,
        agent: &AuthenticatedAgent,
        denial_logged: bool,
    ) -> RequestResult<IssuedX509Svid> {
        service.issue_x509_svid(agent, denial_logged).await
    }

    fn expires(&self) -> Timestamp {
        self.expires()
    }

    fn jitter_seed(&self) -> u8 {
        // A serial number is random.
        self.serial().get(2..4).and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }

    fn is_revoked(&self, service: &IdentityService) -> bool {
        !service.certificate_issuer.is_valid(self)
    }
}

impl UpdateSource for X509Svids {
    type Message = X509svidResponse;

    async fn build(&mut self, agents: &[AuthenticatedAgent]) -> Result<X509svidResponse, Status> {
        self.0.refresh(agents, None).await?;
        let service = self.0.service();
        let bundle = own_bundle(service)?;
        let svids = self.0.svids().map(|(certificate, hint)| X509svid {
            spiffe_id: certificate.spiffe_id().to_owned(),
            x509_svid: certificate.chain().concat().into(),
            x509_svid_key: certificate.shared_key(),
            bundle: bundle.clone(),
            hint: hint.to_owned(),
        });
        Ok(X509svidResponse {
            svids: svids.collect(),
            crl: crls(service),
            federated_bundles: federated_bundles(service),
        })
    }

    fn next_refresh(&self) -> Option<Duration> {
        self.0.next_refresh()
    }

    fn still_valid(&self) -> bool {
        self.0.has_valid()
    }
}

impl UpdateSource for X509Bundles {
    type Message = X509BundlesResponse;

    async fn build(&mut self, _: &[AuthenticatedAgent]) -> Result<X509BundlesResponse, Status> {
        let service = &self.0;
        let Some(issuer_state) = service.issuer.state() else {
            return Err(Status::unavailable(service.unavailable_reason()));
        };
        let mut bundles = federated_bundles(service);
        // Whatever a file is named, nobody's authorities stand for ours.
        bundles.insert(format!("spiffe://{}", issuer_state.host().trust_domain), own_bundle(service)?);
        Ok(X509BundlesResponse { crl: crls(service), bundles })
    }
}

fn own_bundle(service: &IdentityService) -> Result<Bytes, Status> {
    let roots = service.certificate_issuer.bundle();
    if roots.is_empty() {
        return Err(Status::unavailable("the host's CA is being made; try again in a moment"));
    }
    Ok(roots.concat().into())
}

fn crls(service: &IdentityService) -> Vec<Bytes> {
    service.certificate_issuer.crls().into_iter().map(Bytes::from).collect()
}

/// Other trust domains' authorities.
fn federated_bundles(service: &IdentityService) -> BTreeMap<String, Bytes> {
    // Barred since the message was begun: without our own name, which of them claims to be us is not known.
    let Some(issuer_state) = service.issuer.state() else { return BTreeMap::new() };
    let own = &issuer_state.host().trust_domain;
    let bundles = service.federation.bundles();
    let others =
        bundles.iter().filter(|(domain, bundle)| !bundle.x509_authorities.is_empty() && *domain != own);
    others.map(|(domain, bundle)| (format!("spiffe://{domain}"), bundle.x509_authorities.clone())).collect()
}
