//! Wire types made from the types of the modules below.

use std::borrow::Cow;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::{AdminError, RequestError};
use crate::agents::{
    self, AgentEntry, Algorithm, Assurance, Binding, CredentialGrant, Delegation, Grant, Granted, LoadStatus,
    Selectors,
};
use crate::audit::Recorded;
use crate::config::PostureMode;
use crate::credentials::{CredentialReport, ReleasedCredential, VersionReport};
use crate::delegation::DelegatedCgroup;
use crate::enroll::{self, pem};
use crate::issue::{AccessToken, CertificateReport, HostIdentity, Introspection, IssuedProof};
use crate::keystore;
use crate::peer::{self, PeerInfo};
use crate::pki::{CaReport, IssuedX509Svid};
use crate::policy::{ErrorCode, PolicySetId, PolicyStatus, Refusal};
use crate::posture::Posture;
use crate::wire::admin::{Agent, AgentCredential, AgentGrant, AgentSelectors, IdOrName};
use crate::wire::agent::{
    CertificateResponse, IntrospectionResponse, Peer, ProveResponse, TokenResponse, WhoamiDelegation,
};
use crate::wire::boundary::Boundary;
use crate::wire::change::PendingChange;
use crate::wire::credentials::{
    CredentialUse, CredentialUser, ReleaseResponse, StoredCredential, StoredVersion,
};
use crate::wire::delegate::DelegateResponse;
use crate::wire::error::{ErrorResponse, Fault};
use crate::wire::host::{self, TpmKind};
use crate::wire::policy::PolicySet;
use crate::wire::status::{AgentsStatus, CaStatus, HostCertificate, PoliciesStatus, SealStatus};

impl<'a> From<&'a Recorded<AccessToken>> for TokenResponse<'a> {
    fn from(token: &'a Recorded<AccessToken>) -> Self {
        let token = token.get();
        TokenResponse {
            access_token: Cow::Borrowed(token.text()),
            token_type: Cow::Borrowed(token.permit().binding().token_type()),
            expires_in: token.lifetime().as_secs(),
            scope: Cow::Borrowed(token.permit().scope()),
        }
    }
}

impl From<&Recorded<IssuedProof>> for ProveResponse {
    fn from(proof: &Recorded<IssuedProof>) -> Self {
        let proof = proof.get();

        ProveResponse {
            headers: proof
                .headers()
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.to_string()))
                .collect(),
            parameters: proof
                .parameters()
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            jkt: proof.jkt().map(str::to_owned),
            expires_in: proof.lifetime().as_secs(),
        }
    }
}

impl From<&Recorded<DelegatedCgroup>> for DelegateResponse {
    fn from(delegated: &Recorded<DelegatedCgroup>) -> Self {
        let delegated = delegated.get();
        let delegation = delegated.delegation();
        DelegateResponse {
            agent: delegation.agent.to_string(),
            spiffe_id: delegated.spiffe_id().to_owned(),
            cgroup: delegation.cgroup.path().to_owned(),
            boundary: delegation.boundary.into(),
            expires_at: delegation.expires,
        }
    }
}

impl From<&Delegation> for WhoamiDelegation {
    fn from(delegation: &Delegation) -> Self {
        WhoamiDelegation {
            parent: delegation.agent.lineage().nth(1).unwrap_or_default().to_owned(),
            cgroup: delegation.cgroup.path().to_owned(),
            boundary: delegation.boundary.into(),
            expires_at: delegation.expires,
        }
    }
}

impl From<peer::Boundary> for Boundary {
    fn from(boundary: peer::Boundary) -> Self {
        match boundary {
            peer::Boundary::Kernel => Boundary::Kernel,
            peer::Boundary::Cooperative => Boundary::Cooperative,
        }
    }
}

impl TryFrom<&Recorded<IssuedX509Svid>> for CertificateResponse {
    type Error = enroll::Error;

