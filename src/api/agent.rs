//! The agent socket: what every local process may ask.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::body;
use super::client_connection::ClientConnection;
use super::reply::{self, Reply};
use crate::peer::PeerInfo;
use crate::pki;
use crate::posture::{Posture, PostureMode};
use crate::service::{IdentityService, WhoamiInfo};

/// Answers the agent socket.
pub struct AgentApi {
    pub service: IdentityService,
    pub body_budget: body::BodyBudget,
}

impl AgentApi {
    pub(super) async fn handle_request(
        &self,
        client: &ClientConnection,
        request: Request<Incoming>,
    ) -> Reply {
        let post = *request.method() == Method::POST;
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/v1/token" if post => match self.body_budget.read(request).await {
                Err(error_reply) => error_reply,
                Ok(body) => match self
                    .service
                    .issue_token(client.begin_request(), body::parse_token_request(&body))
                    .await
                {
                    Ok(token) => reply::token(&token),
                    Err(error) => reply::from_request_error(&error),
                },
            },
            "/v1/certificate" if post => match self.body_budget.read(request).await {
                Err(error_reply) => error_reply,
                Ok(body) => match self
                    .service
                    .issue_certificate(client.begin_request(), body::parse_certificate_request(&body))
                    .await
                {
                    Ok(certificate) => reply::certificate(&certificate),
                    Err(error) => reply::from_request_error(&error),
                },
            },
            "/v1/introspect" if post => match self.body_budget.read(request).await {
                Err(error_reply) => error_reply,
                Ok(body) => match self
                    .service
                    .introspect(client.begin_request(), body::parse_introspection_request(&body))
                    .await
                {
                    Ok(introspection) => reply::introspection(&introspection),
                    Err(error) => reply::from_request_error(&error),
                },
            },
            "/v1/attest" if post => match self.body_budget.read(request).await {
                Err(error_reply) => error_reply,
                Ok(body) => {
                    match self.service.attest(client.begin_request(), body::parse_attest_request(&body)).await
                    {
                        Ok(evidence) => reply::evidence(evidence).await,
                        Err(error) => reply::from_request_error(&error),
                    }
                }
            },
            "/v1/whoami" if get => match self.service.whoami(client.begin_request()).await {
                Ok(info) => reply::json(StatusCode::OK, &WhoamiResponse::from_info(&info)),
                Err(error) => reply::from_request_error(&error),
            },
            "/v1/health" if get => reply::json(StatusCode::OK, &self.health()),
            "/.well-known/jwks.json" if get => self.document(|documents| documents.jwks.clone()),
            "/.well-known/openid-configuration" if get => {
                self.document(|documents| documents.discovery.clone())
            }
            "/v1/bundle" if get => self.bundle(),
            "/v1/token" | "/v1/certificate" | "/v1/introspect" | "/v1/attest" => {
                reply::method_not_allowed("POST")
            }
            "/v1/whoami"
            | "/v1/health"
            | "/v1/bundle"
            | "/.well-known/jwks.json"
            | "/.well-known/openid-configuration" => reply::method_not_allowed("GET, HEAD"),
            _ => reply::not_found(),
        }
    }

    fn document(&self, select: impl Fn(&crate::issue::PublishedDocuments) -> bytes::Bytes) -> Reply {
        match self.service.issuer.state() {
            Some(issuer_state) => reply::json_cacheable(select(issuer_state.documents())),
            // Anybody may ask, so what is wrong where is for administrators.
            None => AgentApi::issuer_unavailable(),
        }
    }

    fn issuer_unavailable() -> Reply {
        reply::error(
            StatusCode::SERVICE_UNAVAILABLE,
            "temporarily_unavailable",
            "the issuer does not stand; administrators see why in hostbadge status",
        )
    }

    /// The bundle document of the host's trust domain.
    fn bundle(&self) -> Reply {
        let (issuer_state, roots) = (self.service.issuer.state(), self.service.certificate_issuer.bundle());
        let document = issuer_state.filter(|_| !roots.is_empty()).and_then(|issuer_state| {
            let sequence = self.service.certificate_issuer.changed_at().as_secs();
            pki::bundle_document(&issuer_state.documents().spiffe_bundle, &roots, sequence)
        });
        match document {
            Some(document) => reply::json_cacheable(document.to_string().into()),
            None => AgentApi::issuer_unavailable(),
        }
    }

    fn health(&self) -> HealthResponse {
        let tpm = self.service.tpm_state.borrow().kind;
        let posture = self.service.posture();
        let healthy = self.service.issuer.state().is_some()
            && tpm == crate::tpm::StateKind::Ready
            && self.service.audit.health().write_error().is_none()
            && (posture == Posture::Accepted || self.service.posture.mode() != PostureMode::Enforce);
        HealthResponse { status: if healthy { "ok" } else { "degraded" }, tpm: tpm.to_string(), posture }
    }
}

#[derive(Serialize)]
struct HealthResponse {
    status: &'static str,
    tpm: String,
    posture: Posture,
}

#[derive(Serialize)]
struct WhoamiResponse<'a> {
    /// None where the process is several agents: a request then names one.
    agent: Option<&'a str>,
    spiffe_id: Option<String>,
    agents: Vec<&'a str>,
    peer: &'a PeerInfo,
    host: WhoamiHost<'a>,
}

#[derive(Serialize)]
struct WhoamiHost<'a> {
    id: Option<&'a str>,
    tpm: Option<&'static str>,
    posture: Posture,
}

impl<'a> WhoamiResponse<'a> {
    fn from_info(info: &'a WhoamiInfo) -> WhoamiResponse<'a> {
        let host = info.host.as_ref();
        let only = match info.agents.as_slice() {
            [only] => Some(only),
            _ => None,
        };
        WhoamiResponse {
            agent: only.map(|entry| entry.name.as_str()),
            spiffe_id: only.and_then(|entry| host.map(|host| host.spiffe_id(entry))),
            agents: info.agents.iter().map(|entry| entry.name.as_str()).collect(),
            peer: &info.peer,
            host: WhoamiHost {
                id: host.map(|host| host.id.as_str()),
                tpm: host.map(|host| host.tpm_kind()),
                posture: info.posture,
            },
        }
    }
}
