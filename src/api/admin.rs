//! The admin socket: status, agents, keys, the log. For root and the admin group.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;

use super::StatusReporter;
use super::body;
use super::client_connection::ClientConnection;
use super::reply::{self, Reply};
use crate::audit;
use crate::clock::BootTime;
use crate::config::Diagnostic;
use crate::error_class::ErrorClass;
use crate::issue::{KeyAdmin, KeyReport};
use crate::peer::Peer;
use crate::policy::AdminPolicy;
use crate::posture::{self, PostureAction, PostureDiff, PostureReport};
use crate::service::IdentityService;

/// Lines of the log that one answer holds at most.
const MAX_AUDIT_LINES: usize = 1000;

/// What comes to holding the host's keys: a copy of them, older ones put back, another host's state taken for this one's,
/// another's proof of being in this TPM. For root alone.
const ROOT_ONLY_PATHS: [&str; 5] = [
    "/v1/keys/recovery",
    "/v1/keys/recover",
    "/v1/keys/accept",
    "/v1/posture/accept",
    "/v1/enroll/credential",
];

/// What is watched of the host, and the way to who watches.
pub struct PostureControl {
    pub admin: posture::PostureCommandSender,
    /// PCRs that are compared.
    pub compared_pcrs: Vec<u8>,
}

/// Answers the admin socket.
pub struct AdminApi {
    pub service: IdentityService,
    pub admin_policy: AdminPolicy,
    pub status: Arc<StatusReporter>,
    pub key_admin: KeyAdmin,
    pub posture: PostureControl,
    pub body_budget: body::BodyBudget,
}

#[derive(Serialize)]
struct ReloadErrorResponse<'a> {
    error: &'static str,
    error_description: &'static str,
    faults: &'a [Diagnostic],
}

#[derive(Serialize)]
struct KeysResponse<'a> {
    /// Why a step that is due is not taken.
    waits: Option<String>,
    /// Why there is no RSA key, where a grant asks for RS256.
    rsa_waits: Option<String>,
    keys: &'a [KeyReport],
}

#[derive(Serialize)]
struct RecoveryKeyResponse<'a> {
    recovery_key: &'a str,
}

/// What an order came to that has no more to say than that it is done.
fn command_reply(outcome: Result<(), String>) -> Reply {
    match outcome {
        Ok(()) => reply::json(StatusCode::OK, &serde_json::json!({ "done": true })),
        Err(reason) => reply::error(StatusCode::CONFLICT, "invalid_request", &reason),
    }
}

/// An administrator, for the record.
fn admin_id(peer: &Peer) -> String {
    format!("uid {}, pid {}", peer.uid, peer.pid)
}

fn unavailable(reason: &str) -> Reply {
    reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", reason)
}

impl AdminApi {
    pub(super) async fn handle_request(
        &self,
        client: &ClientConnection,
        request: Request<Incoming>,
    ) -> Reply {
        let peer = match self.service.authenticate_admin(client.begin_request(), self.admin_policy).await {
            Ok(peer) => peer,
            Err(error) => return reply::from_request_error(&error),
        };
        let post = *request.method() == Method::POST;
        if post && ROOT_ONLY_PATHS.contains(&request.uri().path()) {
            if let Err(error) = self.service.require_owner(&peer, self.admin_policy).await {
                return reply::from_request_error(&error);
            }
        }
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/v1/status" if get => {
                reply::json(StatusCode::OK, &self.status.report(&self.service, self.key_admin.seal_status()))
            }
            "/v1/agents" if get => {
                let agent_set = self.service.agents.current();
                reply::json(StatusCode::OK, &agent_set.iter().collect::<Vec<_>>())
            }
            "/v1/agents/reload" if post => self.reload(&admin_id(&peer)).await,
            "/v1/audit" if get => self.audit_records(request.uri().query().unwrap_or_default()).await,
            "/v1/keys" if get => self.list_keys(),
            "/v1/keys/rotate" if post => self.rotate_keys(&peer, request).await,
            "/v1/keys/recovery" if post => self.create_recovery_key(&peer).await,
            "/v1/keys/recover" if post => self.recover(&peer, request).await,
            "/v1/keys/accept" if post => self.accept_state(&peer).await,
            path if post && path.starts_with("/v1/enroll/") => {
                let step = path["/v1/enroll/".len()..].to_owned();
                super::enroll::handle_step(self, &admin_id(&peer), &step, request).await
            }
            "/v1/posture" if get => self.posture_report().await,
            "/v1/posture/diff" if get => self.posture_diff().await,
            "/v1/posture/accept" if post => self.accept_posture(&peer, request).await,
            "/v1/posture/accept" => reply::method_not_allowed("POST"),
            "/v1/posture" | "/v1/posture/diff" => reply::method_not_allowed("GET, HEAD"),
            "/v1/status" | "/v1/agents" | "/v1/audit" | "/v1/keys" => reply::method_not_allowed("GET, HEAD"),
            "/v1/agents/reload" | "/v1/keys/rotate" | "/v1/keys/recovery" | "/v1/keys/recover"
            | "/v1/keys/accept" => reply::method_not_allowed("POST"),
            path => match path.strip_prefix("/v1/agents/") {
                Some(name) if get => match self.service.agents.current().get(name) {
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

    async fn reload(&self, requested_by: &str) -> Reply {
        match self.service.reload(requested_by).await {
            Ok(Ok(changes)) => reply::json(StatusCode::OK, changes.get()),
            Ok(Err(faults)) => {
                let description = "the agents were not reloaded; the last good set stays in force";
                let body = ReloadErrorResponse {
                    error: "invalid_request",
                    error_description: description,
                    faults: &faults,
                };
                reply::json(StatusCode::UNPROCESSABLE_ENTITY, &body)
            }
            Err(error) => reply::from_request_error(&error),
        }
    }

    fn list_keys(&self) -> Reply {
        let Some(issuer_state) = self.service.issuer.state() else { return self.issuer_unavailable() };
        reply::json(
            StatusCode::OK,
            &KeysResponse {
                waits: self.key_admin.blocked_reason(),
                rsa_waits: self.service.tpm_signer.rsa_blocked_reason.borrow().clone(),
                keys: issuer_state.key_reports(),
            },
        )
    }

    async fn rotate_keys(&self, peer: &Peer, request: Request<Incoming>) -> Reply {
        let body = match self.body_budget.read(request).await {
            Ok(body) => body,
            Err(error_reply) => return error_reply,
        };
        let immediate = match body::parse_rotate_request(&body) {
            Ok(immediate) => immediate,
            Err(description) => {
                return reply::error(StatusCode::BAD_REQUEST, "invalid_request", &description);
            }
        };
        if self.service.issuer.state().is_none() {
            return self.issuer_unavailable();
        }
        match self.key_admin.rotate(immediate, admin_id(peer)).await {
            Ok(rotated) => reply::json(StatusCode::OK, &rotated),
            Err(reason) => reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &reason),
        }
    }

    /// The only time that the key is ever shown.
    async fn create_recovery_key(&self, peer: &Peer) -> Reply {
        match self.key_admin.create_recovery_key(admin_id(peer)).await {
            Ok(key) => reply::json(StatusCode::OK, &RecoveryKeyResponse { recovery_key: &key }),
            Err(reason) => reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &reason),
        }
    }