    fn try_from(certificate: &Recorded<IssuedX509Svid>) -> Result<Self, enroll::Error> {
        let certificate = certificate.get();
        let chain =
            certificate.chain().iter().map(|der| pem("CERTIFICATE", der)).collect::<Result<_, _>>()?;
        let key = certificate.key().map(|der| pem("PRIVATE KEY", der)).transpose()?;
        Ok(CertificateResponse {
            certificate_chain: chain,
            private_key: key.map(Zeroizing::new),
            expires_at: certificate.expires(),
        })
    }
}

impl From<Recorded<Introspection>> for IntrospectionResponse {
    fn from(introspection: Recorded<Introspection>) -> Self {
        let introspection = introspection.into_inner();
        let claims = match introspection.claims {
            Some(serde_json::Value::Object(claims)) => claims,
            _ => serde_json::Map::new(),
        };
        IntrospectionResponse {
            active: introspection.active,
            token_type: introspection.token_type.map(Cow::Borrowed),
            claims,
        }
    }
}

impl From<&RequestError> for ErrorResponse {
    fn from(error: &RequestError) -> Self {
        let peer = error.refusal().and_then(|refusal| refusal.peer.as_deref());
        let peer = peer.filter(|_| error.code() == ErrorCode::InvalidClient).map(Peer::from);
        let approval = error.refusal().and_then(Refusal::requested_approval);
        let approval = approval.map(|approval| approval.id.to_string());
        ErrorResponse { peer, approval, ..ErrorResponse::new(error.code().as_str(), error.description()) }
    }
}

impl AdminError {
    /// The faults of the files that the administrator wrote.
    pub fn faults(&self) -> Vec<Fault> {
        match self {
            AdminError::InvalidFiles(faults) => faults.iter().map(Fault::from).collect(),
            _ => Vec::new(),
        }
    }
}

impl From<&PeerInfo> for Peer {
    fn from(peer: &PeerInfo) -> Self {
        Peer {
            pid: peer.pid,
            uid: peer.uid,
            gid: peer.gid,
            unit: peer.unit.clone(),
            invocation: peer.invocation.as_deref().map(str::to_owned),
            user_unit: peer.own_user_unit().map(str::to_owned),
            session: peer.session.as_ref().filter(|_| peer.is_in_own_session()).map(|one| one.id.clone()),
            container: peer.own_container().map(|container| container.id.clone()),
            exe: peer.exe().map(|path| path.to_string_lossy().into_owned()),
            exe_sha256: peer.exe_sha256().map(|digest| digest.to_string()),
            pinned: peer.pinned,
        }
    }
}

impl Agent {
    /// The agent without what its roles contain, for a list, whose size then does not grow with the roles of
    /// each agent.
    pub(super) fn with_own_grants(entry: &AgentEntry) -> Agent {
        let grants = entry.own_grants.iter().map(|item| Granted { item, role: None });
        let credentials = entry.own_credentials.iter().map(|item| Granted { item, role: None });
        Agent::new(entry, grants, credentials)
    }

    /// The agent with what its roles contain.
    pub(super) fn with_all_grants(entry: &AgentEntry) -> Agent {
        Agent::new(entry, entry.grants(), entry.credentials())
    }

    fn new<'a>(
        entry: &AgentEntry,
        grants: impl Iterator<Item = Granted<'a, Grant>>,
        credentials: impl Iterator<Item = Granted<'a, CredentialGrant>>,
    ) -> Agent {
        Agent {
            name: entry.name.to_string(),
            owner: entry.owner.clone(),
            tenant: entry.tenant.clone(),
            drain: entry.is_draining,
            selectors: AgentSelectors::from(&entry.selectors),
            roles: entry.roles.iter().map(|role| role.name().to_owned()).collect(),
            grants: grants.map(AgentGrant::from).collect(),
            credentials: credentials.map(AgentCredential::from).collect(),
            activity: None,
        }
    }
}

