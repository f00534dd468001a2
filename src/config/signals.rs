//! The tables `[[signals]]`: issuers of security event tokens that may revoke agents.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::diagnostic::{Diagnostic, SourceFile};

/// Tables `[[signals]]` of one file.
const MAX_SIGNALS: usize = 64;
/// Longest issuer and audience, in bytes.
const MAX_TEXT_LEN: usize = 512;
/// Stands for all agents in `agents`.
const ALL_AGENTS: &str = "*";

/// A table `[[signals]]`. All keys are required.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalSection {
    /// The claim `iss` of its tokens, at most one table for each.
    pub issuer: String,
    /// The file with its public keys, a JWK Set. It is read for each signal.
    pub jwks: PathBuf,
    /// What the claim `aud` has to have.
    pub audience: String,
    /// The names of the agents that it may revoke, or `*` for all.
    pub agents: Vec<String>,
}

impl SignalSection {
    /// Whether this issuer may revoke an agent.
    pub fn may_revoke(&self, agent: &str) -> bool {
        self.may_revoke_all() || self.agents.iter().any(|name| name == agent)
    }

    /// Whether this issuer may revoke every agent.
    pub fn may_revoke_all(&self) -> bool {
        self.agents.iter().any(|name| name == ALL_AGENTS)
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let is_text =
            |text: &str| (1..=MAX_TEXT_LEN).contains(&text.len()) && !text.chars().any(char::is_control);
        let is_url = self.issuer.strip_prefix("https://").is_some_and(|rest| !rest.is_empty());
        if !is_url || !is_text(&self.issuer) {
            faults.push(format!("signals.issuer must be an https URL of at most {MAX_TEXT_LEN} bytes"));
        }
        if !is_text(&self.audience) {
            faults.push(format!("signals.audience must have 1 to {MAX_TEXT_LEN} bytes"));
        }
        if !self.jwks.is_absolute() {
            faults.push("signals.jwks must be an absolute path".into());
        }
        if self.agents.is_empty() {
            faults.push(
                "signals.agents names no agent; name those that the issuer may revoke, or \"*\"".into(),
            );
        }
        faults
    }
}

/// Reads the tables. Faults are reported at each table's line.
pub(super) fn check_signals(
    tables: Vec<Spanned<SignalSection>>,
    source: &SourceFile,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<SignalSection> {
    for (at, table) in tables.iter().enumerate() {
        let mut faults = table.get_ref().faults();
        if tables[..at].iter().any(|earlier| earlier.get_ref().issuer == table.get_ref().issuer) {
            faults.push("a table [[signals]] above has the same issuer".into());
        }
        if at == MAX_SIGNALS {
            faults.push(format!("the file has more than {MAX_SIGNALS} tables [[signals]]"));
        }
        diagnostics.extend(faults.into_iter().map(|message| source.diagnostic(table.span(), message)));
    }
    tables.into_iter().map(Spanned::into_inner).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::read_config;

    const TABLE: &str =
        "\n[[signals]]\nissuer = \"https://i\"\njwks = \"/j\"\naudience = \"a\"\nagents = [\"b\"]\n";

    #[test]
    fn issuers_of_signals_are_read_and_validated() {
        let signals = read_config(TABLE).unwrap().signals;
        assert_eq!((signals[0].may_revoke("b"), signals[0].may_revoke("c")), (true, false));
        assert!(read_config(&TABLE.replace("\"b\"", "\"*\"")).unwrap().signals[0].may_revoke("c"));
        for (text, expected) in [
            (TABLE.replace("https://i", "http://i"), ":2: signals.issuer must be an https URL"),
            (TABLE.replace("https://i", "https://"), ":2: signals.issuer must be an https URL"),
            (TABLE.replace("\"/j\"", "\"j\""), ":2: signals.jwks must be an absolute path"),
            (TABLE.replace("audience = \"a\"", "audience = \"\""), ":2: signals.audience must have"),
            (TABLE.replace("[\"b\"]", "[]"), ":2: signals.agents names no agent"),
            (TABLE.replace("audience = \"a\"\n", ""), ":2: [[signals]] has no `audience`"),
            (TABLE.repeat(2), ":8: a table [[signals]] above has the same issuer"),
            ("\n[signals]\nissuer = \"https://i\"\n".into(), ":2: expected a table with two brackets"),
        ] {
            let error = read_config(&text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
