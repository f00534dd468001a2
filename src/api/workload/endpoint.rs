//! The seven methods of the SPIFFE Workload API.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::caller_watcher::CallerWatcher;
use super::grpc_status::too_many_calls;
use super::pb::spiffe_workload_api_server::SpiffeWorkloadApi;
use super::pb::{
    JwtBundlesRequest, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitsvidRequest, X509BundlesRequest, X509svidRequest,
};
use super::shared_updates::BundleSource;
use super::step_stream::StepStream;
use super::svid_cache::SvidCache;
use super::tokens::{JwtBundles, WitBundles, WitSvids};
use super::update_stream::{UpdateSource, UpdateState, UpdateStream};
use super::{protobuf_struct, x509};
use crate::api::connection_limits::{CallClass, CallPermit};
use crate::service::JwtSvidParams;

/// Answers calls from the service.
pub struct Endpoint(pub BundleSource);

impl Endpoint {
    /// Identifies the caller and opens a stream for it.
    async fn open_stream<Q, S: UpdateSource>(
        &self,
        request: &Request<Q>,
        new_source: impl FnOnce(BundleSource) -> S,
    ) -> Result<Response<UpdateStream<S>>, Status> {
        let caller_state = received_from(request)?.open_stream().await?;
        let state = UpdateState::new(caller_state, new_source(self.0.clone()));
        Ok(Response::new(StepStream::new(state)))
    }
}

#[async_trait]
impl SpiffeWorkloadApi for Endpoint {
    type FetchX509SVIDStream = UpdateStream<x509::X509Svids>;
    type FetchX509BundlesStream = UpdateStream<x509::X509Bundles>;
    type FetchJWTBundlesStream = UpdateStream<JwtBundles>;
    type FetchWITSVIDStream = UpdateStream<WitSvids>;
    type FetchWITBundlesStream = UpdateStream<WitBundles>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.open_stream(&request, x509::X509Svids::new).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.open_stream(&request, x509::X509Bundles).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let watcher = received_from(&request)?;
        let JwtsvidRequest { audience: audiences, spiffe_id } = request.into_inner();
        let params = JwtSvidParams { audiences, spiffe_id };
        match self.0.service.issue_jwt_svids(watcher.begin_request(), params).await {
            Ok(svids) => {
                watcher.client().backoff(false);
                let svids = svids.get().iter().map(|svid| Jwtsvid {
                    spiffe_id: svid.spiffe_id().to_owned(),
                    svid: svid.text().to_owned(),
                    hint: svid.permit().agent().name().to_string(),
                });
                Ok(Response::new(JwtsvidResponse { svids: svids.collect() }))
            }
            Err(error) => Err(watcher.reject(&error).await),
        }
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.open_stream(&request, JwtBundles).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let watcher = received_from(&request)?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        let lookup = watcher.begin_request();
        let introspection = match self.0.service.validate_jwt_svid(lookup, svid, audience).await {
            Ok(introspection) => introspection,
            Err(error) => return Err(watcher.reject(&error).await),
        };
        watcher.client().backoff(false);
        let introspection = introspection.get();
        let claims = introspection.claims.as_ref().and_then(|claims| claims.as_object());
        let Some(claims) = claims.filter(|_| introspection.active) else {
            let reason = introspection.inactive_reason.as_deref().unwrap_or("it is not valid");
            return Err(Status::invalid_argument(format!("the token is not valid: {reason}")));
        };
        let spiffe_id = claims.get("sub").and_then(|sub| sub.as_str()).unwrap_or_default().to_owned();
        Ok(Response::new(ValidateJwtsvidResponse {
            spiffe_id,
            claims: Some(protobuf_struct::from_json_object(claims)),
        }))
    }

    async fn fetch_witsvid(
        &self,
        request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        let spiffe_id = request.get_ref().spiffe_id.clone();
        // Checked after the caller is identified: an unknown caller gets no other status.
        let response = self.open_stream(&request, |source| WitSvids {
            cache: SvidCache::new(source.service),
            spiffe_id: Some(spiffe_id.clone()).filter(|id| !id.is_empty()),
        });
        let response = response.await?;
        self.0.service.check_spiffe_id(&spiffe_id).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(response)
    }

    async fn fetch_wit_bundles(
        &self,
        request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        self.open_stream(&request, WitBundles).await
    }
}

/// The caller of a call that has arrived, which is counted as such from now on.
fn received_from<Q>(request: &Request<Q>) -> Result<Arc<CallerWatcher>, Status> {
    // `handle_call` inserts both.
    let extensions = request.extensions();
    let (Some(watcher), Some(permit)) = (extensions.get(), extensions.get::<Arc<CallPermit>>()) else {
        return Err(Status::internal("a call without its connection"));
    };
    permit.move_to(CallClass::Agent).ok_or_else(too_many_calls)?;
    Ok(Arc::clone(watcher))
}
