//! The stored credential that a stranger asks for. Without one, an answer with nothing shows nothing.

use serde::de::DeserializeOwned;

use super::context::Context;
use super::exchange::ask;
use crate::wire::admin::Agent;
use crate::wire::credentials::{CredentialUse, StoredCredential};

/// A stored credential, and the unit of an agent that gets its value at a start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) credential: String,
    /// Why no unit loads one of the stored credentials, where none does.
    pub(super) unit: Result<String, String>,
}

/// Finds one over the admin socket.
///
/// # Errors
/// Why there is none.
pub(super) fn find(context: &Context) -> Result<Target, String> {
    let credentials = get::<StoredCredential>(context, "/v1/credentials")?;
    if credentials.iter().all(|one| one.canary) {
        return choose(&credentials, &[]);
    }
    choose(&credentials, &get::<Agent>(context, "/v1/agents")?)
}

fn get<T: DeserializeOwned>(context: &Context, path: &str) -> Result<Vec<T>, String> {
    let answer = ask(&context.admin_socket, "GET", path, None).map_err(|e| format!("{path}: {e}"))?;
    match answer.status {
        200 => serde_json::from_value(answer.body).map_err(|e| format!("{path}: {e}")),
        _ => Err(format!("{path}: the daemon answered {}", answer.summary())),
    }
}

/// Chooses a credential that the unit of an agent loads, or else any one. A canary is never asked for: that is an
/// alert.
fn choose(credentials: &[StoredCredential], agents: &[Agent]) -> Result<Target, String> {
    let mut usual = credentials.iter().filter(|one| !one.canary).peekable();
    let Some(first) = usual.peek().map(|one| one.name.clone()) else {
        return Err("this host stores no credential but canaries, for which no self-test asks".to_owned());
    };
    let unit_of = |name: &str| agents.iter().find(|agent| agent.name == name)?.selectors.unit.clone();
    let loaded = usual.find_map(|one| {
        let released = one.agents.iter().filter(|user| user.usage == CredentialUse::Release);
        let unit = released.into_iter().find_map(|user| unit_of(&user.agent))?;
        Some(Target { credential: one.name.clone(), unit: Ok(unit) })
    });
    let why = "no agent of a unit has a stored credential that is released to it";
    Ok(loaded.unwrap_or_else(|| Target { credential: first, unit: Err(why.to_owned()) }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn credential(name: &str, canary: bool, agent: &str, usage: &str) -> StoredCredential {
        let users = json!([{ "agent": agent, "use": usage }]);
        let stored = json!({ "name": name, "canary": canary, "versions": [], "agents": users });
        serde_json::from_value(stored).unwrap()
    }

    fn agent(name: &str, conditions: serde_json::Value) -> Agent {
        serde_json::from_value(json!({ "name": name, "match": conditions, "grants": [] })).unwrap()
    }

    #[test]
    fn a_credential_that_a_unit_loads_is_preferred_and_a_canary_is_never_asked_for() {
        let agents = [agent("a", json!({ "user": 0 })), agent("b", json!({ "unit": "b.service" }))];
        let canary = credential("canary", true, "b", "release");
        assert!(choose(&[], &agents).is_err());
        assert!(choose(std::slice::from_ref(&canary), &agents).is_err());
        let of_user = credential("of-user", false, "a", "release");
        let injected = credential("injected", false, "b", "inject");
        let of_unit = credential("of-unit", false, "b", "release");
        let target = choose(&[canary.clone(), of_user.clone(), injected.clone()], &agents).unwrap();
        assert_eq!((target.credential.as_str(), target.unit.is_err()), ("of-user", true));
        let target = choose(&[canary, of_user, injected, of_unit], &agents).unwrap();
        assert_eq!(target, Target { credential: "of-unit".into(), unit: Ok("b.service".into()) });
    }
}
