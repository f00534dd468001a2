//! The seven methods of the Workload API.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::pb::spiffe_workload_api_server::SpiffeWorkloadApi;
use super::pb::{
    JwtBundlesRequest, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitsvidRequest, X509BundlesRequest, X509svidRequest,
};
use super::presence::Presence;
use super::tokens::{JwtBundles, WitBundles, WitSvids};
use super::updates::{Source, Updates};
use super::wallet::Wallet;
use super::{values, x509};
use crate::issue::Question;
use crate::policy::{AUDIENCES_MOST, SvidAsk};
use crate::road::Road;
use crate::verify;

/// Longest audience; a grant's is shorter.
const AUDIENCE_MOST: usize = 512;

/// Answers by the road.
pub struct Endpoint(pub Road);

impl Endpoint {
    /// A stream, once it is known who follows it.
    async fn stream<Q, S: Source>(
        &self,
        request: &Request<Q>,
        source: impl FnOnce(Road) -> S,
    ) -> Result<Response<Updates<S>>, Status> {
        let (seen, place) = presence(request)?.follow().await?;
        Ok(Response::new(Updates::new(seen, place, source(self.0.clone()))))
    }
}

#[async_trait]
impl SpiffeWorkloadApi for Endpoint {
    type FetchX509SVIDStream = Updates<x509::Svids>;
    type FetchX509BundlesStream = Updates<x509::Bundles>;
    type FetchJWTBundlesStream = Updates<JwtBundles>;
    type FetchWITSVIDStream = Updates<WitSvids>;
    type FetchWITBundlesStream = Updates<WitBundles>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(&request, |road| x509::Svids(Wallet::new(road))).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(&request, x509::Bundles).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let presence = presence(&request)?;
        let ask = ask(request.into_inner());
        match self.0.svids(presence.look(), ask).await {
            Ok(svids) => {
                presence.guest().pace(false);
                let svids = svids.get().iter().map(|svid| Jwtsvid {
                    spiffe_id: svid.spiffe_id().to_owned(),
                    svid: svid.text().to_owned(),
                    hint: svid.permit().agent().name().to_string(),
                });
                Ok(Response::new(JwtsvidResponse { svids: svids.collect() }))
            }
            Err(refused) => Err(presence.refuse(&refused).await),
        }
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.stream(&request, JwtBundles).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let presence = presence(&request)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        let question = match (audience.as_str(), svid.as_str()) {
            ("", _) => Err("audience is missing".to_owned()),
            (_, "") => Err("svid is missing".to_owned()),
            _ => Ok(Question { svid, audience }),
        };
        let answer = match self.0.validate(presence.look(), question).await {
            Ok(answer) => answer,
            Err(refused) => return Err(presence.refuse(&refused).await),
        };
        presence.guest().pace(false);
        let answer = answer.get();
        let claims = answer.claims.as_ref().and_then(|claims| claims.as_object());
        let Some(claims) = claims.filter(|_| answer.active) else {
            let because = answer.inactive_because.as_deref().unwrap_or("it does not hold");
            return Err(Status::invalid_argument(format!("the token is not valid: {because}")));
        };
        let spiffe_id = claims.get("sub").and_then(|sub| sub.as_str()).unwrap_or_default().to_owned();
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id, claims: Some(values::object(claims)) }))
    }

    async fn fetch_witsvid(
        &self,
        request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        let only = request.get_ref().spiffe_id.clone();
        // After it is known who asks: a stranger hears of nothing else.
        let answer = self.stream(&request, |road| WitSvids {
            wallet: Wallet::new(road),
            only: Some(only.clone()).filter(|id| !id.is_empty()),
        });
        let answer = answer.await?;
        well_formed(&only).map_err(Status::invalid_argument)?;
        Ok(answer)
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        self.stream(&request, WitBundles).await
    }
}

fn presence<Q>(request: &Request<Q>) -> Result<Arc<Presence>, Status> {
    // Whoever serves a connection puts it there.
    request.extensions().get().cloned().ok_or_else(|| Status::internal("a call without its connection"))
}

/// The request, if it is well-formed.
fn ask(request: JwtsvidRequest) -> Result<SvidAsk, String> {
    let JwtsvidRequest { audience: mut audiences, spiffe_id } = request;
    if audiences.is_empty() {
        return Err("audience is missing".into());
    }
    if audiences.len() > AUDIENCES_MOST {
        return Err(format!("a token has at most {AUDIENCES_MOST} audiences; one is best"));
    }
    if audiences.iter().any(|audience| audience.is_empty() || audience.len() > AUDIENCE_MOST) {
        return Err(format!("an audience is 1 to {AUDIENCE_MOST} bytes"));
    }
    let mut seen = std::collections::HashSet::new();
    audiences.retain(|audience| seen.insert(audience.clone()));
    well_formed(&spiffe_id)?;
    Ok(SvidAsk { audiences, spiffe_id: Some(spiffe_id).filter(|id| !id.is_empty()) })
}

/// An identity to be asked for, or none.
fn well_formed(spiffe_id: &str) -> Result<(), String> {
    match spiffe_id.is_empty() || verify::trust_domain(spiffe_id).is_some() {
        true => Ok(()),
        false => Err("spiffe_id is not the SPIFFE ID of a workload".into()),
    }
}
