//! Reading `agents.d`, `roles.d`, `policies` and `federation` again.

use std::collections::HashSet;

use super::admin::Admin;
use super::error::AdminError;
use super::identity_service::IdentityService;
use crate::agents::{
    self, Administrator, AgentChanges, Held, MAX_LISTED_NAMES, MayBeEmpty, ReloadBy, Reloaded, RightsChange,
    RightsDiff,
};
use crate::audit::Event;
use crate::config::Diagnostic;
use crate::peer;
use crate::plural::counted;
use crate::policy::cedar::counted_policies;
use crate::policy::{PolicyChanges, PolicySetId, ReadPolicies};
use crate::wire::admin::{EmptyDirectory, ReloadCounts, ReloadRequest, ReloadResponse, ReloadedPolicies};
use crate::wire::change::{ApproveRequest, PendingChange};
use crate::wire::error::Fault;

/// Faults that get a journal entry. The journal's queue has room for 4096 entries, which decisions share.
const MAX_LOGGED_FAULTS: usize = 100;
/// Warnings of credentials that are not stored and get a journal entry.
const MAX_LOGGED_WARNINGS: usize = 8;
/// Warnings in a response.
const MAX_WARNINGS: usize = 100;

impl IdentityService {
    /// Reads the agents with the policies, and the bundles of other trust domains again, for an administrator.
    /// Agents and policies become active together; if a file of either has a fault, the previous ones of both
    /// stay active. The bundles may change all the same, and the agents and policies if a bundle has a fault.
    ///
    /// # Errors
    /// [`AdminError::InvalidFiles`] with all faults, after they have been recorded;
    /// [`AdminError::AuditUnavailable`].
    pub async fn reload(&self, admin: &Admin, request: ReloadRequest) -> Result<ReloadResponse, AdminError> {
        self.reload_by(ReloadBy::Administrator(administrator(admin).await), request).await
    }

    /// Activates the agents, roles and policies that wait for a second administrator, if the files still have the digest
    /// that it examined.
    ///
    /// # Errors
    /// [`AdminError::Approval`], and those of [`IdentityService::reload`].
    pub async fn approve(
        &self,
        admin: &Admin,
        request: ApproveRequest,
    ) -> Result<ReloadResponse, AdminError> {
        let approval = ReloadBy::Approval { digest: request.digest, approver: administrator(admin).await };
        self.reload_by(approval, ReloadRequest::default()).await
    }

    /// As [`IdentityService::reload`], for SIGHUP instead of an administrator.
    ///
    /// # Errors
    /// As [`IdentityService::reload`].
    pub async fn reload_on_sighup(&self) -> Result<ReloadResponse, AdminError> {
        self.reload_by(ReloadBy::Unknown, ReloadRequest::default()).await
    }

    /// Records the faults that kept the agents, the policies, or the bundles of other trust domains, from being read at the
    /// daemon's start, if there are any.
    ///
    /// # Errors
    /// [`AdminError::AuditUnavailable`].
    pub async fn record_start_faults(&self) -> Result<(), AdminError> {
        let agents_faults = self.deps.agents.load_status().faults.len();
        let agents_effect = match self.deps.agents.current().is_loaded() {
            true => "agents are missing",
            false => "no caller is identified, and nothing is revoked, until a reload succeeds",
        };
        let federation_faults = self.deps.federation.diagnostics().len();
        let policy_faults = self.deps.policies.status().faults.len();
        for (event, faults, effect) in [
            (Event::AgentsRejected, agents_faults, agents_effect),
            (Event::PoliciesRejected, policy_faults, "nothing is permitted until a reload succeeds"),
            (Event::FederationRejected, federation_faults, "bundles of other trust domains are missing"),
        ] {
            if faults > 0 {
                let description = format!(
                    "the files that were read at the start have {}; {effect}",
                    counted(faults, "fault")
                );
                self.audit.record_event(event, &description).await?;
            }
        }
        Ok(())
    }

