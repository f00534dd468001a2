//! Streams of JWT bundles, WIT bundles and WIT-SVIDs.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::grpc_status;
use super::pb::{JwtBundlesResponse, WitBundlesResponse, Witsvid, WitsvidResponse};
use super::shared_updates::{BundleSource, Update};
use super::svid_cache::{StreamedSvid, SvidCache};
use super::update_stream::UpdateSource;
use crate::service::{AuthenticatedAgent, IdentityService, RequestResult, Timestamp, WitSvid};

/// Messages of FetchJWTBundles.
pub struct JwtBundles(pub BundleSource);

/// Messages of FetchWITBundles.
pub struct WitBundles(pub BundleSource);

/// Messages of FetchWITSVID.
pub struct WitSvids {
    /// The caller's credentials.
    pub cache: SvidCache<WitSvid>,
    /// The requested SPIFFE ID; every agent of the caller where absent.
    pub spiffe_id: Option<String>,
}

impl UpdateSource for JwtBundles {
    type Message = JwtBundlesResponse;

    async fn build(&mut self, _: &[AuthenticatedAgent]) -> Result<Update<JwtBundlesResponse>, Status> {
        let BundleSource { service, updates } = &self.0;
        updates.jwt_bundles.get(service, || {
            let bundles = service.jwt_bundles().map_err(grpc_status::not_ready)?;
            Ok(JwtBundlesResponse { bundles })
        })
    }
}

impl UpdateSource for WitBundles {
    type Message = WitBundlesResponse;

    async fn build(&mut self, _: &[AuthenticatedAgent]) -> Result<Update<WitBundlesResponse>, Status> {
        let BundleSource { service, updates } = &self.0;
        updates.wit_bundles.get(service, || {
            let jwk_sets = service.wit_bundles().map_err(grpc_status::not_ready)?;
            let text = |set: Bytes| String::from_utf8_lossy(&set).into_owned();
            Ok(WitBundlesResponse {
                bundles: jwk_sets.into_iter().map(|(domain, set)| (domain, text(set))).collect(),
            })
        })
    }
}

impl UpdateSource for WitSvids {
    type Message = WitsvidResponse;

    async fn build(&mut self, agents: &[AuthenticatedAgent]) -> Result<Update<WitsvidResponse>, Status> {
        self.cache.refresh(agents, self.spiffe_id.as_deref()).await?;
        let svids = self.cache.svids().map(|(svid, hint)| Witsvid {
            spiffe_id: svid.spiffe_id().to_owned(),
            wit_svid: svid.text().to_owned(),
            wit_svid_key: svid.key().to_string(),
            hint: hint.to_owned(),
        });
        Ok(Update::new(WitsvidResponse { svids: svids.collect() }))
    }

    fn next_refresh(&self) -> Option<Duration> {
        self.cache.next_refresh()
    }

    fn still_valid(&self) -> bool {
        self.cache.has_valid()
    }
}

impl StreamedSvid for WitSvid {
    async fn issue(
        service: &IdentityService,
        agent: &AuthenticatedAgent,
        denial_logged: bool,
    ) -> RequestResult<WitSvid> {
        service.issue_wit_svid(agent, denial_logged).await
    }

    fn expires(&self) -> Timestamp {
        self.expires()
    }

    fn jitter_seed(&self) -> u8 {
        // The jti is random base64url.
        self.jti().bytes().fold(0, |sum: u8, digit| sum.wrapping_mul(31).wrapping_add(digit))
    }

    fn is_revoked(&self, service: &IdentityService) -> bool {
        !service.is_wit_svid_valid(self)
    }
}
