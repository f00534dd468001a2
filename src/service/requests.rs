//! Checks what a request says before any decision: wire types become the types that `policy` and `issue`
//! take.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::error::InvalidRequest;
use crate::agents::{self, Binding, DelegatedRight, DelegatedRights};
use crate::config::parse_duration;
use crate::issue::{self, EvidenceFormat, Nonce, ProofDetails, ValidationRequest};
use crate::policy::{self, JwtSvidRequest, MAX_AUDIENCES, ProofTarget};
use crate::present::{Action, ProofKind};
use crate::verify;
use crate::wire::agent::{self, CertificateRequest, ProveRequest, Ttl};
use crate::wire::credentials::ReleaseRequest;
use crate::wire::delegate::{DelegateRequest, DelegatedGrant};

/// Longest audience, scope list and agent name of a request, in bytes. Those of `agents.d` are shorter, so a
/// longer one matches nothing.
const MAX_FIELD_LEN: usize = 4096;
/// Rights that one request delegates.
const MAX_DELEGATED_RIGHTS: usize = 128;
/// Longest audience of a JWT-SVID, in bytes, as in a grant.
const MAX_SVID_AUDIENCE_LEN: usize = 512;

/// What FetchJWTSVID asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtSvidParams {
    /// At least one and at most 16 audiences.
    pub audiences: Vec<String>,
    /// SPIFFE ID of the agent to act as; empty means all of the caller's agents.
    pub spiffe_id: String,
}

/// A request for a token with what it is to be bound to. The certificate is not parsed yet.
pub(super) struct CheckedTokenRequest<'a> {
    pub request: policy::TokenRequest,
    pub certificate: Option<Cow<'a, str>>,
}

/// A request for a proof.
pub(super) struct CheckedProofRequest {
    pub request: policy::ProofRequest,
    pub details: ProofDetails,
}

/// A request for a sub-agent. Its name and its cgroup are not checked yet.
pub(super) struct CheckedDelegateRequest {
    pub name: String,
    pub cgroup: String,
    pub rights: DelegatedRights,
    pub ttl: Option<Duration>,
    pub agent: Option<String>,
}

/// A request for a certificate with a valid lifetime and agent name. The CSR is not parsed yet.
pub(super) struct CheckedCertificateRequest<'a> {
    pub csr: Option<Cow<'a, str>>,
    pub agent: Option<String>,
    pub ttl: Option<Duration>,
}

pub(super) fn token_request(
    request: agent::TokenRequest<'_>,
) -> Result<CheckedTokenRequest<'_>, InvalidRequest> {
    if request.grant_type.is_some_and(|grant_type| grant_type != "client_credentials") {
        return Err(InvalidRequest::new("grant_type, if given, must be client_credentials"));
    }
    let audience = match (request.audience, request.resource) {
        (Some(audience), Some(resource)) if audience != resource => {
            return Err(InvalidRequest::new(
                "audience and resource must be equal if both are given, but differ",
            ));
        }
        (Some(audience), _) | (None, Some(audience)) => audience,
        (None, None) => {
            return Err(InvalidRequest::new(
                "audience is missing: name the relying party that the token is for",
            ));
        }
    };
    let audience = checked_audience(audience)?;
    let bind = request.bind.map(binding);
    let checked = policy::TokenRequest {
        audience,
        scopes: request.scope.map(scopes).transpose()?,
        ttl: request.ttl.map(lifetime).transpose()?,
        bind,
        agent: request.agent.map(agent_name).transpose()?,
    };
    Ok(CheckedTokenRequest { request: checked, certificate: request.certificate })
}

