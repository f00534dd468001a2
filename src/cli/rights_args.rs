//! The options that say which rights a sub-agent has.

use clap::Args;

use crate::wire::agent::Ttl;
use crate::wire::delegate::DelegatedGrant;

/// Which rights a sub-agent has of the agent's.
#[derive(Args, Debug)]
pub(super) struct RightsArgs {
    /// Give the sub-agent a grant of the agent: its audience, then scopes, separated by spaces; without scopes all of the
    /// grant. May be repeated. Without --grant and --credential it has all rights of the agent
    #[arg(long, value_name = "\"AUDIENCE [SCOPE ...]\"", value_parser = parse_grant)]
    grant: Vec<Grant>,

    /// Give the sub-agent a credential of the agent; may be repeated
    #[arg(long, value_name = "NAME")]
    credential: Vec<String>,

    /// Give the sub-agent no rights but its identity
    #[arg(long, conflicts_with_all = ["grant", "credential"])]
    no_grants: bool,

    /// How long the sub-agent exists, like "10m", or a number of seconds; at most `ttl` of the agent's `[delegate]`, which
    /// is the default
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    audience: String,
    scope: Option<String>,
}

impl RightsArgs {
    /// The rights of a request; `None` for all of the agent.
    pub(super) fn grants(&self) -> Option<Vec<DelegatedGrant<'_>>> {
        if !self.no_grants && self.grant.is_empty() && self.credential.is_empty() {
            return None;
        }
        let grants = self.grant.iter().map(|grant| DelegatedGrant {
            audience: Some(grant.audience.as_str().into()),
            scope: grant.scope.as_deref().map(Into::into),
            ..DelegatedGrant::default()
        });
        let credentials = self.credential.iter().map(|name| DelegatedGrant {
            credential: Some(name.as_str().into()),
            ..DelegatedGrant::default()
        });
        Some(grants.chain(credentials).collect())
    }

    /// The lifetime of a request.
    pub(super) fn ttl(&self) -> Option<Ttl<'_>> {
        self.ttl.as_deref().map(|ttl| Ttl::Text(ttl.into()))
    }

    /// What the sub-agent has, a line each.
    pub(super) fn describe(&self) -> Vec<String> {
        if self.no_grants {
            return vec!["no rights but its identity".to_owned()];
        }
        let scopes = |grant: &Grant| grant.scope.as_deref().unwrap_or("all scopes of the grant").to_owned();
        let grants = self.grant.iter().map(|grant| format!("{} ({})", grant.audience, scopes(grant)));
        let lines: Vec<String> =
            grants.chain(self.credential.iter().map(|name| format!("credential {name}"))).collect();
        if lines.is_empty() { vec!["all rights of its parent".to_owned()] } else { lines }
    }
}

fn parse_grant(text: &str) -> Result<Grant, String> {
    let mut words = text.split_whitespace();
    let audience = words.next().ok_or("an audience is missing")?.to_owned();
    let scopes: Vec<&str> = words.collect();
    Ok(Grant { audience, scope: (!scopes.is_empty()).then(|| scopes.join(" ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_an_audience_and_scopes() {
        let grant = parse_grant(" https://x  docs.read docs.write ").unwrap();
        assert_eq!(
            (grant.audience.as_str(), grant.scope.as_deref()),
            ("https://x", Some("docs.read docs.write"))
        );
        assert_eq!(parse_grant("https://x").unwrap().scope, None);
        assert!(parse_grant("  ").is_err());
    }
}
