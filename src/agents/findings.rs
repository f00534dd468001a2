//! What is valid in a set of agents and probably not meant, or weaker than it can be: for reloads, checks and
//! `hostbadge agent lint`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Diagnostic;
use crate::names::{NameTable, Names};

use super::advice::advice;
use super::agent_set::{AgentSet, MAX_REPORTED, RESOLVE_TIMEOUT};
use super::host_warnings::host_warnings;
use super::lint_name::Lint;
use super::overlap;
use super::script_warnings::script_warnings;
use super::unit_files::unit_lints;
use super::user_unit_lints::user_unit_lints;

impl AgentSet {
    /// Returns what is valid but probably not meant, each with file, line and fix: at most 1000. `names` are
    /// the numbers of [`AgentSet::user_and_group_names`].
    pub fn warnings(&self, names: &NameTable) -> Vec<Diagnostic> {
        let mut warnings = self.file_warnings().to_vec();
        let room = MAX_REPORTED.saturating_sub(warnings.len());
        warnings.extend(overlap::warnings(self.with_origins(), names, room));
        warnings.truncate(MAX_REPORTED);
        warnings
    }

    /// As [`AgentSet::warnings`], with those of the file system of this host ([`host_warnings`], [`script_warnings`]), for a
    /// command of an administrator. Blocking: looks names up, for at most 5 s.
    ///
    /// # Errors
    /// The thread that looks names up cannot be started.
    pub fn warnings_on_host(&self) -> io::Result<Vec<Diagnostic>> {
        Ok(self.warnings_with(&self.resolved_names()?.table()))
    }

    fn resolved_names(&self) -> io::Result<Names> {
        let names = Names::start([])?;
        names.resolve(&self.user_and_group_names(), RESOLVE_TIMEOUT);
        Ok(names)
    }

    fn warnings_with(&self, names: &NameTable) -> Vec<Diagnostic> {
        let mut warnings = self.warnings(names);
        for (entry, origin) in self.with_origins() {
            let selectors = &entry.selectors;
            let mut on_host = host_warnings(selectors.exe.as_deref(), selectors.unit.as_deref());
            let files = selectors.files.keys().map(PathBuf::as_path);
            on_host.extend(script_warnings(files, selectors.exe.as_deref()));
            warnings.extend(on_host.into_iter().map(|message| origin.diagnostic(message)));
        }
        warnings.truncate(MAX_REPORTED);
        warnings
    }

    /// Counts the advice about the agents by lint, in one line for a reload; `None` if there is none.
    pub(super) fn advice_summary(&self, dir: &Path, names: &NameTable) -> Option<Diagnostic> {
        let mut counts: BTreeMap<Lint, usize> = BTreeMap::new();
        for found in advice(self.with_origins(), names, MAX_REPORTED) {
            if let Some((lint, _)) = Lint::of(&found) {
                *counts.entry(lint).or_default() += 1;
            }
        }
        if counts.is_empty() {
            return None;
        }
        let counts: Vec<String> =
            counts.iter().map(|(lint, count)| format!("{} {count}", lint.name())).collect();
        let message =
            format!("lints: {}; hostbadge agent lint has the agents and what to do", counts.join(", "));
        Some(Diagnostic { file: dir.to_owned(), line: None, message })
    }

    /// All lints of the files and of this host: [`AgentSet::warnings_on_host`], what makes agents weaker than
    /// they can be, and what the files of their units show. At most 1000. Blocking, as for that.
    ///
    /// # Errors
    /// The thread that looks names up cannot be started.
    pub fn lints_on_host(&self) -> io::Result<Vec<Diagnostic>> {
        let names = self.resolved_names()?.table();
        let mut lints = self.warnings_with(&names);
        lints.extend(advice(self.with_origins(), &names, MAX_REPORTED));
        for (entry, origin) in self.with_origins() {
            let selectors = &entry.selectors;
            let of_unit = selectors.unit.as_deref().map(unit_lints).into_iter();
            let user_unit = selectors.user_unit.as_deref();
            let of_user_unit = user_unit.map(|unit| user_unit_lints(unit, selectors.user.as_ref()));
            lints.extend(of_unit.chain(of_user_unit).flatten().map(|text| origin.diagnostic(text)));
            if lints.len() >= MAX_REPORTED {
                break;
            }
        }
        lints.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
        lints.truncate(MAX_REPORTED);
        Ok(lints)
    }
}