impl From<Granted<'_, CredentialGrant>> for AgentCredential {
    fn from(credential: Granted<'_, CredentialGrant>) -> Self {
        AgentCredential {
            name: credential.name.clone(),
            usage: credential.usage.into(),
            posture: credential.posture.map(Into::into),
            approval: credential.approval.map(|mode| mode.as_str().to_owned()),
            expires: credential.limits.expires,
            hours: credential.limits.hours.as_ref().map(ToString::to_string),
            role: credential.role.map(str::to_owned),
        }
    }
}

impl From<agents::CredentialUse> for CredentialUse {
    fn from(usage: agents::CredentialUse) -> Self {
        match usage {
            agents::CredentialUse::Inject => CredentialUse::Inject,
            agents::CredentialUse::Release => CredentialUse::Release,
            agents::CredentialUse::Sign => CredentialUse::Sign,
        }
    }
}

impl<'a> From<&'a Recorded<ReleasedCredential>> for ReleaseResponse<'a> {
    fn from(released: &'a Recorded<ReleasedCredential>) -> Self {
        let released = released.get();
        ReleaseResponse {
            name: Cow::Borrowed(released.permit().name()),
            value: Cow::Borrowed(released.value().as_str()),
            version: released.version(),
            expires_at: released.expires(),
        }
    }
}

impl StoredCredential {
    /// The report with those of the registered agents that may use the credential. `is_used_by` is whether an
    /// agent has it under its name, and not one of its own.
    pub(super) fn new<'a>(
        report: &CredentialReport,
        agents: impl Iterator<Item = &'a Arc<AgentEntry>>,
        is_used_by: impl Fn(&AgentEntry) -> bool,
    ) -> StoredCredential {
        let may_use = |entry: &'a Arc<AgentEntry>| {
            let granted = entry.credential(&report.name)?;
            let user = CredentialUser { agent: entry.name.to_string(), usage: granted.usage.into() };
            (entry.tenant == report.tenant && is_used_by(entry)).then_some(user)
        };
        let version = |version: &VersionReport| StoredVersion {
            version: version.version,
            created: version.created,
            expires_at: version.expires,
            destroyed_at: version.retires,
            size: version.size,
        };
        StoredCredential {
            name: report.name.clone(),
            tenant: report.tenant.clone(),
            agent: report.agent.clone(),
            canary: report.is_canary,
            versions: report.versions.iter().map(version).collect(),
            agents: agents.filter_map(may_use).collect(),
        }
    }
}

impl From<&Selectors> for AgentSelectors {
    fn from(selectors: &Selectors) -> Self {
        let id_or_name = |value: &agents::IdOrName| match value {
            agents::IdOrName::Id(id) => IdOrName::Id(*id),
            agents::IdOrName::Name(name) => IdOrName::Name(name.clone()),
        };
        AgentSelectors {
            user: selectors.user.as_ref().map(id_or_name),
            group: selectors.group.as_ref().map(id_or_name),
            unit: selectors.unit.clone(),
            user_unit: selectors.user_unit.clone(),
            session: selectors.session,
            container: selectors.container.clone(),
            exe: selectors.exe.as_ref().map(|path| path.to_string_lossy().into_owned()),
            exe_sha256: selectors.exe_sha256.as_ref().map(ToString::to_string),
            measured: selectors.measured,
            files: selectors
                .files
                .iter()
                .map(|(path, digest)| (path.to_string_lossy().into_owned(), digest.to_string()))
                .collect(),
            unit_sha256: selectors.unit_sha256.map(|digest| digest.to_string()),
        }
    }
}

