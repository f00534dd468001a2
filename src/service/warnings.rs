//! What an administrator has to do although tokens and certificates are issued: `warnings` of
//! `GET /v1/status`.

use super::identity_service::IdentityService;
use crate::plural::counted;
use crate::policy::cedar::counted_policies;

/// Agents that a warning names.
const MAX_NAMED_AGENTS: usize = 5;

impl IdentityService {
    /// One sentence for each, with the remedy.
    pub(super) fn warnings(&self) -> Vec<String> {
        let warnings = [
            self.agents_warning(),
            self.policies_warning(),
            self.federation_warning(),
            self.credentials_warning(),
            self.own_credentials_warning(),
            self.freeze_warning(),
            self.suspension_warning(),
            self.revocations_warning(),
            self.status_lists_warning(),
            self.deps.invocations.fault(),
        ];
        warnings.into_iter().flatten().collect()
    }

    /// The agents of a refused reload are not active, which changes nothing for those that are. It does at
    /// the next start.
    fn agents_warning(&self) -> Option<String> {
        let load_status = self.deps.agents.load_status();
        let faults = match load_status.faults.len() {
            0 => return None,
            n => counted(n, "fault"),
        };
        let effect = match load_status.is_loaded {
            true => format!(
                "the last reload was refused, and the {} of {} stay active until the daemon ends; after a \
                 restart, no caller is identified",
                counted(load_status.agents, "agent"),
                load_status.loaded_at
            ),
            false => "no caller is identified".to_owned(),
        };
        Some(format!(
            "agents.d has {faults}: {effect}. Correct the files (hostbadge agent check), then hostbadge agent \
             reload"
        ))
    }

    /// As of the agents: what is in force stays so until the next start.
    fn policies_warning(&self) -> Option<String> {
        let status = self.deps.policies.status();
        let faults = match status.faults.len() {
            0 => return None,
            n => counted(n, "fault"),
        };
        let effect = match (status.is_loaded, status.policies) {
            (true, 0) => {
                "the last reload was refused, and no policy is in force; after a restart, nothing is \
                          permitted"
                    .to_owned()
            }
            (true, policies) => format!(
                "the last reload was refused, and the {} read before stay in force until the daemon ends; after \
                 a restart, nothing is permitted",
                counted_policies(policies)
            ),
            (false, _) => "nothing is permitted".to_owned(),
        };
        Some(format!(
            "policies have {faults}: {effect}. Correct the files (hostbadge policy check), then hostbadge agent \
             reload"
        ))
    }

    fn federation_warning(&self) -> Option<String> {
        let faults = match self.deps.federation.diagnostics().len() {
            0 => return None,
            n => counted(n, "fault"),
        };
        let active = counted(self.deps.federation.bundles().len(), "bundle");
        Some(format!(
            "federation has {faults}: the {active} read before stay active until the daemon ends. Correct the \
             files (hostbadged --check), then hostbadge agent reload"
        ))
    }

    fn freeze_warning(&self) -> Option<String> {
        let set = self.deps.revocations.current();
        let freeze = set.freeze()?;
        let reason = if freeze.reason.is_empty() { String::new() } else { format!(" ({})", freeze.reason) };
        Some(format!(
            "{} by {}{reason}: nothing is issued. hostbadge thaw ends it",
            freeze.description(),
            freeze.revoked_by
        ))
    }

    fn revocations_warning(&self) -> Option<String> {
        let revocations = &self.deps.revocations;
        // Without an issuer, its reason is that of the revocations too.
        self.deps.issuer.state()?;
        if let Some(reason) = &*revocations.blocked_reason().borrow() {
            return Some(format!("nothing is issued, because the revocations are not known: {reason}"));
        }
        let fault = revocations.store_fault()?;
        Some(format!("revocations are in effect, but would not survive a restart: {fault}"))
    }

    fn own_credentials_warning(&self) -> Option<String> {
        let agents = self.deps.credentials.agents_without_key().ok().filter(|agents| !agents.is_empty())?;
        let named: Vec<&str> = agents.iter().take(MAX_NAMED_AGENTS).map(String::as_str).collect();
        let more = agents.len() - named.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        Some(format!(
            "the own credentials of {}{more} cannot be opened: their key stayed in another TPM, or an older state was \
             restored. Remove each (hostbadge credential rm NAME --agent AGENT), and store it again",
            named.join(", ")
        ))
    }

    fn status_lists_warning(&self) -> Option<String> {
        self.deps.status_lists.report().problem.map(|problem| format!("status lists: {problem}"))
    }

    fn credentials_warning(&self) -> Option<String> {
        let blocked_reason = self.deps.credentials.blocked_reason().borrow();
        let reason = blocked_reason.as_ref()?;
        Some(format!("requests for sealed credentials are refused: {reason}"))
    }
}
