//! Tables `[[credential]]` that name what is not stored.

use crate::config::Diagnostic;

use super::agent_set::AgentSet;

impl AgentSet {
    /// A warning for each table `[[credential]]` whose credential is not stored, at most `room`. `is_stored`
    /// takes the tenant, empty where the agent has none, the agent, and the name.
    pub fn missing_credentials(
        &self,
        is_stored: impl Fn(&str, &str, &str) -> bool,
        room: usize,
    ) -> Vec<Diagnostic> {
        let is_stored = &is_stored;
        let missing = self.with_origins().flat_map(|(entry, origin)| {
            let tenant = entry.tenant.as_deref().unwrap_or_default();
            let agent = entry.name.as_str();
            let names = entry.credentials().map(|granted| granted.item.name.as_str());
            names.filter(move |name| !is_stored(tenant, agent, name)).map(move |name| {
                let option = match tenant {
                    "" => String::new(),
                    tenant => format!(" --tenant {tenant}"),
                };
                origin.diagnostic(format!(
                    "[[credential]] names \"{name}\", which is not stored: store it with \"hostbadge credential \
                     put {name}{option}\", or correct the name"
                ))
            })
        });
        missing.take(room).collect()
    }
}
