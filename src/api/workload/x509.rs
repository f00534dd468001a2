//! Streams of X509-SVIDs and X.509 bundles.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::grpc_status;
use super::pb::{X509BundlesResponse, X509svid, X509svidResponse};
use super::shared_updates::{BundleSource, SharedUpdates, Update};
use super::svid_cache::{StreamedSvid, SvidCache};
use super::update_stream::UpdateSource;
use crate::service::{AuthenticatedAgent, IdentityService, IssuedX509Svid, RequestResult, Timestamp};

/// Messages of FetchX509SVID.
pub struct X509Svids {
    cache: SvidCache<IssuedX509Svid>,
    updates: Arc<SharedUpdates>,
}

/// Messages of FetchX509Bundles.
pub struct X509Bundles(pub BundleSource);

impl X509Svids {
    /// Without SVIDs yet.
    pub fn new(source: BundleSource) -> X509Svids {
        X509Svids { cache: SvidCache::new(source.service), updates: source.updates }
    }
}

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
        // Serial numbers are random.
        self.serial().get(2..4).and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }

    fn is_revoked(&self, service: &IdentityService) -> bool {
        !service.is_x509_svid_valid(self)
    }
}

impl UpdateSource for X509Svids {
    type Message = X509svidResponse;

    async fn build(&mut self, agents: &[AuthenticatedAgent]) -> Result<Update<X509svidResponse>, Status> {
        self.cache.refresh(agents, None).await?;
        let service = self.cache.service();
        let shared = self.updates.x509_svids.get(service, || {
            Ok(X509svidResponse {
                svids: Vec::new(),
                crl: service.crls(),
                federated_bundles: service.federated_x509_bundles(),
            })
        })?;
        let bundle = service.x509_bundle().map_err(grpc_status::not_ready)?;
        let svids = self.cache.svids().map(|(certificate, hint)| X509svid {
            spiffe_id: certificate.spiffe_id().to_owned(),
            x509_svid: certificate.chain().concat().into(),
            x509_svid_key: certificate.shared_key(),
            bundle: bundle.clone(),
            hint: hint.to_owned(),
        });
        let own = X509svidResponse { svids: svids.collect(), ..X509svidResponse::default() };
        Ok(Update::new(own).join(shared, |own, shared| {
            (own.crl, own.federated_bundles) = (shared.crl, shared.federated_bundles);
        }))
    }

    fn next_refresh(&self) -> Option<Duration> {
        self.cache.next_refresh()
    }

    fn still_valid(&self) -> bool {
        self.cache.has_valid()
    }
}

impl UpdateSource for X509Bundles {
    type Message = X509BundlesResponse;

    async fn build(&mut self, _: &[AuthenticatedAgent]) -> Result<Update<X509BundlesResponse>, Status> {
        let BundleSource { service, updates } = &self.0;
        updates.x509_bundles.get(service, || {
            let bundles = service.x509_bundles().map_err(grpc_status::not_ready)?;
            Ok(X509BundlesResponse { crl: service.crls(), bundles })
        })
    }
}