impl From<Granted<'_, Grant>> for AgentGrant {
    fn from(grant: Granted<'_, Grant>) -> Self {
        AgentGrant {
            audience: grant.audience.clone(),
            scopes: grant.scopes.iter().cloned().collect(),
            ttl: grant.ttl.as_secs(),
            assurance: match grant.assurance {
                Assurance::Sealed => "sealed".into(),
                Assurance::Tpm => "tpm".into(),
            },
            alg: match grant.alg {
                Algorithm::Es256 => "ES256".into(),
                Algorithm::Rs256 => "RS256".into(),
            },
            typ: grant.typ.as_str().into(),
            posture: grant.posture.map(Into::into),
            status_list: grant.status_list,
            approval: grant.approval.map(|mode| mode.as_str().to_owned()),
            bind: Some(grant.bind).filter(|bind| *bind != Binding::None).map(|bind| bind.as_str().to_owned()),
            proofs: grant.proofs.kinds.iter().map(|kind| kind.as_str().to_owned()).collect(),
            actions: grant.proofs.actions.iter().map(ToString::to_string).collect(),
            expires: grant.limits.expires,
            hours: grant.limits.hours.as_ref().map(ToString::to_string),
            role: grant.role.map(str::to_owned),
        }
    }
}

impl From<&LoadStatus> for AgentsStatus {
    fn from(status: &LoadStatus) -> Self {
        AgentsStatus {
            loaded_at: status.loaded_at,
            is_loaded: status.is_loaded,
            agents: status.agents,
            roles: status.roles,
            expiring: Vec::new(),
            expiring_count: 0,
            pending: None,
            activity: None,
            faults: status.faults.iter().map(Fault::from).collect(),
        }
    }
}

impl From<&PolicyStatus> for PoliciesStatus {
    fn from(status: &PolicyStatus) -> Self {
        let set = |set: PolicySetId| PolicySet { version: set.version, sha256: set.sha256_hex() };
        PoliciesStatus {
            loaded: status.is_loaded,
            set: status.set.map(set),
            policies: status.policies,
            at: status.loaded_at,
            require_permit: status.require_permit,
            timezone: status.zone.clone(),
            faults: status.faults.iter().map(Fault::from).collect(),
        }
    }
}

impl From<&agents::PendingChange> for PendingChange {
    fn from(change: &agents::PendingChange) -> Self {
        PendingChange {
            digest: change.digest.clone(),
            requested_by: change.requested_by.as_ref().map(|administrator| administrator.id.clone()),
            since: change.since,
            count: change.rights.count,
            widening: change.rights.widening,
            changes: change.rights.changes.iter().map(agents::RightsChange::text).collect(),
        }
    }
}

impl From<CertificateReport> for HostCertificate {
    fn from(report: CertificateReport) -> Self {
        HostCertificate {
            subject: report.subject,
            issuer: report.issuer,
            not_before: report.not_before,
            not_after: report.not_after,
            signing_root_sha256: report.signing_root_sha256,
        }
    }
}

impl From<CaReport> for CaStatus {
    fn from(report: CaReport) -> Self {
        CaStatus {
            issues_until: report.issues_until,
            blocked_reason: report.blocked_reason,
            lost_records: report.lost_records.map(|lost| lost.to_string()),
        }
    }
}

impl From<keystore::SealStatus> for SealStatus {
    fn from(status: keystore::SealStatus) -> Self {
        SealStatus { pcrs: status.pcrs, pending_pcrs: status.pending_pcrs, recovery: status.recovery }
    }
}

impl From<Posture> for host::Posture {
    fn from(posture: Posture) -> Self {
        match posture {
            Posture::Off => host::Posture::Off,
            Posture::Accepted => host::Posture::Accepted,
            Posture::Changed => host::Posture::Changed,
            Posture::Unaccepted => host::Posture::Unaccepted,
            Posture::Stale => host::Posture::Stale,
        }
    }
}

impl From<PostureMode> for host::PostureMode {
    fn from(mode: PostureMode) -> Self {
        match mode {
            PostureMode::Off => host::PostureMode::Off,
            PostureMode::Warn => host::PostureMode::Warn,
            PostureMode::Enforce => host::PostureMode::Enforce,
        }
    }
}

pub(super) fn tpm_kind(host: &HostIdentity) -> TpmKind {
    if host.software_tpm { TpmKind::Software } else { TpmKind::Hardware }
}