    async fn reload_by(&self, by: ReloadBy, request: ReloadRequest) -> Result<ReloadResponse, AdminError> {
        let requested_by = &self.describe_requester(&by);
        let (agents, federation) = (self.deps.agents.clone(), self.deps.federation.clone());
        let policies = self.deps.policies.clone();
        let policies_before = policies.status().set;
        let (reloaded, bundles) = tokio::task::spawn_blocking(move || {
            let may_be_empty = |directory| request.allow_empty.contains(&directory);
            let bundles = federation.reload(may_be_empty(EmptyDirectory::Federation));
            let agents_may_be_empty = MayBeEmpty {
                agents: may_be_empty(EmptyDirectory::Agents),
                roles: may_be_empty(EmptyDirectory::Roles),
            };
            let (mut policy_warnings, mut policy_changes) = (Vec::new(), PolicyChanges::default());
            let reloaded = agents.reload_with(
                &by,
                agents_may_be_empty,
                || policies.read_beside(may_be_empty(EmptyDirectory::Policies)),
                |read: ReadPolicies, agents| {
                    policy_warnings = read.warnings(agents);
                    policy_changes = read.changes().clone();
                    policies.activate(read, agents.clone());
                },
            );
            let reloaded = reloaded.map(|mut reloaded| {
                reloaded.warnings.extend(policy_warnings);
                (reloaded, policy_changes)
            });
            (reloaded, bundles)
        })
        .await?;
        let mut faults = Vec::new();
        let response = match reloaded {
            // What became active is recorded, also where the other directory has a fault.
            Ok((Reloaded { held: Some(Held::Refused(error)), .. }, _)) => return Err(error.into()),
            Ok((Reloaded { held: Some(Held::Pending(pending)), .. }, _)) => {
                self.record_pending(&pending, requested_by).await?;
                ReloadResponse { pending: Some(PendingChange::from(&*pending)), ..ReloadResponse::default() }
            }
            Ok((Reloaded { changes, mut warnings, held: None }, policy_changes)) => {
                warnings.extend(self.missing_credentials());
                let changes = self.audit.record_reload(changes, requested_by).await?.into_inner();
                self.record_policies(policies_before, &policy_changes.rights, requested_by).await?;
                let policies = (!policy_changes.is_empty()).then(|| reloaded_policies(policy_changes));
                ReloadResponse { policies, ..response(changes, &warnings) }
            }
            Err(found) => {
                faults = found;
                ReloadResponse::default()
            }
        };
        faults.extend(bundles.err().unwrap_or_default());
        if faults.is_empty() {
            return Ok(response);
        }
        self.record_faults(&faults, requested_by).await?;
        Err(AdminError::InvalidFiles(faults))
    }

    /// Warnings of tables `[[credential]]` whose credential is not stored; none while the credentials are not
    /// known.
    fn missing_credentials(&self) -> Vec<Diagnostic> {
        let Ok(stored) = self.deps.credentials.reports() else { return Vec::new() };
        let of = |text: &'_ Option<String>| text.clone().unwrap_or_default();
        let stored: HashSet<(String, String, String)> =
            stored.into_iter().map(|report| (of(&report.tenant), of(&report.agent), report.name)).collect();
        let has = |tenant: &str, agent: &str, name: &str| {
            stored.contains(&(tenant.to_owned(), agent.to_owned(), name.to_owned()))
        };
        let is_stored =
            |tenant: &str, agent: &str, name: &str| has(tenant, agent, name) || has(tenant, "", name);
        let missing = self.deps.agents.current().missing_credentials(is_stored, MAX_WARNINGS);
        for warning in missing.iter().take(MAX_LOGGED_WARNINGS) {
            tracing::warn!("{warning}");
        }
        missing
    }

    /// Who asked, for records; of an approval, also who asked for the change.
    fn describe_requester(&self, by: &ReloadBy) -> String {
        match by {
            ReloadBy::Unknown => "SIGHUP".to_owned(),
            ReloadBy::Administrator(administrator) => administrator.id.clone(),
            ReloadBy::Approval { digest, approver } => {
                let pending = self.deps.agents.pending_change();
                let requester = pending.and_then(|pending| Some(pending.requested_by?.id));
                let requester = requester.unwrap_or_else(|| "no one".to_owned());
                let digest: String = digest.chars().take(64).collect();
                format!("{} approved {digest}, which {requester} had asked for, and", approver.id)
            }
        }
    }

