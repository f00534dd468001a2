//! The admin socket: status, agents, keys, the log. For root and the admin group.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::Status;
use super::body;
use super::guest::Guest;
use super::reply::{self, Reply};
use crate::audit;
use crate::config::Fault;
use crate::issue::{KeyReport, Orders};
use crate::peer::Peer;
use crate::policy::Gate;
use crate::posture::{self, Difference, Report, Want};
use crate::road::Road;

/// Lines of the log that one answer holds at most.
const LINES_MOST: usize = 1000;

/// What is watched of the host, and the way to who watches.
pub struct PostureDesk {
    pub orders: posture::Orders,
    /// PCRs that are compared.
    pub compared: Vec<u8>,
}

/// Answers the admin socket.
pub struct Admin {
    pub road: Road,
    pub gate: Gate,
    pub status: Arc<Status>,
    pub keys: Orders,
    pub posture: PostureDesk,
    pub bodies: body::Room,
}

#[derive(Serialize)]
struct Faults<'a> {
    error: &'static str,
    error_description: &'static str,
    faults: &'a [Fault],
}

#[derive(Serialize)]
struct KeysBody<'a> {
    /// Why a step that is due is not taken.
    waits: Option<String>,
    /// Why there is no RSA key, where a grant asks for RS256.
    rsa_waits: Option<String>,
    keys: &'a [KeyReport],
}

#[derive(Serialize)]
struct RecoveryBody<'a> {
    recovery_key: &'a str,
}

/// What an order came to that has no more to say than that it is done.
fn done(outcome: Result<(), String>) -> Reply {
    match outcome {
        Ok(()) => reply::json(StatusCode::OK, &serde_json::json!({ "done": true })),
        Err(why) => reply::error(StatusCode::CONFLICT, "invalid_request", &why),
    }
}

/// An administrator, for the record.
fn who(peer: &Peer) -> String {
    format!("uid {}, pid {}", peer.uid, peer.pid)
}

fn not_now(why: &str) -> Reply {
    reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", why)
}

