//! A set of policies: sliced by the agents that they concern, and evaluated.
//!
//! Most policies name an agent, a tenant or a role in their scope. A decision evaluates those that name the
//! asking agent, its tenant or one of its roles, and those without such a scope. Since Cedar decides by
//! whether any `forbid` and any `permit` is satisfied, the slices are evaluated one after the other and their
//! results joined.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use cedar_policy::{AuthorizationError, Authorizer, Decision, Effect, Policy, PolicyId, PolicySetError};
use serde::Serialize;

use crate::config::Diagnostic;

use super::needs::Needs;
use super::question::{CedarQuestion, Question, SchemaNames};
use super::scope::Scope;
use super::slices::Slices;

/// One policy, without its text.
#[derive(Clone, Debug)]
pub struct PolicyInfo {
    /// File and line, unique within the set.
    pub id: String,
    /// The annotation `@id`.
    pub name: Option<String>,
    /// The name of its file.
    pub file: String,
    /// The line on which it begins.
    pub line: usize,
    /// `permit` or `forbid`.
    pub effect: Effect,
    /// Whom it concerns.
    pub scope: Scope,
}

/// Policies that were parsed and checked.
pub struct PolicySet {
    dir: PathBuf,
    policies: Vec<PolicyInfo>,
    by_id: HashMap<PolicyId, usize>,
    slices: Slices,
    warnings: Vec<Diagnostic>,
    sha256: [u8; 32],
    names: SchemaNames,
    authorizer: Authorizer,
}

/// What a set answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub answer: Answer,
    /// The policies that it follows from, as [`PolicyInfo::label`] names them, sorted.
    pub policies: Vec<String>,
    /// Policies that could not be evaluated, with the reason, sorted. If there are any, the request is refused.
    pub errors: Vec<(String, String)>,
}

/// The answer of a set to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A `permit` is satisfied, and no `forbid`.
    Permit,
    /// Nothing is satisfied.
    Silent,
    /// A `forbid` is satisfied.
    Forbid,
    /// A policy, or the question, could not be evaluated.
    Error,
}

/// A part of a set cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PolicySetBuildError {
    /// The names of the schema cannot be parsed.
    #[error("the schema of this version has a fault: {0}")]
    Schema(#[source] Box<cedar_policy::ParseErrors>),
    /// Cedar refuses a policy.
    #[error("cannot be used: {0}")]
    Policy(#[from] Box<PolicySetError>),
}

impl PolicyInfo {
    /// The policy as messages and records name it: `FILE:LINE`, after its `@id` if it has one.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("\"{}\" ({})", name.escape_debug(), self.id),
            None => self.id.clone(),
        }
    }
}

impl PolicySet {
    pub(super) fn new(
        dir: PathBuf,
        policies: Vec<(Policy, PolicyInfo)>,
        warnings: Vec<Diagnostic>,
        sha256: [u8; 32],
    ) -> Result<PolicySet, PolicySetBuildError> {
        let mut by_scope: BTreeMap<Scope, Vec<Policy>> = BTreeMap::new();
        let (mut by_id, mut infos) = (HashMap::new(), Vec::with_capacity(policies.len()));
        for (policy, info) in policies {
            by_id.insert(policy.id().clone(), infos.len());
            by_scope.entry(info.scope.clone()).or_default().push(policy);
            infos.push(info);
        }
        Ok(PolicySet {
            dir,
            policies: infos,
            by_id,
            slices: Slices::new(by_scope)?,
            warnings,
            sha256,
            names: SchemaNames::parse().map_err(PolicySetBuildError::Schema)?,
            authorizer: Authorizer::new(),
        })
    }

    /// The number of policies, as text.
    pub fn counted(&self) -> String {
        counted_policies(self.policies.len())
    }

    /// The policies, in the order of files and lines.
    pub fn policies(&self) -> &[PolicyInfo] {
        &self.policies
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The text of the policy with this label ([`PolicyInfo::label`]).
    pub fn text_of(&self, label: &str) -> Option<String> {
        let found = self.cedar_policies().find(|(_, info)| info.label() == label);
        found.map(|(policy, _)| policy.to_string())
    }

    /// SHA-256 of the files' names and contents: of each file, in the order of the names, the name, a zero
    /// byte, the length of the content as eight bytes, the highest first, and the content.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Policies that never apply, and strings that look like others.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// What the policies can read of a request.
    pub(super) fn needs(&self) -> Needs {
        self.slices.needs()
    }

    /// All policies, in Cedar's form.
    pub(super) fn cedar_policies(&self) -> impl Iterator<Item = (&Policy, &PolicyInfo)> {
        self.slices
            .policies()
            .filter_map(|policy| Some((policy, self.policies.get(*self.by_id.get(policy.id())?)?)))
    }

    /// The answer to a question. It takes time in proportion to the size of the policies that concern the
    /// agent.
    pub fn evaluate(&self, question: &Question<'_>) -> Verdict {
        let slices = self.slices.of(&question.principal);
        let needs = slices.iter().fold(Needs::default(), |needs, slice| needs.and(slice.needs));
        let CedarQuestion { request, entities } = match question.to_cedar(&self.names, needs) {
            Ok(question) => question,
            Err(error) => {
                let errors = vec![("the policies".to_owned(), error.to_string())];
                return Verdict { answer: Answer::Error, policies: Vec::new(), errors };
            }
        };
        let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for slice in slices {
            let response = self.authorizer.is_authorized(&request, &slice.policies, &entities);
            // Cedar names the satisfied policies of the effect that decides.
            let satisfied = response.diagnostics().reason().map(|id| self.label(id));
            match response.decision() {
                Decision::Allow => permits.extend(satisfied),
                Decision::Deny => forbids.extend(satisfied),
            }
            errors.extend(response.diagnostics().errors().map(|error| {
                let AuthorizationError::PolicyEvaluationError(error) = error;
                (self.label(error.policy_id()), error.inner().to_string())
            }));
        }
        let (answer, mut policies) = match (errors.is_empty(), forbids.is_empty(), permits.is_empty()) {
            (false, _, _) => (Answer::Error, forbids),
            (true, false, _) => (Answer::Forbid, forbids),
            (true, true, false) => (Answer::Permit, permits),
            (true, true, true) => (Answer::Silent, Vec::new()),
        };
        policies.sort();
        errors.sort();
        Verdict { answer, policies, errors }
    }

    fn label(&self, id: &PolicyId) -> String {
        let info = self.by_id.get(id).and_then(|at| self.policies.get(*at));
        info.map_or_else(|| id.to_string(), PolicyInfo::label)
    }
}

impl fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySet").field("policies", &self.policies.len()).finish_non_exhaustive()
    }
}

/// `1 policy`, `2 policies`.
pub fn counted_policies(count: usize) -> String {
    match count {
        1 => "1 policy".to_owned(),
        _ => format!("{count} policies"),
    }
}
