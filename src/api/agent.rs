//! The agent socket: what every local process may ask.

use hyper::Request;
use hyper::body::Incoming;

use super::body::{BodyBudget, MAX_BODY_SIZE, RequestBody};
use super::client_connection::ClientConnection;
use super::pace::Cost;
use super::parse;
use super::reply::{self, Reply};
use super::routes::{self, Body, Names, Route, RouteMatch, Verb};
use crate::correlation::{self, RequestContext};
use crate::service::{IdentityService, PeerLookup};
use crate::wire::agent::{
    CertificateResponse, IntrospectionResponse, ProveResponse, TokenResponse, UseNonceResponse,
};
use crate::wire::credentials::ReleaseResponse;
use crate::wire::delegate::DelegateResponse;
use crate::wire::revocation::RevokeOwnResponse;

use AgentHandler::{
    Attest, Certificate, Credential, Delegate, Introspect, MakeNonce, Prove, Revoke, Token, UseNonce, Whoami,
    Why,
};
use AgentSocketRole::{AnyCaller, IdentifiedCaller, RegisteredAgent};
use PublicHandler::{Bundle, Discovery, Health, Jwks, StatusList, StatusLists};
use Verb::{Get, Post};

/// Answers the agent socket.
pub struct AgentApi {
    service: IdentityService,
    body_budget: BodyBudget,
}