impl Admin {
    pub(super) async fn answer(&self, guest: &Guest, request: Request<Incoming>) -> Reply {
        let peer = match self.road.administrator(guest.look(), self.gate).await {
            Ok(peer) => peer,
            Err(refused) => return reply::refused(&refused),
        };
        let post = *request.method() == Method::POST;
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/v1/status" if get => {
                reply::json(StatusCode::OK, &self.status.report(&self.road, self.keys.binding()))
            }
            "/v1/agents" if get => {
                let registry = self.road.agents.registry();
                reply::json(StatusCode::OK, &registry.iter().collect::<Vec<_>>())
            }
            "/v1/agents/reload" if post => self.reload(&who(&peer)).await,
            "/v1/audit" if get => self.audit(request.uri().query().unwrap_or_default()).await,
            "/v1/keys" if get => self.keys(),
            "/v1/keys/rotate" if post => self.rotate(&peer, request).await,
            "/v1/keys/recovery" if post => self.recovery(&peer).await,
            "/v1/keys/recover" if post => self.recover(&peer, request).await,
            "/v1/keys/accept" if post => self.accept(&peer).await,
            path if post && path.starts_with("/v1/enroll/") => {
                let step = path["/v1/enroll/".len()..].to_owned();
                super::enroll::answer(self, &who(&peer), &step, request).await
            }
            "/v1/posture" if get => self.posture().await,
            "/v1/posture/diff" if get => self.posture_diff().await,
            "/v1/posture/accept" if post => self.posture_accept(&peer, request).await,
            "/v1/posture/accept" => reply::wrong_method("POST"),
            "/v1/posture" | "/v1/posture/diff" => reply::wrong_method("GET, HEAD"),
            "/v1/status" | "/v1/agents" | "/v1/audit" | "/v1/keys" => reply::wrong_method("GET, HEAD"),
            "/v1/agents/reload" | "/v1/keys/rotate" | "/v1/keys/recovery" | "/v1/keys/recover"
            | "/v1/keys/accept" => reply::wrong_method("POST"),
            path => match path.strip_prefix("/v1/agents/") {
                Some(name) if get => match self.road.agents.registry().find(name) {
                    Some(entry) => reply::json(StatusCode::OK, entry),
                    None => reply::error(
                        StatusCode::NOT_FOUND,
                        "invalid_request",
                        "there is no agent of this name",
                    ),
                },
                _ => reply::not_found(),
            },
        }
    }

    async fn reload(&self, by: &str) -> Reply {
        match self.road.reload(by).await {
            Ok(Ok(changes)) => reply::json(StatusCode::OK, changes.get()),
            Ok(Err(faults)) => {
                let description = "the agents were not reloaded; the last good set stays in force";
                let body =
                    Faults { error: "invalid_request", error_description: description, faults: &faults };
                reply::json(StatusCode::UNPROCESSABLE_ENTITY, &body)
            }
            Err(refused) => reply::refused(&refused),
        }
    }

    fn keys(&self) -> Reply {
        let Some(standing) = self.road.issuer.standing() else { return self.not_standing() };
        reply::json(
            StatusCode::OK,
            &KeysBody {
                waits: self.keys.waits(),
                rsa_waits: self.road.by_tpm.rsa_waits.borrow().clone(),
                keys: standing.keys(),
            },
        )
    }

    async fn rotate(&self, peer: &Peer, request: Request<Incoming>) -> Reply {
        let body = match self.bodies.read(request).await {
            Ok(body) => body,
            Err(broken) => return broken,
        };
        let at_once = match body::rotation(&body) {
            Ok(at_once) => at_once,
            Err(what) => return reply::error(StatusCode::BAD_REQUEST, "invalid_request", &what),
        };
        if self.road.issuer.standing().is_none() {
            return self.not_standing();
        }
        match self.keys.rotate(at_once, who(peer)).await {
            Ok(rotated) => reply::json(StatusCode::OK, &rotated),
            Err(why) => reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &why),
        }
    }

    /// The only time that the key is ever shown.
    async fn recovery(&self, peer: &Peer) -> Reply {
        match self.keys.recovery(who(peer)).await {
            Ok(key) => reply::json(StatusCode::OK, &RecoveryBody { recovery_key: &key }),
            Err(why) => reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &why),
        }
    }

    async fn recover(&self, peer: &Peer, request: Request<Incoming>) -> Reply {
        let body = match self.bodies.read(request).await {
            Ok(body) => body,
            Err(broken) => return broken,
        };
        match body::recovery_key(&body) {
            Ok((key, accept)) => done(self.keys.recover(key, accept, who(peer)).await),
            Err(what) => reply::error(StatusCode::BAD_REQUEST, "invalid_request", &what),
        }
    }

    async fn accept(&self, peer: &Peer) -> Reply {
        done(self.keys.accept(who(peer)).await)
    }

    /// What is known of the host; where nobody looks again and again, after a look for this question.
    async fn look(&self) {
        if self.road.posture() == posture::Posture::Off {
            // What stands in the way is part of what is known.
            let _ = self.posture.orders.order(Want::Look).await;
        }
    }

    async fn posture(&self) -> Reply {
        self.look().await;
        let measured = self.road.agents.registry().asks_for_measured();
        let report = Report::of(&self.road.posture, &self.posture.compared, measured, Instant::now());
        reply::json(StatusCode::OK, &report)
    }

    async fn posture_diff(&self) -> Reply {
        self.look().await;
        let (log, watched) = (self.road.boot_log.clone(), self.road.posture.clone());
        let compared = self.posture.compared.clone();
        let compared = move || Difference::of(&watched, &compared, log.read().as_deref(), Instant::now());
        match tokio::task::spawn_blocking(compared).await {
            Ok(Ok(difference)) => reply::json(StatusCode::OK, &difference),
            Ok(Err(why)) => not_now(&why),
            Err(e) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &e.to_string()),
        }
    }

    async fn posture_accept(&self, peer: &Peer, request: Request<Incoming>) -> Reply {
        let body = match self.bodies.read(request).await {
            Ok(body) => body,
            Err(broken) => return broken,
        };
        if let Err(what) = body::acceptance(&body) {
            return reply::error(StatusCode::BAD_REQUEST, "invalid_request", &what);
        }
        match self.posture.orders.order(Want::Accept { by: who(peer) }).await {
            Ok(()) => self.posture().await,
            Err(why) => not_now(&why),
        }
    }

    pub(super) fn not_standing(&self) -> Reply {
        let why = self.road.why_not_standing();
        reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &why)
    }

    async fn audit(&self, query: &str) -> Reply {
        let (mut after, mut most) = (0, 20);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = value.parse::<u64>();
            match (&*name, number) {
                ("after", Ok(number)) => after = number,
                ("limit", Ok(number)) => most = number.clamp(1, LINES_MOST as u64) as usize,
                _ => {
                    let what = "the query takes after= and limit=, both numbers";
                    return reply::error(StatusCode::BAD_REQUEST, "invalid_request", what);
                }
            }
        }
        let dir = self.status.audit_dir().to_owned();
        match tokio::task::spawn_blocking(move || audit::tail(&dir, after, most)).await {
            Ok(Ok(lines)) => reply::json(StatusCode::OK, &lines),
            Ok(Err(e)) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &e.to_string()),
            Err(e) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &e.to_string()),
        }
    }
}