    async fn record_pending(
        &self,
        pending: &agents::PendingChange,
        requested_by: &str,
    ) -> Result<(), AdminError> {
        let changes = pending.rights.changes.iter();
        let first: Vec<String> = changes.take(MAX_LISTED_NAMES).map(RightsChange::text).collect();
        let description = format!(
            "{requested_by} asked for a reload that makes rights wider; it waits until another administrator \
             approves {}: {}, {} of them wider: [{}]",
            pending.digest,
            counted(pending.rights.count, "change"),
            pending.rights.widening,
            first.join(", ")
        );
        Ok(self.audit.record_event(Event::ChangePending, &description).await?)
    }

    /// Records that other policies are in force than before, or none.
    async fn record_policies(
        &self,
        before: Option<PolicySetId>,
        rights: &RightsDiff,
        requested_by: &str,
    ) -> Result<(), AdminError> {
        let status = self.deps.policies.status();
        if status.set == before {
            return Ok(());
        }
        let description = match status.set {
            None => "there are none any more".to_owned(),
            Some(set) => format!(
                "version {}, {}, SHA-256 {}",
                set.version,
                counted_policies(status.policies),
                set.sha256_hex()
            ),
        };
        let description = format!("{requested_by} reloaded the policies: {description}{}", rights.summary());
        Ok(self.audit.record_event(Event::PoliciesReloaded, &description).await?)
    }

    async fn record_faults(&self, faults: &[Diagnostic], requested_by: &str) -> Result<(), AdminError> {
        let (federation, others): (Vec<Diagnostic>, Vec<Diagnostic>) =
            faults.iter().cloned().partition(|fault| self.deps.federation.has_file_of(fault));
        let (policies, agents) = others.into_iter().partition(|fault| self.deps.policies.has_file_of(fault));
        for (event, faults) in [
            (Event::AgentsRejected, agents),
            (Event::PoliciesRejected, policies),
            (Event::FederationRejected, federation),
        ] {
            if faults.is_empty() {
                continue;
            }
            log_faults(event, &faults);
            let description = format!(
                "{requested_by} asked for a reload: {}; the files that were read before stay active in each \
                 directory that has one",
                counted(faults.len(), "fault")
            );
            self.audit.record_event(event, &description).await?;
        }
        Ok(())
    }
}

/// The administrator with the user that logged in.
pub(super) async fn administrator(admin: &Admin) -> Administrator {
    let (uid, pid, id) = (admin.peer().uid, admin.peer().pid, admin.id());
    let login_uid = tokio::task::spawn_blocking(move || peer::login_uid(pid)).await.ok().flatten();
    Administrator { uid, login_uid, id }
}

fn response(changes: AgentChanges, warnings: &[Diagnostic]) -> ReloadResponse {
    let truncated = changes.is_long() || warnings.len() > MAX_WARNINGS;
    let counts = ReloadCounts {
        added: changes.added.len(),
        changed: changes.changed.len(),
        removed: changes.removed.len(),
        warnings: warnings.len(),
    };
    let listed = |names: Vec<String>| names.into_iter().take(MAX_LISTED_NAMES).collect();
    ReloadResponse {
        added: listed(changes.added),
        changed: listed(changes.changed),
        removed: listed(changes.removed),
        warnings: warnings.iter().take(MAX_WARNINGS).map(Fault::from).collect(),
        truncated,
        counts: truncated.then_some(counts),
        policies: None,
        pending: None,
    }
}

fn reloaded_policies(changes: PolicyChanges) -> ReloadedPolicies {
    let listed = |labels: Vec<String>| labels.into_iter().take(MAX_LISTED_NAMES).collect();
    ReloadedPolicies {
        added: listed(changes.added),
        changed: listed(changes.changed),
        removed: listed(changes.removed),
        count: changes.rights.count,
        widening: changes.rights.widening,
    }
}

/// Logs faults of `agents.d`, `policies` or `federation`, the first 100 of them.
pub fn log_faults(event: Event, faults: &[Diagnostic]) {
    for fault in faults.iter().take(MAX_LOGGED_FAULTS) {
        tracing::error!(event = event.name(), "{fault}");
    }
    if let Some(more) = faults.len().checked_sub(MAX_LOGGED_FAULTS).filter(|more| *more > 0) {
        tracing::error!(
            event = event.name(),
            "{more} more faults; \"hostbadge agent reload\" shows all of them"
        );
    }
}