/// Who may call a route of the agent socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentSocketRole {
    /// Every local process. The caller is not identified.
    AnyCaller(PublicHandler),
    /// Every local process. The handler passes the caller to the service, which identifies it and says what
    /// it found.
    IdentifiedCaller(AgentHandler),
    /// A process that matches a registered agent, or may start commands for one. The handler passes the caller to the
    /// service, which identifies it.
    RegisteredAgent(AgentHandler),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PublicHandler {
    Bundle,
    Discovery,
    Health,
    Jwks,
    StatusList,
    StatusLists,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentHandler {
    Attest,
    Certificate,
    Credential,
    Delegate,
    Introspect,
    MakeNonce,
    Prove,
    Revoke,
    Token,
    UseNonce,
    Whoami,
    Why,
}

const NONE: Body = Body::Ignored;
const BODY: Body = Body::UpTo(MAX_BODY_SIZE);

/// To add a route: a row here, a variant of its role's handlers, its arm in `public` or `agent`, and the
/// method of [`IdentityService`] that it calls.
#[rustfmt::skip]
const ROUTES: &[Route<AgentSocketRole>] = &[
    Route { verb: Post, path: "/v1/token",             body: BODY, role: RegisteredAgent(Token) },
    Route { verb: Post, path: "/v1/certificate",       body: BODY, role: RegisteredAgent(Certificate) },
    Route { verb: Post, path: "/v1/credential",        body: BODY, role: RegisteredAgent(Credential) },
    Route { verb: Post, path: "/v1/introspect",        body: BODY, role: RegisteredAgent(Introspect) },
    Route { verb: Post, path: "/v1/revoke",            body: BODY, role: RegisteredAgent(Revoke) },
    Route { verb: Post, path: "/v1/nonce",             body: NONE, role: RegisteredAgent(MakeNonce) },
    Route { verb: Post, path: "/v1/nonce/use",         body: BODY, role: RegisteredAgent(UseNonce) },
    Route { verb: Post, path: "/v1/prove",             body: BODY, role: RegisteredAgent(Prove) },
    Route { verb: Post, path: "/v1/delegate",          body: BODY, role: RegisteredAgent(Delegate) },
    Route { verb: Post, path: "/v1/attest",            body: BODY, role: RegisteredAgent(Attest) },
    Route { verb: Get,  path: "/v1/whoami",            body: NONE, role: RegisteredAgent(Whoami) },
    Route { verb: Get,  path: "/v1/whoami/why",        body: NONE, role: IdentifiedCaller(Why) },
    Route { verb: Get,  path: "/v1/health",            body: NONE, role: AnyCaller(Health) },
    Route { verb: Get,  path: "/v1/bundle",            body: NONE, role: AnyCaller(Bundle) },
    Route { verb: Get,  path: "/v1/status-lists",      body: NONE, role: AnyCaller(StatusLists) },
    Route { verb: Get,  path: "/v1/status-list/{number}", body: NONE, role: AnyCaller(StatusList) },
    Route { verb: Get,  path: "/.well-known/jwks.json", body: NONE, role: AnyCaller(Jwks) },
    Route { verb: Get,  path: "/.well-known/openid-configuration", body: NONE, role: AnyCaller(Discovery) },
    Route { verb: Get,  path: "/tenant/{name}/.well-known/jwks.json", body: NONE, role: AnyCaller(Jwks) },
    Route { verb: Get,  path: "/tenant/{name}/.well-known/openid-configuration", body: NONE, role: AnyCaller(Discovery) },
    Route { verb: Get,  path: "/tenant/{name}/v1/status-lists", body: NONE, role: AnyCaller(StatusLists) },
    Route { verb: Get,  path: "/tenant/{name}/v1/status-list/{number}", body: NONE, role: AnyCaller(StatusList) },
];

impl AgentApi {
    /// An API on this service, with room for 256 large bodies at once, 32 of them of one uid.
    pub fn new(service: IdentityService) -> AgentApi {
        AgentApi { service, body_budget: BodyBudget::default() }
    }

    /// The reply, and what it costs the caller's uid. An agent's own rate limits its results, whatever they
    /// cost.
    pub(super) async fn handle_request(
        &self,
        client: &ClientConnection,
        request: Request<Incoming>,
    ) -> (Reply, Cost) {
        let (route, names) = match routes::find(ROUTES, request.method(), request.uri().path()) {
            RouteMatch::Found(route, names) => (route, names),
            RouteMatch::WrongMethod(allow) => return (reply::method_not_allowed(allow), Cost::Error),
            RouteMatch::NotFound => return (reply::not_found(), Cost::Error),
        };
        let context = routes::context(Some(route), request.headers());
        if route.body == Body::Ignored {
            client.mark_request_received();
        }
        let (reply, cost) = match route.role {
            AnyCaller(handler) => (self.public(handler, route.path, names).await, Cost::Unit),
            IdentifiedCaller(handler) => {
                let body = RequestBody::default();
                let answer = Box::pin(self.agent(handler, client, &body));
                (self.recorded(context, answer).await, Cost::Unit)
            }
            RegisteredAgent(handler) => match self.body_budget.read(client, request, route.body).await {
                // The caller is read only now that the body is complete: it may change until then.
                // Boxed, because a connection that sends its body slowly would have the room for it, twice.
                Ok(body) => {
                    let answer = Box::pin(self.agent(handler, client, &body));
                    (self.recorded(context, answer).await, Cost::Free)
                }
                Err(error_reply) => (error_reply, Cost::Error),
            },
        };
        let cost = if reply.status().is_success() { cost } else { Cost::Error };
        (reply, cost)
    }

    /// Answers a request whose records have its ids, which the reply has too.
    async fn recorded(&self, context: RequestContext, answer: impl Future<Output = Reply>) -> Reply {
        let reply = correlation::scope(context, answer).await;
        reply::with_correlation(reply, &context.correlation)
    }

    /// Answers with a public document. The first name of a path below `/tenant/` is the tenant.
    async fn public(&self, handler: PublicHandler, path: &str, names: Names<'_>) -> Reply {
        let (tenant, number) = match names {
            [name, number] if path.starts_with("/tenant/") => (Some(name), number),
            [number, _] => (None, number),
        };
        let document = match handler {
            Health => return reply::ok(&self.service.health_response()),
            // Boxed, because each public document would have the room for it.
            StatusList => return Box::pin(self.status_list(tenant, number)).await,
            StatusLists => match self.service.status_lists(tenant) {
                Ok(Some(lists)) => return reply::cacheable(&lists),
                Ok(None) => Ok(None),
                Err(not_ready) => Err(not_ready),
            },
            Bundle => self.service.bundle_document().map(Some),
            Discovery => self.service.discovery(tenant),
            Jwks => self.service.jwks(tenant),
        };
        match document {
            Ok(Some(text)) => reply::json_cacheable(text),
            Ok(None) => reply::not_found(),
            Err(not_ready) => reply::unavailable(&not_ready.to_string()),
        }
    }

    async fn status_list(&self, tenant: Option<&str>, number: &str) -> Reply {
        match self.service.status_list(tenant, number).await {
            Ok(Some(list)) => reply::status_list(list),
            Ok(None) => reply::not_found(),
            Err(not_ready) => reply::unavailable(&not_ready.to_string()),
        }
    }

    async fn agent(&self, handler: AgentHandler, client: &ClientConnection, body: &RequestBody) -> Reply {
        let lookup = client.begin_request();
        match handler {
            Token => match self.service.issue_token(lookup, parse::token_request(body)).await {
                Ok(token) => reply::token(&TokenResponse::from(&token)),
                Err(error) => reply::request_error(&error),
            },
            // Boxed, because each request for a token would allocate, copy and overwrite the room for them.
            Certificate => Box::pin(self.certificate(lookup, body)).await,
            Credential => Box::pin(self.credential(lookup, body)).await,
            Introspect => Box::pin(self.introspect(lookup, body)).await,
            Revoke => Box::pin(self.revoke(lookup, body)).await,
            MakeNonce => Box::pin(self.make_nonce(lookup)).await,
            UseNonce => Box::pin(self.use_nonce(lookup, body)).await,
            Prove => Box::pin(self.prove(lookup, body)).await,
            Delegate => Box::pin(self.delegate(lookup, body)).await,
            Attest => Box::pin(self.attest(client, lookup, body)).await,
            Whoami => Box::pin(self.whoami(lookup)).await,
            Why => Box::pin(self.explain(lookup)).await,
        }
    }

    async fn credential(&self, lookup: PeerLookup, body: &RequestBody) -> Reply {
        match self.service.release_credential(lookup, parse::release_request(body)).await {
            Ok(released) => reply::ok(&ReleaseResponse::from(&released)),
            Err(error) => reply::request_error(&error),
        }
    }

    async fn certificate(&self, lookup: PeerLookup, body: &RequestBody) -> Reply {
        match self.service.issue_certificate(lookup, parse::certificate_request(body)).await {
            Ok(certificate) => match CertificateResponse::try_from(&certificate) {
                Ok(response) => reply::ok(&response),
                Err(e) => reply::server_error(&e.to_string()),
            },
            Err(error) => reply::request_error(&error),
        }
    }

    async fn introspect(&self, lookup: PeerLookup, body: &RequestBody) -> Reply {
        match self.service.introspect(lookup, parse::introspection_request(body)).await {
            Ok(introspection) => reply::ok(&IntrospectionResponse::from(introspection)),
            Err(error) => reply::request_error(&error),
        }
    }

    async fn revoke(&self, lookup: PeerLookup, body: &RequestBody) -> Reply {
        match self.service.revoke_own_token(lookup, parse::revoke_own_request(body)).await {
            Ok(_) => reply::ok(&RevokeOwnResponse {}),
            Err(error) => reply::request_error(&error),
        }
    }

    async fn make_nonce(&self, lookup: PeerLookup) -> Reply {
        match self.service.make_nonce(lookup).await {
            Ok(nonce) => reply::ok(&nonce),
            Err(error) => reply::request_error(&error),
        }
    }

    async fn use_nonce(&self, lookup: PeerLookup, body: &RequestBody) -> Reply {
        match self.service.use_nonce(lookup, parse::use_nonce_request(body)).await {
            Ok(valid) => reply::ok(&UseNonceResponse { valid: *valid.get() }),
            Err(error) => reply::request_error(&error),
        }
    }

    async fn prove(&self, lookup: PeerLookup, body: &RequestBody) -> Reply {
        match self.service.prove(lookup, parse::prove_request(body)).await {
            Ok(proof) => reply::ok(&ProveResponse::from(&proof)),
            Err(error) => reply::request_error(&error),
        }
    }

    async fn delegate(&self, lookup: PeerLookup, body: &RequestBody) -> Reply {
        match self.service.delegate(lookup, parse::delegate_request(body)).await {
            Ok(delegated) => reply::ok(&DelegateResponse::from(&delegated)),
            Err(error) => reply::request_error(&error),
        }
    }

    async fn attest(&self, client: &ClientConnection, lookup: PeerLookup, body: &RequestBody) -> Reply {
        match self.service.attest(lookup, parse::attest_request(body)).await {
            Ok(evidence) => reply::evidence(evidence, client.recall_signal()).await,
            Err(error) => reply::request_error(&error),
        }
    }

    async fn whoami(&self, lookup: PeerLookup) -> Reply {
        match self.service.whoami(lookup).await {
            Ok(info) => reply::ok(&info),
            Err(error) => reply::request_error(&error),
        }
    }

    async fn explain(&self, lookup: PeerLookup) -> Reply {
        match self.service.explain_caller(lookup).await {
            Ok(explanation) => reply::ok(&explanation),
            Err(error) => reply::request_error(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::openapi;

    #[test]
    fn routes_are_as_documented() {
        let caller = |role| match role {
            AnyCaller(_) | IdentifiedCaller(_) => "any local process",
            RegisteredAgent(_) => "a registered agent",
        };
        let routes = ROUTES.iter().map(|route| (route.verb.name(), route.path, caller(route.role)));
        openapi::assert_operations("agent socket", routes);
    }

    #[test]
    fn each_path_has_one_row() {
        routes::assert_unique_paths(ROUTES);
    }
}