pub(super) fn proof_request(request: ProveRequest<'_>) -> Result<CheckedProofRequest, InvalidRequest> {
    let kind = match request.kind {
        agent::ProofKind::Dpop => ProofKind::Dpop,
        agent::ProofKind::Wpt => ProofKind::Wpt,
        agent::ProofKind::HttpSignature => ProofKind::HttpSignature,
        agent::ProofKind::ClientAssertion => ProofKind::ClientAssertion,
        agent::ProofKind::ClientAttestation => ProofKind::ClientAttestation,
        agent::ProofKind::Sigv4 => ProofKind::Sigv4,
    };
    let invalid = |e: &dyn std::fmt::Display| InvalidRequest::new(e.to_string());
    let target = match (kind.is_for_action(), request.method, request.url, request.audience) {
        (true, Some(method), Some(url), None) => {
            let action = Action::parse(&method, &url, request.body_sha256.as_deref());
            ProofTarget::Action(action.map_err(|e| invalid(&e))?)
        }
        (true, ..) => {
            return Err(InvalidRequest::new(
                "a proof of this kind is for one HTTP request: method and url are required, and audience is not",
            ));
        }
        (false, None, None, Some(audience)) if request.body_sha256.is_none() && request.token.is_none() => {
            ProofTarget::AuthorizationServer(checked_audience(audience)?)
        }
        (false, ..) => {
            return Err(InvalidRequest::new(
                "a client assertion or attestation is for an authorization server: audience is required, and method, url, \
                 body_sha256 and token are not",
            ));
        }
    };
    if request.nonce.is_some() && !matches!(kind, ProofKind::Dpop | ProofKind::ClientAttestation) {
        return Err(InvalidRequest::new(
            "nonce is for DPoP proofs and client attestations; other proofs have one of their own",
        ));
    }
    if request.content_type.is_some() && !matches!(kind, ProofKind::HttpSignature | ProofKind::Sigv4) {
        return Err(InvalidRequest::new("content_type is for http-signature and sigv4, which sign it"));
    }
    if kind.needs_credential() && request.token.is_some() {
        return Err(InvalidRequest::new("a signature by a credential has no token"));
    }
    if !kind.needs_credential() && request.credential.is_some() {
        return Err(InvalidRequest::new("credential is for sigv4; another key makes proofs of this kind"));
    }
    let credential = request.credential.map(credential_name).transpose()?;
    let (token, nonce) = (request.token.as_deref(), request.nonce.as_deref());
    let details =
        ProofDetails::new(token, nonce, request.content_type.as_deref()).map_err(|e| invalid(&e))?;
    let agent = request.agent.map(agent_name).transpose()?;
    Ok(CheckedProofRequest { request: policy::ProofRequest { kind, target, credential, agent }, details })
}

pub(super) fn delegate_request(
    request: DelegateRequest<'_>,
) -> Result<CheckedDelegateRequest, InvalidRequest> {
    let DelegateRequest { name, cgroup, grants, ttl, agent } = request;
    if grants.as_ref().is_some_and(|grants| grants.len() > MAX_DELEGATED_RIGHTS) {
        return Err(InvalidRequest::new(format!("grants must have at most {MAX_DELEGATED_RIGHTS} entries")));
    }
    let rights = match grants {
        None => DelegatedRights::All,
        Some(grants) => {
            DelegatedRights::Some(grants.into_iter().map(delegated_right).collect::<Result<_, _>>()?)
        }
    };
    Ok(CheckedDelegateRequest {
        name: bounded("name", name)?,
        cgroup: bounded("cgroup", cgroup)?,
        rights,
        ttl: ttl.map(lifetime).transpose()?,
        agent: agent.map(agent_name).transpose()?,
    })
}

fn bounded(what: &str, text: Cow<'_, str>) -> Result<String, InvalidRequest> {
    if text.len() > MAX_FIELD_LEN {
        return Err(InvalidRequest::new(format!("{what} must have at most {MAX_FIELD_LEN} bytes")));
    }
    Ok(text.into_owned())
}

fn delegated_right(grant: DelegatedGrant<'_>) -> Result<DelegatedRight, InvalidRequest> {
    match grant {
        DelegatedGrant { audience: Some(audience), scope, ttl, bind, credential: None } => {
            Ok(DelegatedRight::Grant(agents::DelegatedGrant {
                audience: checked_audience(audience)?,
                scopes: scope.map(distinct_scopes).transpose()?,
                ttl: ttl.map(lifetime).transpose()?,
                bind: bind.map(binding),
            }))
        }
        DelegatedGrant { audience: None, scope: None, ttl: None, bind: None, credential: Some(name) } => {
            Ok(DelegatedRight::Credential(credential_name(name)?))
        }
        _ => Err(InvalidRequest::new(
            "each of grants must have an audience, with scope, ttl and bind where they are to be narrower, or a \
             credential and nothing else",
        )),
    }
}