    async fn recover(&self, peer: &Peer, request: Request<Incoming>) -> Reply {
        let body = match self.body_budget.read(request).await {
            Ok(body) => body,
            Err(error_reply) => return error_reply,
        };
        match body::parse_recover_request(&body) {
            Ok((key, accept)) => command_reply(self.key_admin.recover(key, accept, admin_id(peer)).await),
            Err(description) => reply::error(StatusCode::BAD_REQUEST, "invalid_request", &description),
        }
    }

    async fn accept_state(&self, peer: &Peer) -> Reply {
        command_reply(self.key_admin.accept_state(admin_id(peer)).await)
    }

    /// What is known of the host; where nobody looks again and again, after a look for this question.
    async fn refresh_posture(&self) {
        if self.service.posture() == posture::Posture::Off {
            // What stands in the way is part of what is known.
            let _ = self.posture.admin.send(PostureAction::Refresh).await;
        }
    }

    async fn posture_report(&self) -> Reply {
        self.refresh_posture().await;
        let uses_ima = self.service.agents.current().uses_ima();
        let report =
            PostureReport::new(&self.service.posture, &self.posture.compared_pcrs, uses_ima, BootTime::now());
        reply::json(StatusCode::OK, &report)
    }

    async fn posture_diff(&self) -> Reply {
        self.refresh_posture().await;
        let (event_log, posture_state) = (self.service.event_log.clone(), self.service.posture.clone());
        let compared_pcrs = self.posture.compared_pcrs.clone();
        let diff = move || {
            PostureDiff::new(&posture_state, &compared_pcrs, event_log.read().as_deref(), BootTime::now())
        };
        match tokio::task::spawn_blocking(diff).await {
            Ok(Ok(diff)) => reply::json(StatusCode::OK, &diff),
            Ok(Err(error)) => unavailable(&error.to_string()),
            Err(e) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &e.to_string()),
        }
    }

    async fn accept_posture(&self, peer: &Peer, request: Request<Incoming>) -> Reply {
        let body = match self.body_budget.read(request).await {
            Ok(body) => body,
            Err(error_reply) => return error_reply,
        };
        let digest = match body::parse_posture_accept_request(&body) {
            Ok(digest) => digest,
            Err(description) => {
                return reply::error(StatusCode::BAD_REQUEST, "invalid_request", &description);
            }
        };
        match self.posture.admin.send(PostureAction::Accept { digest, accepted_by: admin_id(peer) }).await {
            Ok(()) => self.posture_report().await,
            Err(error) if error.class() == ErrorClass::Conflict => {
                reply::error(StatusCode::CONFLICT, "invalid_request", &error.to_string())
            }
            Err(error) => unavailable(&error.to_string()),
        }
    }

    pub(super) fn issuer_unavailable(&self) -> Reply {
        let reason = self.service.unavailable_reason();
        reply::error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", &reason)
    }

    async fn audit_records(&self, query: &str) -> Reply {
        let (mut after, mut limit) = (0, 20);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let number = value.parse::<u64>();
            match (&*name, number) {
                ("after", Ok(number)) => after = number,
                ("limit", Ok(number)) => limit = number.clamp(1, MAX_AUDIT_LINES as u64) as usize,
                _ => {
                    let description = "the query takes after= and limit=, both numbers";
                    return reply::error(StatusCode::BAD_REQUEST, "invalid_request", description);
                }
            }
        }
        let dir = self.status.audit_dir().to_owned();
        match tokio::task::spawn_blocking(move || audit::tail(&dir, after, limit)).await {
            Ok(Ok(lines)) => reply::json(StatusCode::OK, &lines),
            Ok(Err(e)) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &e.to_string()),
            Err(e) => reply::error(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &e.to_string()),
        }
    }
}
