//! Streams of keys that verify tokens, and of tokens that are bound to keys.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::pb::{JwtBundlesResponse, WitBundlesResponse, Witsvid, WitsvidResponse};
use super::svid_cache::{StreamedSvid, SvidCache};
use super::update_stream::UpdateSource;
use crate::agents::AuthenticatedAgent;
use crate::clock::Timestamp;
use crate::federation::FederatedBundle;
use crate::issue::{PublishedDocuments, WitSvid};
use crate::service::{IdentityService, RequestResult};

/// What FetchJWTBundles tells.
pub struct JwtBundles(pub IdentityService);

/// What FetchWITBundles tells.
pub struct WitBundles(pub IdentityService);

/// What FetchWITSVID tells, of one identity where one is asked for.
pub struct WitSvids {
    pub cache: SvidCache<WitSvid>,
    pub spiffe_id: Option<String>,
}

impl UpdateSource for JwtBundles {
    type Message = JwtBundlesResponse;

    async fn build(&mut self, _: &[AuthenticatedAgent]) -> Result<JwtBundlesResponse, Status> {
        let bundles = jwk_sets(&self.0, |own| &own.jwt_bundle, |bundle| &bundle.jwt_jwks)?;
        Ok(JwtBundlesResponse { bundles })
    }
}

impl UpdateSource for WitBundles {
    type Message = WitBundlesResponse;

    async fn build(&mut self, _: &[AuthenticatedAgent]) -> Result<WitBundlesResponse, Status> {
        let jwk_sets = jwk_sets(&self.0, |own| &own.wit_bundle, |bundle| &bundle.wit_jwks)?;
        let text = |set: Bytes| String::from_utf8_lossy(&set).into_owned();
        Ok(WitBundlesResponse {
            bundles: jwk_sets.into_iter().map(|(domain, set)| (domain, text(set))).collect(),
        })
    }
}

impl UpdateSource for WitSvids {
    type Message = WitsvidResponse;

    async fn build(&mut self, agents: &[AuthenticatedAgent]) -> Result<WitsvidResponse, Status> {
        self.cache.refresh(agents, self.spiffe_id.as_deref()).await?;
        let svids = self.cache.svids().map(|(svid, hint)| Witsvid {
            spiffe_id: svid.spiffe_id().to_owned(),
            wit_svid: svid.text().to_owned(),
            wit_svid_key: svid.key().to_string(),
            hint: hint.to_owned(),
        });
        Ok(WitsvidResponse { svids: svids.collect() })
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
        // The number is random, in a digit of 64 as in two.
        self.jti().bytes().fold(0, |sum: u8, digit| sum.wrapping_mul(31).wrapping_add(digit))
    }

    fn is_revoked(&self, service: &IdentityService) -> bool {
        // Not by itself, but by the key that signed it.
        let issuer_state = service.issuer.state();
        issuer_state.is_some_and(|issuer_state| !issuer_state.is_current_wit_kid(self.kid()))
    }
}

/// Every trust domain's keys of one use, by its SPIFFE ID: ours, and those of others.
fn jwk_sets(
    service: &IdentityService,
    own: fn(&PublishedDocuments) -> &Bytes,
    federated: fn(&FederatedBundle) -> &Option<Bytes>,
) -> Result<BTreeMap<String, Bytes>, Status> {
    let Some(issuer_state) = service.issuer.state() else {
        return Err(Status::unavailable(service.unavailable_reason()));
    };
    let bundles = service.federation.bundles();
    let others = bundles.iter().filter_map(|(domain, bundle)| Some((domain, federated(bundle).clone()?)));
    let mut jwk_sets: BTreeMap<String, Bytes> =
        others.map(|(domain, set)| (format!("spiffe://{domain}"), set)).collect();
    // Whatever a file is named, nobody's keys stand for ours.
    jwk_sets.insert(
        format!("spiffe://{}", issuer_state.host().trust_domain),
        own(issuer_state.documents()).clone(),
    );
    Ok(jwk_sets)
}
