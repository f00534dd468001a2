//! Explains the decision on a proof, as `explain.rs` does for other requests.

use crate::agents::AgentEntry;

use super::layer::{Asked, Layer, Rule, after_approval, origin};
use super::proof::{ProofPermission, ProofRequest, ProofTarget, not_permitted, proof_permission};

/// What the grants and credentials say, and what the policies are asked next: the use of the credential, if one signs,
/// and the proof.
pub(super) fn explain_proof<'a>(
    entry: &'a AgentEntry,
    request: &'a ProofRequest,
    body_sha256: Option<&'a str>,
) -> (Layer, Asked<'a>) {
    let Some(permission) = proof_permission(entry, request) else {
        let change = match (&request.target, request.kind.needs_credential()) {
            (_, true) => "the agent would need such a [[credential]]".to_owned(),
            (ProofTarget::AuthorizationServer(issuer), false) => {
                format!("the agent would need a [[grant]] with audience = {issuer:?} and this kind in proofs")
            }
            (ProofTarget::Action(_), false) => "the agent would need such a [[grant]]".to_owned(),
        };
        return (Layer::refuses(Vec::new(), not_permitted(entry, request), change), None);
    };
    let kind = request.kind.as_str();
    let approval = after_approval(permission.approval());
    let act = request.target.act(request.kind, body_sha256);
    let (rule, reason, acts, mode) = match permission {
        ProofPermission::Grant(grant) => {
            let rule = format!("[[grant]] audience = {:?} of {}", grant.audience, origin(entry, grant.role));
            (rule, format!("the grant gives the {kind} proof{approval}"), vec![act], grant.posture)
        }
        ProofPermission::Credential(credential, _) => {
            let name = &credential.item.name;
            let rule = format!("[[credential]] name = {name:?} of {}", origin(entry, credential.role));
            let reason = format!("the credential signs the request{approval}");
            let used = request.target.credential_act(name, credential.approval.is_some());
            (rule, reason, used.into_iter().chain([act]).collect(), credential.posture)
        }
    };
    (Layer::allows(vec![Rule::named(rule)], reason), Some((acts, mode)))
}
