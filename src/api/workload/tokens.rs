//! Streams of keys that verify tokens, and of tokens that are bound to keys.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::pb::{JwtBundlesResponse, WitBundlesResponse, Witsvid, WitsvidResponse};
use super::updates::Source;
use super::wallet::{Credential, Wallet};
use crate::agents::Agent;
use crate::clock::Timestamp;
use crate::federation::Bundle;
use crate::issue::{Documents, WitSvid};
use crate::road::{Answer, Road};

/// What FetchJWTBundles tells.
pub struct JwtBundles(pub Road);

/// What FetchWITBundles tells.
pub struct WitBundles(pub Road);

/// What FetchWITSVID tells, of one identity where one is asked for.
pub struct WitSvids {
    pub wallet: Wallet<WitSvid>,
    pub only: Option<String>,
}

impl Source for JwtBundles {
    type Message = JwtBundlesResponse;

    async fn compose(&mut self, _: &[Agent]) -> Result<JwtBundlesResponse, Status> {
        let bundles = sets(&self.0, |own| &own.jwt_bundle, |bundle| &bundle.jwt)?;
        Ok(JwtBundlesResponse { bundles })
    }
}

impl Source for WitBundles {
    type Message = WitBundlesResponse;

    async fn compose(&mut self, _: &[Agent]) -> Result<WitBundlesResponse, Status> {
        let sets = sets(&self.0, |own| &own.wit_bundle, |bundle| &bundle.wit)?;
        let text = |set: Bytes| String::from_utf8_lossy(&set).into_owned();
        Ok(WitBundlesResponse {
            bundles: sets.into_iter().map(|(domain, set)| (domain, text(set))).collect(),
        })
    }
}

impl Source for WitSvids {
    type Message = WitsvidResponse;

    async fn compose(&mut self, agents: &[Agent]) -> Result<WitsvidResponse, Status> {
        self.wallet.fill(agents, self.only.as_deref()).await?;
        let svids = self.wallet.entries().map(|(svid, hint)| Witsvid {
            spiffe_id: svid.spiffe_id().to_owned(),
            wit_svid: svid.text().to_owned(),
            wit_svid_key: svid.key().to_string(),
            hint: hint.to_owned(),
        });
        Ok(WitsvidResponse { svids: svids.collect() })
    }

    fn due(&self) -> Option<Duration> {
        self.wallet.due()
    }

    fn lasts(&self) -> bool {
        self.wallet.lasts()
    }
}

impl Credential for WitSvid {
    async fn issue(road: &Road, agent: &Agent, told: bool) -> Answer<WitSvid> {
        road.wit_svid(agent, told).await
    }

    fn expires(&self) -> Timestamp {
        self.expires()
    }

    fn chance(&self) -> u8 {
        // The number is random, in a digit of 64 as in two.
        self.jti().bytes().fold(0, |sum: u8, digit| sum.wrapping_mul(31).wrapping_add(digit))
    }

    fn is_revoked(&self, road: &Road) -> bool {
        // Not by itself, but by the key that signed it.
        let standing = road.issuer.standing();
        standing.is_some_and(|standing| !standing.signs_as(self.kid()))
    }
}

/// Every trust domain's keys of one use, by its SPIFFE ID: ours, and those of others.
fn sets(
    road: &Road,
    own: fn(&Documents) -> &Bytes,
    foreign: fn(&Bundle) -> &Option<Bytes>,
) -> Result<BTreeMap<String, Bytes>, Status> {
    let Some(standing) = road.issuer.standing() else {
        return Err(Status::unavailable(road.why_not_standing()));
    };
    let others = road.federation.bundles();
    let others = others.iter().filter_map(|(domain, bundle)| Some((domain, foreign(bundle).clone()?)));
    let mut sets: BTreeMap<String, Bytes> =
        others.map(|(domain, set)| (format!("spiffe://{domain}"), set)).collect();
    // Whatever a file is named, nobody's keys stand for ours.
    sets.insert(format!("spiffe://{}", standing.host().trust_domain), own(standing.documents()).clone());
    Ok(sets)
}
