//! The agent socket: what every local process may ask.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::body;
use super::guest::Guest;
use super::reply::{self, Reply};
use crate::peer::Facts;
use crate::pki;
use crate::posture::{Mode, Posture};
use crate::road::{Identity, Road};

/// Answers the agent socket.
pub struct AgentApi {
    pub road: Road,
    pub bodies: body::Room,
}

impl AgentApi {
    pub(super) async fn answer(&self, guest: &Guest, request: Request<Incoming>) -> Reply {
        let post = *request.method() == Method::POST;
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/v1/token" if post => match self.bodies.read(request).await {
                Err(broken) => broken,
                Ok(body) => match self.road.token(guest.look(), body::ask(&body)).await {
                    Ok(token) => reply::token(&token),
                    Err(refused) => reply::refused(&refused),
                },
            },
            "/v1/certificate" if post => match self.bodies.read(request).await {
                Err(broken) => broken,
                Ok(body) => match self.road.certificate(guest.look(), body::certificate(&body)).await {
                    Ok(certificate) => reply::certificate(&certificate),
                    Err(refused) => reply::refused(&refused),
                },
            },
            "/v1/introspect" if post => match self.bodies.read(request).await {
                Err(broken) => broken,
                Ok(body) => match self.road.introspect(guest.look(), body::query(&body)).await {
                    Ok(answer) => reply::introspection(&answer),
                    Err(refused) => reply::refused(&refused),
                },
            },
            "/v1/attest" if post => match self.bodies.read(request).await {
                Err(broken) => broken,
                Ok(body) => match self.road.attest(guest.look(), body::challenge(&body)).await {
                    Ok(proof) => reply::proof(proof).await,
                    Err(refused) => reply::refused(&refused),
                },
            },
            "/v1/whoami" if get => match self.road.whoami(guest.look()).await {
                Ok(identity) => reply::json(StatusCode::OK, &Whoami::of(&identity)),
                Err(refused) => reply::refused(&refused),
            },
            "/v1/health" if get => reply::json(StatusCode::OK, &self.health()),
            "/.well-known/jwks.json" if get => self.document(|documents| documents.jwks.clone()),
            "/.well-known/openid-configuration" if get => {
                self.document(|documents| documents.discovery.clone())
            }
            "/v1/bundle" if get => self.bundle(),
            "/v1/token" | "/v1/certificate" | "/v1/introspect" | "/v1/attest" => reply::wrong_method("POST"),
            "/v1/whoami"
            | "/v1/health"
            | "/v1/bundle"
            | "/.well-known/jwks.json"
            | "/.well-known/openid-configuration" => reply::wrong_method("GET, HEAD"),
            _ => reply::not_found(),
        }
    }

    fn document(&self, pick: impl Fn(&crate::issue::Documents) -> bytes::Bytes) -> Reply {
        match self.road.issuer.standing() {
            Some(standing) => reply::document(pick(standing.documents())),
            // Anybody may ask, so what is wrong where is for administrators.
            None => AgentApi::not_standing(),
        }
    }

    fn not_standing() -> Reply {
        reply::error(
            StatusCode::SERVICE_UNAVAILABLE,
            "temporarily_unavailable",
            "the issuer does not stand; administrators see why in hostbadge status",
        )
    }

    /// The bundle document of the host's trust domain.
    fn bundle(&self) -> Reply {
        let (standing, roots) = (self.road.issuer.standing(), self.road.authority.bundle());
        let document = standing.filter(|_| !roots.is_empty()).and_then(|standing| {
            let sequence = self.road.authority.changed_at().secs();
            pki::bundle_document(&standing.documents().bundle, &roots, sequence)
        });
        match document {
            Some(document) => reply::document(document.to_string().into()),
            None => AgentApi::not_standing(),
        }
    }

    fn health(&self) -> Health {
        let tpm = self.road.tpm.borrow().kind;
        let posture = self.road.posture();
        let well = self.road.issuer.standing().is_some()
            && tpm == crate::tpm::StateKind::Ready
            && self.road.audit.health().problem().is_none()
            && (posture == Posture::Accepted || self.road.posture.mode() != Mode::Enforce);
        Health { status: if well { "ok" } else { "degraded" }, tpm: tpm.to_string(), posture }
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    tpm: String,
    posture: Posture,
}

#[derive(Serialize)]
struct Whoami<'a> {
    /// None where the process is several agents: a request then names one.
    agent: Option<&'a str>,
    spiffe_id: Option<String>,
    agents: Vec<&'a str>,
    peer: &'a Facts,
    host: WhoamiHost<'a>,
}

#[derive(Serialize)]
struct WhoamiHost<'a> {
    id: Option<&'a str>,
    tpm: Option<&'static str>,
    posture: Posture,
}

impl<'a> Whoami<'a> {
    fn of(identity: &'a Identity) -> Whoami<'a> {
        let host = identity.host.as_ref();
        let only = match identity.agents.as_slice() {
            [only] => Some(only),
            _ => None,
        };
        Whoami {
            agent: only.map(|entry| entry.name.as_str()),
            spiffe_id: only.and_then(|entry| host.map(|host| host.spiffe_id(entry))),
            agents: identity.agents.iter().map(|entry| entry.name.as_str()).collect(),
            peer: &identity.peer,
            host: WhoamiHost {
                id: host.map(|host| host.id.as_str()),
                tpm: host.map(|host| host.tpm()),
                posture: identity.posture,
            },
        }
    }
}
