//! The seven methods of the Workload API.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::pb::spiffe_workload_api_server::SpiffeWorkloadApi;
use super::pb::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use super::presence::Presence;
use super::updates::{Compose, Updates};
use super::{values, x509};
use crate::agents::Agent;
use crate::issue::Question;
use crate::policy::{AUDIENCES_MOST, SvidAsk};
use crate::road::Road;
use crate::verify;

/// Longest audience; a grant's is shorter.
const AUDIENCE_MOST: usize = 512;

/// Answers by the road.
pub struct Endpoint(pub Road);

impl Endpoint {
    async fn stream<Q, T: Clone + PartialEq + Send + Sync + 'static>(
        &self,
        request: &Request<Q>,
        compose: fn(&Road, &[Agent]) -> Result<T, Status>,
    ) -> Result<Response<Updates<T>>, Status> {
        let seen = presence(request)?.follow().await?;
        let road = self.0.clone();
        let compose: Compose<T> = Arc::new(move |agents| compose(&road, agents));
        Ok(Response::new(Updates::new(seen, compose)))
    }
}

#[async_trait]
impl SpiffeWorkloadApi for Endpoint {
    type FetchX509SVIDStream = Updates<X509svidResponse>;
    type FetchX509BundlesStream = Updates<X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<JwtBundlesResponse>;
    type FetchWITSVIDStream = Updates<WitsvidResponse>;
    type FetchWITBundlesStream = Updates<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(&request, x509::svids).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(&request, x509::bundles).await
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
        self.stream(&request, jwt_bundles).await
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
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(no_wit())
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(no_wit())
    }
}

fn no_wit() -> Status {
    Status::unimplemented("WIT-SVIDs are not given here; ask for JWT-SVIDs")
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
    if !spiffe_id.is_empty() && verify::trust_domain(&spiffe_id).is_none() {
        return Err("spiffe_id is not the SPIFFE ID of a workload".into());
    }
    Ok(SvidAsk { audiences, spiffe_id: Some(spiffe_id).filter(|id| !id.is_empty()) })
}

/// Every trust domain's JWT keys: ours, and those of others.
fn jwt_bundles(road: &Road, _: &[Agent]) -> Result<JwtBundlesResponse, Status> {
    let Some(standing) = road.issuer.standing() else {
        return Err(Status::unavailable(road.why_not_standing()));
    };
    let foreign = road.federation.bundles();
    let mut bundles: std::collections::BTreeMap<String, Vec<u8>> = foreign
        .iter()
        .filter(|(_, bundle)| !bundle.keys.is_empty())
        .map(|(domain, bundle)| (format!("spiffe://{domain}"), bundle.jwt.to_vec()))
        .collect();
    // Whatever a file is named, nobody's keys stand for ours.
    let own = format!("spiffe://{}", standing.host().trust_domain);
    bundles.insert(own, standing.documents().jwt_bundle.to_vec());
    Ok(JwtBundlesResponse { bundles })
}
