//! The admin socket: status, agents, keys, posture, enrollment and the audit log.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Uri};

use super::body::{BodyBudget, MAX_BODY_SIZE, RequestBody};
use super::client_connection::ClientConnection;
use super::connection_limits::ConnectionLimits;
use super::parse;
use super::policy_query;
use super::reply::{self, Reply};
use super::routes::{self, Body, Route, RouteMatch, Verb};
use crate::correlation;
use crate::service::{Admin, AdminError, IdentityService, InvalidRequest, PeerLookup, RootAdmin};
use crate::wire::admin::DoneResponse;

/// Answers the admin socket.
pub struct AdminApi {
    service: IdentityService,
    /// The connections that status counts: those of the agent socket and the workload socket.
    connection_limits: Arc<ConnectionLimits>,
    body_budget: BodyBudget,
}

/// Who may call a route of the admin socket. Other callers get status 403 for every path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AdminSocketRole {
    /// Those of `Admin`, and members of the metrics group.
    Monitor,
    /// Root and members of the admin group.
    Admin(AdminHandler),
    /// Root alone, because the command equals holding the host's keys: it copies them, accepts older ones,
    /// accepts another state of the host, revokes certificates of all agents, proves possession of this TPM
    /// for others, decides which root the host's trust bundle has, or changes a credential that agents use.
    Root(RootHandler),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AdminHandler {
    Agent,
    Agents,
    Anomalies,
    AnomaliesOfAgent,
    Approvals,
    ApproveChange,
    AuditRecords,
    Clock,
    Credentials,
    DecideApproval,
    EnrollActivate,
    EnrollRequest,
    Keys,
    Leak,
    Lifecycle,
    Policies,
    PolicyWhy,
    Posture,
    PostureDiff,
    Process,
    Freeze,
    Reload,
    Revocations,
    Revoke,
    RevokeBySignal,
    RotateKeys,
    SignReview,
    Status,
    Tenants,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RootHandler {
    AcceptClock,
    AcceptCredentials,
    AcceptPosture,
    AcceptRevocations,
    AcceptState,
    ConfirmRecoveryKey,
    CreateRecoveryKey,
    EnrollCredential,
    EnrollInstall,
    LiftRevocation,
    OffboardAgent,
    PutCredential,
    RecoverKeys,
    RemoveCredential,
    RemoveTenant,
    ResumeAgent,
    RotateCredential,
    Thaw,
}

const NONE: Body = Body::Ignored;
const BODY: Body = Body::UpTo(MAX_BODY_SIZE);
/// A value of 64 KiB, of which each byte may need six in JSON.
const VALUE_BODY: Body = Body::UpTo(6 * MAX_BODY_SIZE + 4096);

/// A security event token of 64 KiB.
const SIGNAL_BODY: Body = Body::UpTo(MAX_BODY_SIZE + 4096);

/// To add a route: its types in `wire`, a row here, a variant of its role's handlers, its arm in `admin` or
/// `root`, and the method of [`IdentityService`] that it calls; then the path in `docs/openapi.yaml`, which a
/// test compares with this table, and a subcommand in `cli`.
#[rustfmt::skip]
const ROUTES: &[Route<AdminSocketRole>] = {
    use AdminHandler::*;
    use AdminSocketRole::{Admin, Monitor, Root};
    use RootHandler::*;
    use Verb::{Get, Post};
    &[
        Route { verb: Get,  path: "/v1/status",              body: NONE, role: Admin(Status) },
        Route { verb: Get,  path: "/v1/metrics",             body: NONE, role: Monitor },
        Route { verb: Get,  path: "/v1/agents",              body: NONE, role: Admin(Agents) },
        Route { verb: Get,  path: "/v1/agents/{name}",       body: NONE, role: Admin(Agent) },
        Route { verb: Post, path: "/v1/agents/reload",       body: BODY, role: Admin(Reload) },
        Route { verb: Post, path: "/v1/agents/approve",      body: BODY, role: Admin(ApproveChange) },
        Route { verb: Post, path: "/v1/agents/offboard",     body: BODY, role: Root(OffboardAgent) },
        Route { verb: Get,  path: "/v1/lifecycle",           body: NONE, role: Admin(Lifecycle) },
        Route { verb: Post, path: "/v1/reviews/sign",        body: BODY, role: Admin(SignReview) },
        Route { verb: Get,  path: "/v1/processes/{pid}",     body: NONE, role: Admin(Process) },
        Route { verb: Get,  path: "/v1/audit",               body: NONE, role: Admin(AuditRecords) },
        Route { verb: Get,  path: "/v1/credentials",         body: NONE, role: Admin(Credentials) },
        Route { verb: Post, path: "/v1/credentials/put",     body: VALUE_BODY, role: Root(PutCredential) },
        Route { verb: Post, path: "/v1/credentials/rotate",  body: VALUE_BODY, role: Root(RotateCredential) },
        Route { verb: Post, path: "/v1/credentials/remove",  body: BODY, role: Root(RemoveCredential) },
        Route { verb: Post, path: "/v1/credentials/accept",  body: NONE, role: Root(AcceptCredentials) },
        Route { verb: Get,  path: "/v1/keys",                body: NONE, role: Admin(Keys) },
        Route { verb: Post, path: "/v1/keys/rotate",         body: BODY, role: Admin(RotateKeys) },
        Route { verb: Post, path: "/v1/keys/recovery",       body: NONE, role: Root(CreateRecoveryKey) },
        Route { verb: Post, path: "/v1/keys/recovery/confirm", body: BODY, role: Root(ConfirmRecoveryKey) },
        Route { verb: Post, path: "/v1/keys/recover",        body: BODY, role: Root(RecoverKeys) },
        Route { verb: Post, path: "/v1/keys/accept",         body: NONE, role: Root(AcceptState) },
        Route { verb: Get,  path: "/v1/revocations",         body: NONE, role: Admin(Revocations) },
        Route { verb: Post, path: "/v1/revocations/accept",  body: NONE, role: Root(AcceptRevocations) },
        Route { verb: Post, path: "/v1/revocations/revoke",  body: BODY, role: Admin(Revoke) },
        Route { verb: Post, path: "/v1/revocations/signal",  body: SIGNAL_BODY, role: Admin(RevokeBySignal) },
        Route { verb: Post, path: "/v1/revocations/lift",    body: BODY, role: Root(LiftRevocation) },
        Route { verb: Get,  path: "/v1/anomalies",           body: NONE, role: Admin(Anomalies) },
        Route { verb: Get,  path: "/v1/anomalies/{name}",    body: NONE, role: Admin(AnomaliesOfAgent) },
        Route { verb: Post, path: "/v1/anomalies/resume",    body: BODY, role: Root(ResumeAgent) },
        Route { verb: Get,  path: "/v1/approvals",           body: NONE, role: Admin(Approvals) },
        Route { verb: Post, path: "/v1/approvals/decide",    body: BODY, role: Admin(DecideApproval) },
        Route { verb: Post, path: "/v1/leak",                body: BODY, role: Admin(Leak) },
        Route { verb: Post, path: "/v1/freeze",              body: BODY, role: Admin(Freeze) },
        Route { verb: Post, path: "/v1/thaw",                body: NONE, role: Root(Thaw) },
        Route { verb: Get,  path: "/v1/tenants",             body: NONE, role: Admin(Tenants) },
        Route { verb: Post, path: "/v1/tenants/remove",      body: BODY, role: Root(RemoveTenant) },
        Route { verb: Get,  path: "/v1/policies",            body: NONE, role: Admin(Policies) },
        Route { verb: Get,  path: "/v1/policies/why",        body: NONE, role: Admin(PolicyWhy) },
        Route { verb: Get,  path: "/v1/posture",             body: NONE, role: Admin(Posture) },
        Route { verb: Get,  path: "/v1/posture/diff",        body: NONE, role: Admin(PostureDiff) },
        Route { verb: Post, path: "/v1/posture/accept",      body: BODY, role: Root(AcceptPosture) },
        Route { verb: Get,  path: "/v1/clock",               body: NONE, role: Admin(Clock) },
        Route { verb: Post, path: "/v1/clock/accept",        body: NONE, role: Root(AcceptClock) },
        Route { verb: Post, path: "/v1/enroll/request",      body: BODY, role: Admin(EnrollRequest) },
        Route { verb: Post, path: "/v1/enroll/activate",     body: BODY, role: Admin(EnrollActivate) },
        Route { verb: Post, path: "/v1/enroll/credential",   body: BODY, role: Root(EnrollCredential) },
        Route { verb: Post, path: "/v1/enroll/install",      body: BODY, role: Root(EnrollInstall) },
    ]
};

impl AdminApi {
    /// An API on this service. Status counts the connections of `connection_limits`.
    pub fn new(service: IdentityService, connection_limits: Arc<ConnectionLimits>) -> AdminApi {
        AdminApi { service, connection_limits, body_budget: BodyBudget::default() }
    }

    pub(super) async fn handle_request(
        &self,
        client: &ClientConnection,
        request: Request<Incoming>,
    ) -> Reply {
        let uri = request.uri().clone();
        let found = routes::find(ROUTES, request.method(), uri.path());
        let context = routes::context(found.route(), request.headers());
        let reply = correlation::scope(context, self.handle_correlated(client, request, &uri, found)).await;
        reply::with_correlation(reply, &context.correlation)
    }

    async fn handle_correlated(
        &self,
        client: &ClientConnection,
        request: Request<Incoming>,
        uri: &Uri,
        found: RouteMatch<'_, AdminSocketRole>,
    ) -> Reply {
        let lookup = client.begin_request();
        if matches!(&found, RouteMatch::Found(route, _) if route.role == AdminSocketRole::Monitor) {
            return self.metrics(lookup, uri.query().unwrap_or_default()).await;
        }
        // Before the caller learns which paths there are.
        let admin = match self.service.authenticate_admin(lookup).await {
            Ok(admin) => admin,
            Err(error) => return reply::request_error(&error),
        };
        let (route, name) = match found {
            RouteMatch::Found(route, [name, _]) => (route, name),
            RouteMatch::WrongMethod(allow) => return reply::method_not_allowed(allow),
            RouteMatch::NotFound => return reply::not_found(),
        };
        match route.role {
            AdminSocketRole::Monitor => reply::not_found(),
            AdminSocketRole::Admin(handler) => {
                let work = async |body: &_| self.admin(handler, &admin, name, uri, body).await;
                self.answer(client, &admin, request, route, work).await
            }
            AdminSocketRole::Root(handler) => match self.service.require_root(admin).await {
                Ok(root) => {
                    let work = async |body: &_| self.root(handler, &root, body).await;
                    self.answer(client, &root, request, route, work).await
                }
                Err(error) => reply::request_error(&error),
            },
        }
    }

    /// Not only for administrators.
    async fn metrics(&self, lookup: PeerLookup, query: &str) -> Reply {
        let monitor = match self.service.authenticate_monitor(lookup).await {
            Ok(monitor) => monitor,
            Err(error) => return reply::request_error(&error),
        };
        let connections = self.connection_limits.len();
        let metrics = parse::metrics_query(query)
            .map_err(AdminError::from)
            .and_then(|query| self.service.metrics(&monitor, query, connections));
        metrics.map_or_else(|error| reply::admin_error(&error), reply::metrics)
    }

    /// Reads the body and does the `work` of the route. Where it changes or records something, it is within
    /// the caller's rate, and a failure is recorded, for every such route.
    async fn answer(
        &self,
        client: &ClientConnection,
        admin: &Admin,
        request: Request<Incoming>,
        route: &'static Route<AdminSocketRole>,
        work: impl AsyncFnOnce(&RequestBody) -> Result<Reply, AdminError>,
    ) -> Reply {
        let command = match route.verb {
            Verb::Get => None,
            Verb::Post => match self.service.begin_command(admin, route.path).await {
                Ok(command) => Some(command),
                Err(error) => return reply::request_error(&error),
            },
        };
        let (error, unread) = match self.body_budget.read(client, request, route.body).await {
            Ok(body) => match work(&body).await {
                Ok(reply) => return reply,
                Err(error) => (error, None),
            },
            Err(reply) => (InvalidRequest::new("the body cannot be read").into(), Some(reply)),
        };
        let error = match command {
            Some(command) => self.service.record_failed_command(command, error).await,
            None => error,
        };
        match (unread, &error) {
            (Some(reply), AdminError::InvalidRequest(_)) => reply,
            _ => reply::admin_error(&error),
        }
    }

    async fn admin(
        &self,
        handler: AdminHandler,
        admin: &Admin,
        name: &str,
        uri: &Uri,
        body: &RequestBody,
    ) -> Result<Reply, AdminError> {
        let service = &self.service;
        Ok(match handler {
            AdminHandler::Status => reply::ok(&service.status(admin, self.connection_limits.len()).await),
            AdminHandler::Agents => {
                let query = parse::agents_query(uri.query().unwrap_or_default())?;
                reply::ok(&service.agents(admin, query).await?)
            }
            AdminHandler::Agent => reply::ok(&service.agent(admin, name).await?),
            AdminHandler::Lifecycle => {
                let unseen_for = parse::lifecycle_query(uri.query().unwrap_or_default())?;
                reply::ok(&service.lifecycle(admin, unseen_for).await?)
            }
            AdminHandler::Reload => reply::ok(&service.reload(admin, parse::reload_request(body)?).await?),
            AdminHandler::ApproveChange => {
                reply::ok(&service.approve_change(admin, parse::approve_request(body)?).await?)
            }
            AdminHandler::Process => {
                let agent = parse::agent_query(uri.query().unwrap_or_default())?;
                reply::ok(&service.explain_process(admin, name, agent.as_deref()).await?)
            }
            AdminHandler::AuditRecords => {
                let (query, limit) = parse::audit_query(uri.query().unwrap_or_default())?;
                reply::ok(&service.audit_records(admin, query, limit).await?)
            }
            AdminHandler::Credentials => reply::ok(&service.stored_credentials(admin)?),
            AdminHandler::Revocations => reply::ok(&service.revocations(admin)),
            AdminHandler::SignReview => {
                reply::ok(&service.sign_review(admin, parse::sign_review_request(body)?).await?)
            }
            AdminHandler::Revoke => reply::ok(&service.revoke(admin, parse::revoke_request(body)?).await?),
            AdminHandler::RevokeBySignal => {
                reply::ok(&service.revoke_by_signal(admin, parse::signal_request(body)?).await?)
            }
            AdminHandler::Anomalies => reply::ok(&service.anomalies(admin)),
            AdminHandler::AnomaliesOfAgent => reply::ok(&service.anomalies_of(admin, name)?),
            AdminHandler::Approvals => reply::ok(&service.approvals(admin)),
            AdminHandler::DecideApproval => {
                reply::ok(&service.decide_approval(admin, parse::decide_request(body)?).await?)
            }
            AdminHandler::Leak => reply::ok(&service.leak(admin, parse::leak_request(body)?).await?),
            AdminHandler::Freeze => reply::ok(&service.freeze(admin, parse::freeze_request(body)?).await?),
            AdminHandler::Tenants => reply::ok(&service.tenants(admin)?),
            AdminHandler::Keys => reply::ok(&service.keys(admin)?),
            AdminHandler::RotateKeys => {
                reply::ok(&service.rotate_keys(admin, parse::rotate_request(body)?).await?)
            }
            AdminHandler::Clock => reply::ok(&service.clock_status(admin)),
            AdminHandler::Policies => {
                let agent = parse::agent_query(uri.query().unwrap_or_default())?;
                reply::ok(&service.policies(admin, agent.as_deref())?)
            }
            AdminHandler::PolicyWhy => {
                let query = policy_query::policy_why_query(uri.query().unwrap_or_default())?;
                reply::ok(&service.explain_decision(admin, query).await?)
            }
            AdminHandler::Posture => reply::ok(&service.posture_report(admin).await),
            AdminHandler::PostureDiff => reply::ok(&service.posture_diff(admin).await?),
            AdminHandler::EnrollRequest => reply::ok(&service.create_enrollment_request(admin).await?),
            AdminHandler::EnrollActivate => {
                reply::ok(&service.answer_enrollment_challenge(admin, &body.bytes).await?)
            }
        })
    }

    async fn root(
        &self,
        handler: RootHandler,
        root: &RootAdmin,
        body: &RequestBody,
    ) -> Result<Reply, AdminError> {
        let service = &self.service;
        let done = || reply::ok(&DoneResponse { done: true });
        Ok(match handler {
            RootHandler::PutCredential => {
                reply::ok(&service.put_credential(root, parse::put_credential_request(body)?).await?)
            }
            RootHandler::RotateCredential => {
                reply::ok(&service.rotate_credential(root, parse::rotate_credential_request(body)?).await?)
            }
            RootHandler::RemoveCredential => {
                reply::ok(&service.remove_credential(root, parse::remove_credential_request(body)?).await?)
            }
            RootHandler::OffboardAgent => {
                reply::ok(&service.offboard_agent(root, parse::offboard_request(body)?).await?)
            }
            RootHandler::RemoveTenant => {
                reply::ok(&service.remove_tenant(root, parse::remove_tenant_request(body)?).await?)
            }
            RootHandler::AcceptRevocations => reply::ok(&service.accept_revocations(root).await?),
            RootHandler::LiftRevocation => {
                reply::ok(&service.lift_revocation(root, parse::revoke_request(body)?).await?)
            }
            RootHandler::ResumeAgent => {
                reply::ok(&service.resume_agent(root, parse::resume_request(body)?).await?)
            }
            RootHandler::Thaw => reply::ok(&service.thaw(root).await?),
            RootHandler::AcceptCredentials => reply::ok(&service.accept_credentials(root).await?),
            RootHandler::CreateRecoveryKey => reply::ok(&service.create_recovery_key(root).await?),
            RootHandler::ConfirmRecoveryKey => {
                service.confirm_recovery_key(root, parse::confirm_recovery_key_request(body)?).await?;
                done()
            }
            RootHandler::RecoverKeys => {
                service.recover_keys(root, parse::recover_request(body)?).await?;
                done()
            }
            RootHandler::AcceptState => {
                service.accept_state(root).await?;
                done()
            }
            RootHandler::AcceptPosture => {
                reply::ok(&service.accept_posture(root, parse::posture_accept_request(body)?).await?)
            }
            RootHandler::AcceptClock => reply::ok(&service.accept_clock(root).await?),
            RootHandler::EnrollCredential => {
                reply::ok(&service.open_credential(root, parse::credential_request(body)?).await?)
            }
            RootHandler::EnrollInstall => {
                reply::ok(&service.install_certificate(root, parse::install_request(body)?).await?)
            }
        })
    }
}

#[cfg(test)]
mod tests;