/// Each scope once.
fn distinct_scopes(scope: Cow<'_, str>) -> Result<Vec<String>, InvalidRequest> {
    let distinct: BTreeSet<String> = scopes(scope)?.into_iter().collect();
    Ok(distinct.into_iter().collect())
}

fn binding(bind: agent::Bind) -> Binding {
    match bind {
        agent::Bind::None => Binding::None,
        agent::Bind::Dpop => Binding::Dpop,
        agent::Bind::Mtls => Binding::Mtls,
    }
}

fn credential_name(name: Cow<'_, str>) -> Result<String, InvalidRequest> {
    if agents::is_credential_name(&name) {
        return Ok(name.into_owned());
    }
    Err(InvalidRequest::new("a credential's name has a-z 0-9 . _ -, and at most 63 characters"))
}

pub(super) fn certificate_request(
    request: CertificateRequest<'_>,
) -> Result<CheckedCertificateRequest<'_>, InvalidRequest> {
    Ok(CheckedCertificateRequest {
        agent: request.agent.map(agent_name).transpose()?,
        ttl: request.ttl.map(lifetime).transpose()?,
        csr: request.csr,
    })
}

pub(super) fn credential_request(
    request: ReleaseRequest<'_>,
) -> Result<policy::CredentialRequest, InvalidRequest> {
    Ok(policy::CredentialRequest {
        name: credential_name(request.name)?,
        version: request.version,
        agent: request.agent.map(agent_name).transpose()?,
    })
}

pub(super) fn introspection_request(request: agent::IntrospectionRequest) -> issue::IntrospectionRequest {
    issue::IntrospectionRequest { token: request.token, audience: request.audience }
}

pub(super) fn attest_request(request: agent::AttestRequest) -> Result<issue::AttestRequest, InvalidRequest> {
    let nonce = Nonce::parse(&request.nonce).map_err(InvalidRequest::new)?;
    let format = match request.format {
        agent::EvidenceFormat::Evidence => EvidenceFormat::Evidence,
        agent::EvidenceFormat::Eat => EvidenceFormat::Eat,
    };
    Ok(issue::AttestRequest { nonce, format })
}

pub(super) fn jwt_svid_request(params: JwtSvidParams) -> Result<JwtSvidRequest, InvalidRequest> {
    let JwtSvidParams { mut audiences, spiffe_id } = params;
    if audiences.is_empty() {
        return Err(InvalidRequest::new("audience is missing"));
    }
    if audiences.len() > MAX_AUDIENCES {
        return Err(InvalidRequest::new(format!(
            "a token has at most {MAX_AUDIENCES} audiences; ask for one audience where possible"
        )));
    }
    if audiences.iter().any(|audience| audience.is_empty() || audience.len() > MAX_SVID_AUDIENCE_LEN) {
        return Err(InvalidRequest::new(format!("an audience must have 1 to {MAX_SVID_AUDIENCE_LEN} bytes")));
    }
    let mut seen = HashSet::new();
    audiences.retain(|audience| seen.insert(audience.clone()));
    check_spiffe_id(&spiffe_id)?;
    Ok(JwtSvidRequest { audiences, spiffe_id: Some(spiffe_id).filter(|id| !id.is_empty()) })
}

pub(super) fn validation_request(
    svid: String,
    audience: String,
) -> Result<ValidationRequest, InvalidRequest> {
    if audience.is_empty() {
        return Err(InvalidRequest::new("audience is missing"));
    }
    if svid.is_empty() {
        return Err(InvalidRequest::new("svid is missing"));
    }
    Ok(ValidationRequest { svid, audience })
}

/// Accepts an empty text, which means every agent of the caller.
pub(super) fn check_spiffe_id(spiffe_id: &str) -> Result<(), InvalidRequest> {
    if spiffe_id.is_empty() || verify::workload_trust_domain(spiffe_id).is_some() {
        return Ok(());
    }
    Err(InvalidRequest::new("spiffe_id is not the SPIFFE ID of a workload"))
}

fn checked_audience(audience: Cow<'_, str>) -> Result<String, InvalidRequest> {
    if audience.is_empty()
        || audience.len() > MAX_FIELD_LEN
        || !audience.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(InvalidRequest::new("audience must be visible ASCII, as in the agent's grant"));
    }
    Ok(audience.into_owned())
}

