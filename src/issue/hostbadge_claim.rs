//! The private claim `hostbadge`, which every token of this host has.

use serde::Serialize;

use super::host_identity::HostIdentity;
use crate::agents::{AuthenticatedAgent, MatchTag};
use crate::clock::ClockSync;
use crate::peer::Sha256Digest;
use crate::policy::PolicySetId;
use crate::posture::Posture;

/// The host, the process and the circumstances of a request for a token.
#[derive(Serialize)]
pub(super) struct HostbadgeClaim<'a> {
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invocation: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_sha256: Option<Sha256Digest>,
    peer: &'static str,
    /// Of a sub-agent: who keeps its processes in its cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    boundary: Option<&'static str>,
    tpm: &'static str,
    key: &'static str,
    posture: Posture,
    /// Whether the host's clock is synchronized: if not, the token's times may be wrong.
    clock: ClockSync,
    /// The conditions that the process met: introspection compares them with the agent's present ones.
    #[serde(rename = "match")]
    match_tag: MatchTag,
    /// SHA-256 of the policies in force, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    /// The epoch of the revocations: a revocation of a scope of the token with a greater one revokes it.
    epoch: u64,
}

impl<'a> HostbadgeClaim<'a> {
    /// `clock` is the state of the clock from which the token has its times, `key_protection` where the
    /// signing key is: `sealed` or `tpm`, `policy` the policies and `epoch` the revocations at the decision.
    pub(super) fn new(
        host: &'a HostIdentity,
        agent: &'a AuthenticatedAgent,
        posture: Posture,
        clock: ClockSync,
        key_protection: &'static str,
        policy: Option<PolicySetId>,
        epoch: u64,
    ) -> HostbadgeClaim<'a> {
        let peer = agent.peer();
        HostbadgeClaim {
            host: &host.id,
            tenant: agent.entry().tenant.as_deref(),
            unit: peer.unit.as_deref(),
            invocation: peer.invocation.as_deref(),
            exe_sha256: agent.exe_sha256(),
            peer: if peer.pinned { "pinned" } else { "unpinned" },
            boundary: agent.delegation().map(|delegation| delegation.boundary.as_str()),
            tpm: host.tpm_kind(),
            key: key_protection,
            posture,
            clock,
            match_tag: agent.match_tag(),
            policy: policy.map(|policy| policy.sha256_hex()),
            epoch,
        }
    }
}
