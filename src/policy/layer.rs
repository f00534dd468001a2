//! The layers of an explained decision.

use crate::agents::{AgentEntry, ApprovalMode};
use crate::posture::PostureMode;

use super::cedar::Act;

/// The acts that the policies are asked, and the effect of the posture; `None` if the grants refuse.
pub(super) type Asked<'a> = Option<(Vec<Act<'a>>, Option<PostureMode>)>;

/// One layer of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it says.
    pub outcome: LayerOutcome,
    /// The rules that it follows from.
    pub rules: Vec<Rule>,
    /// The reason, one line.
    pub reason: String,
    /// What would have to change for the layer to allow the request.
    pub change: Option<String>,
}

/// What a layer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerOutcome {
    /// It allows the request.
    Allows,
    /// It refuses the request.
    Refuses,
    /// It was not asked, because an earlier one refuses.
    NotAsked,
}

/// A rule of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name: a policy's file, line and `@id`, a grant's audience, or a key of the configuration.
    pub name: String,
    /// Its text, where it is a policy.
    pub text: Option<String>,
}

impl Layer {
    /// A layer that was not asked.
    pub fn not_asked() -> Layer {
        let reason = "not asked, because an earlier layer refuses".to_owned();
        Layer { outcome: LayerOutcome::NotAsked, rules: Vec::new(), reason, change: None }
    }

    /// A layer that allows the request.
    pub fn allows(rules: Vec<Rule>, reason: impl Into<String>) -> Layer {
        Layer { outcome: LayerOutcome::Allows, rules, reason: reason.into(), change: None }
    }

    /// A layer that refuses the request.
    pub fn refuses(rules: Vec<Rule>, reason: impl Into<String>, change: impl Into<String>) -> Layer {
        let (reason, change) = (reason.into(), Some(change.into()));
        Layer { outcome: LayerOutcome::Refuses, rules, reason, change }
    }
}

impl Rule {
    /// A rule without a text of its own.
    pub fn named(name: impl Into<String>) -> Rule {
        Rule { name: name.into(), text: None }
    }
}

/// What a grant or credential adds that needs an approval.
pub(super) fn after_approval(approval: Option<ApprovalMode>) -> String {
    approval.map_or(String::new(), |mode| {
        format!(", after an administrator has approved it (approval = \"{}\")", mode.as_str())
    })
}

/// The file of a table: the agent's own, or that of a role.
pub(super) fn origin(entry: &AgentEntry, role: Option<&str>) -> String {
    match role {
        Some(role) => format!("role {role}"),
        None => format!("agent {}", entry.name),
    }
}
