//! Turns the text of policies into a set: parses, checks against the schema, and finds each policy's scope.

use std::collections::HashMap;
use std::path::PathBuf;

use cedar_policy::{Policy, PolicyId, PolicySet as CedarSet, ValidationMode, Validator};
use miette::Diagnostic as CedarDiagnostic;

use crate::config::{Diagnostic, SourceFile};

use super::nesting::first_too_complex;
use super::policy_set::{PolicyInfo, PolicySet};
use super::schema;
use super::scope::Scope;
use super::source::{PolicyFile, PolicySources};

/// Faults of one file that are reported.
const MAX_FAULTS_OF_FILE: usize = 50;
/// Faults of one file that are compared with each other, and its warnings: the line of each is counted from the
/// beginning of the file.
const MAX_COMPARED_FAULTS: usize = 1_000;
/// Length of the longest `@id` in bytes: each refusal by the policy, and its record, has it.
const MAX_ID_LEN: usize = 256;

/// Parses and checks the files. Blocking: takes about 50 us for each policy.
///
/// # Errors
/// The faults of all files, each with file and line: the first syntax errors of each file, and all unknown
/// names and wrong types.
pub(super) fn compile(sources: PolicySources) -> Result<PolicySet, Vec<Diagnostic>> {
    let schema = match schema::parse() {
        Ok(schema) => schema,
        Err(e) => {
            let message = format!("the schema of this version has a fault: {e}");
            return Err(vec![Diagnostic {
                file: PathBuf::from("hostbadge.cedarschema"),
                line: None,
                message,
            }]);
        }
    };
    let validator = Validator::new(schema);
    let mut policies = Vec::new();
    let (mut warnings, mut faults) = (Vec::new(), Vec::new());
    for file in &sources.files {
        let checked = FileCheck::new(file).run(&validator);
        policies.extend(checked.policies);
        warnings.extend(file.source.sorted(checked.warnings));
        faults.extend(file.source.sorted(checked.faults));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let dir = sources.dir.clone();
    PolicySet::new(sources.dir, policies, warnings, sources.sha256)
        .map_err(|error| vec![Diagnostic { file: dir, line: None, message: error.to_string() }])
}

struct FileCheck<'a> {
    file: &'a PolicyFile,
    policies: Vec<(Policy, PolicyInfo)>,
    warnings: Vec<Diagnostic>,
    faults: Vec<Diagnostic>,
}

impl<'a> FileCheck<'a> {
    fn new(file: &'a PolicyFile) -> FileCheck<'a> {
        FileCheck { file, policies: Vec::new(), warnings: Vec::new(), faults: Vec::new() }
    }

    fn run(mut self, validator: &Validator) -> FileCheck<'a> {
        let source = &self.file.source;
        if let Some(at) = lone_carriage_return(source.text()) {
            let message = "has a carriage return that is not part of a line break: it ends a comment, but editors show \
                           what follows as if it were in the comment; remove it";
            self.faults.push(source.diagnostic(at..at, message));
            return self;
        }
        if let Some(span) = first_too_complex(source.text()) {
            let message = "the policy is too complex: it has more than 32 brackets within each other (records count \
                           until the condition ends), or more than 2000 operators and brackets; split it into several";
            self.faults.push(source.diagnostic(span, message));
            return self;
        }
        let parsed = match source.text().parse::<CedarSet>() {
            Ok(parsed) => parsed,
            Err(errors) => {
                let faults = errors.iter().take(MAX_FAULTS_OF_FILE);
                self.faults.extend(faults.map(|error| fault(source, error, "is not valid Cedar: ")));
                return self;
            }
        };
        for template in parsed.templates().take(MAX_FAULTS_OF_FILE) {
            let span = span_of(template.as_ref().loc().map(|loc| loc.start()));
            let message = "is a template (it has ?principal or ?resource), which nothing fills in; name the \
                           principal or resource";
            self.faults.push(source.diagnostic(span, message));
        }
        let line_ends: Vec<usize> = source.text().match_indices('\n').map(|(at, _)| at).collect();
        let mut policies_of_line: HashMap<usize, usize> = HashMap::new();
        for policy in parsed.policies() {
            let start = policy.as_ref().loc().map_or(0, |loc| loc.start());
            let line = 1 + line_ends.partition_point(|end| *end < start);
            let same_line = policies_of_line.entry(line).or_default();
            *same_line += 1;
            let suffix = if *same_line == 1 { String::new() } else { format!("#{same_line}") };
            let name = policy.annotation("id").map(str::to_owned);
            if name.as_ref().is_some_and(|name| name.len() > MAX_ID_LEN) {
                let message = format!("the @id of the policy is longer than {MAX_ID_LEN} bytes; shorten it");
                self.faults.push(source.diagnostic(start..start, message));
                continue;
            }
            let info = PolicyInfo {
                id: format!("{}:{line}{suffix}", self.file.name),
                name,
                file: self.file.name.clone(),
                line,
                effect: policy.effect(),
                scope: Scope::of(policy),
            };
            self.policies.push((policy.new_id(PolicyId::new(&info.id)), info));
        }
        self.validate(validator);
        self
    }

    fn validate(&mut self, validator: &Validator) {
        let source = &self.file.source;
        let policies = CedarSet::from_policies(self.policies.iter().map(|(policy, _)| policy.clone()));
        let policies = match policies {
            Ok(policies) => policies,
            Err(error) => {
                self.faults.push(source.diagnostic(0..0, error.to_string()));
                return;
            }
        };
        let result = validator.validate(&policies, ValidationMode::Strict);
        // The same fault is found for each action of a policy.
        for error in result.validation_errors().take(MAX_COMPARED_FAULTS) {
            let fault = fault(source, error, "");
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
        let warnings = result.validation_warnings().take(MAX_COMPARED_FAULTS);
        self.warnings.extend(warnings.map(|warning| fault(source, warning, "")));
    }
}

/// The place of a carriage return that no line feed follows.
fn lone_carriage_return(text: &str) -> Option<usize> {
    let mut returns = text.match_indices('\r').map(|(at, _)| at);
    returns.find(|at| text.as_bytes().get(at + 1) != Some(&b'\n'))
}

/// The diagnostic of Cedar at the line of its first label, with its help.
fn fault(source: &SourceFile, error: &dyn CedarDiagnostic, start: &str) -> Diagnostic {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let help = error.help().map(|help| format!("; {help}")).unwrap_or_default();
    let message = error.to_string();
    // The file and line name the policy already.
    let named = message.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, "));
    let message = named.map_or(message.as_str(), |(_, rest)| rest);
    let message = without_action(message);
    source.diagnostic(span_of(offset), format!("{start}{message}{help}").replace('\n', " "))
}

/// `… in context for Action::"token" …` without the action.
fn without_action(message: &str) -> String {
    let Some((before, rest)) = message.split_once(" for Action::\"") else { return message.to_owned() };
    let after = rest.split_once('"').map_or("", |(_, after)| after);
    format!("{before}{after}")
}

fn span_of(start: Option<usize>) -> std::ops::Range<usize> {
    start.map_or(0..0, |start| start..start)
}
