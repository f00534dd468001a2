//! The X.509 half of the Workload API: X509-SVIDs, and what they are verified with.

use std::time::Duration;

use tonic::Status;

use super::grpc_status;
use super::pb::{X509BundlesResponse, X509svid, X509svidResponse};
use super::svid_cache::{StreamedSvid, SvidCache};
use super::update_stream::UpdateSource;
use crate::service::{AuthenticatedAgent, IdentityService, IssuedX509Svid, RequestResult, Timestamp};

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
        !service.is_x509_svid_valid(self)
    }
}

impl UpdateSource for X509Svids {
    type Message = X509svidResponse;

    async fn build(&mut self, agents: &[AuthenticatedAgent]) -> Result<X509svidResponse, Status> {
        self.0.refresh(agents, None).await?;
        let service = self.0.service();
        let bundle = service.x509_bundle().map_err(grpc_status::not_ready)?;
        let svids = self.0.svids().map(|(certificate, hint)| X509svid {
            spiffe_id: certificate.spiffe_id().to_owned(),
            x509_svid: certificate.chain().concat().into(),
            x509_svid_key: certificate.shared_key(),
            bundle: bundle.clone(),
            hint: hint.to_owned(),
        });
        Ok(X509svidResponse {
            svids: svids.collect(),
            crl: service.crls(),
            federated_bundles: service.federated_x509_bundles(),
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
        let bundles = service.x509_bundles().map_err(grpc_status::not_ready)?;
        Ok(X509BundlesResponse { crl: service.crls(), bundles })
    }
}