fn scopes(scope: Cow<'_, str>) -> Result<Vec<String>, InvalidRequest> {
    if scope.len() > MAX_FIELD_LEN {
        return Err(InvalidRequest::new(format!("scope must have at most {MAX_FIELD_LEN} bytes")));
    }
    let scopes: Vec<String> = scope.split(' ').filter(|scope| !scope.is_empty()).map(String::from).collect();
    if scopes.iter().all(|scope| agents::is_scope(scope)) {
        return Ok(scopes);
    }
    Err(InvalidRequest::new("scope must be words of visible ASCII, separated by spaces"))
}

fn agent_name(name: Cow<'_, str>) -> Result<String, InvalidRequest> {
    if name.len() > MAX_FIELD_LEN {
        return Err(InvalidRequest::new("agent must be a name as whoami reports it"));
    }
    Ok(name.into_owned())
}

fn lifetime(ttl: Ttl<'_>) -> Result<Duration, InvalidRequest> {
    let duration = match ttl {
        Ttl::Seconds(seconds) => Duration::from_secs(seconds),
        Ttl::Text(text) => parse_duration(&text).ok_or_else(|| {
            InvalidRequest::new("ttl must be a number of seconds or a duration like \"5m\"")
        })?,
    };
    if duration < Duration::from_secs(1) {
        return Err(InvalidRequest::new("ttl must be at least one second"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<policy::TokenRequest, String> {
        let request = serde_json::from_str(text).map_err(|e| e.to_string())?;
        token_request(request).map(|checked| checked.request).map_err(|e| e.to_string())
    }

    #[test]
    fn token_request_errors_name_the_member() {
        for (text, expected) in [
            ("{}", "audience is missing"),
            (r#"{"audience":"a b"}"#, "visible ASCII"),
            (r#"{"audience":"a\u0000"}"#, "visible ASCII"),
            (r#"{"audience":""}"#, "visible ASCII"),
            (r#"{"audience":"a","resource":"b"}"#, "differ"),
            (r#"{"audience":"a","ttl":-1}"#, "ttl must be a number"),
            (r#"{"audience":"a","ttl":0}"#, "at least one second"),
            (r#"{"audience":"a","ttl":"soon"}"#, "ttl must be a number"),
            (r#"{"audience":"a","scope":"x\ny"}"#, "scope must be words"),
            (r#"{"audience":"a","grant_type":"password"}"#, "client_credentials"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn token_request_is_split_into_scopes_and_seconds() {
        let request = check(r#"{"resource":"https://x","scope":"b  a","ttl":"5m","agent":"r"}"#).unwrap();
        assert_eq!(request.audience, "https://x");
        assert_eq!(request.scopes.unwrap(), ["b", "a"]);
        assert_eq!(request.ttl, Some(Duration::from_secs(300)));
        assert_eq!(request.agent.unwrap(), "r");
    }

    #[test]
    fn a_lifetime_without_a_unit_is_in_seconds() {
        for ttl in ["10", "\"10\"", "\"10s\""] {
            let request = check(&format!("{{\"audience\":\"a\",\"ttl\":{ttl}}}")).unwrap();
            assert_eq!(request.ttl, Some(Duration::from_secs(10)), "{ttl}");
        }
    }

    #[test]
    fn jwt_svid_audiences_are_unique_and_bounded() {
        let params = |audiences: &[&str], id: &str| JwtSvidParams {
            audiences: audiences.iter().map(ToString::to_string).collect(),
            spiffe_id: id.to_owned(),
        };
        let request = jwt_svid_request(params(&["a", "b", "a"], "")).unwrap();
        assert_eq!((request.audiences, request.spiffe_id), (vec!["a".to_owned(), "b".to_owned()], None));
        assert!(jwt_svid_request(params(&[], "")).is_err());
        assert!(jwt_svid_request(params(&["a"; MAX_AUDIENCES + 1], "")).is_err());
        assert!(jwt_svid_request(params(&[&"a".repeat(513)], "")).is_err());
        assert!(jwt_svid_request(params(&["a"], "https://a")).is_err());
    }
}
