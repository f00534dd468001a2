//! What a search found and what it left out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::super::common::print_json;
use super::super::error::CliError;
use super::super::output::{note, print_line};
use super::finding::{Finding, Place};
use crate::config::escape_unprintable;
use crate::plural::counted;

/// Findings that are listed.
const MAX_FINDINGS: usize = 10_000;
/// Paths that are named beside the findings.
const MAX_NAMED: usize = 20;

/// The result of a search.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// The findings, at most 10,000.
    pub(super) findings: Vec<Finding>,
    /// How many there are.
    pub(super) found: usize,
    /// Files that were looked at.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Processes whose environment was looked at.
    pub(super) processes: u64,
    /// Processes whose environment this user may not read.
    pub(super) hidden_processes: u64,
    /// What was left out because of a limit: the first 20.
    pub(super) skipped: Vec<LeftOut>,
    /// How many there are.
    pub(super) skipped_count: u64,
    /// What cannot be read: the first 20.
    pub(super) unreadable: Vec<LeftOut>,
    /// How many there are.
    pub(super) unreadable_count: u64,
    /// Whether the search ended at the greatest number of files.
    pub(super) ended_early: bool,
}

/// What was not looked at.
#[derive(Debug, Serialize)]
pub(super) struct LeftOut {
    path: PathBuf,
    reason: String,
}

impl Report {
    pub(super) fn add(&mut self, finding: Finding) {
        self.found += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// A limit left a file or directory out.
    pub(super) fn skip(&mut self, path: &Path, reason: impl Into<String>) {
        self.skipped_count += 1;
        if self.skipped.len() < MAX_NAMED {
            self.skipped.push(LeftOut { path: path.to_owned(), reason: reason.into() });
        }
    }

    /// A file or directory cannot be read.
    pub(super) fn cannot_read(&mut self, path: &Path, error: &std::io::Error) {
        self.unreadable_count += 1;
        if self.unreadable.len() < MAX_NAMED {
            self.unreadable.push(LeftOut { path: path.to_owned(), reason: error.to_string() });
        }
    }

    /// Prints the result. Exit status 1 if something was found, and 0 otherwise.
    pub(super) fn print(&self, json: bool) -> Result<ExitCode, CliError> {
        if json {
            print_json(self)?;
        } else {
            for finding in &self.findings {
                print_line(escape_unprintable(&format(finding)))?;
            }
            self.note_left_out();
            print_line(self.summary())?;
        }
        Ok(if self.found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn note_left_out(&self) {
        let lists = [
            (&self.skipped, self.skipped_count, "left out"),
            (&self.unreadable, self.unreadable_count, "unreadable"),
        ];
        for (list, count, label) in lists {
            for one in list {
                let path = one.path.to_string_lossy();
                note(format_args!("hostbadge: {label}: {}: {}", escape_unprintable(&path), one.reason));
            }
            let more = count - list.len() as u64;
            if more > 0 {
                note(format_args!("hostbadge: {label}: {more} more"));
            }
        }
        if self.hidden_processes > 0 {
            let count = counted(self.hidden_processes, "process");
            let count = count.replace("processs", "processes");
            note(format_args!("hostbadge: this user may not read the environment of {count}; root may"));
        }
        if self.ended_early {
            note("hostbadge: the search ended at the greatest number of files (--max-files)");
        }
        if self.found > self.findings.len() {
            note(format_args!("hostbadge: only the first {} findings are listed", self.findings.len()));
        }
    }

    fn summary(&self) -> String {
        let processes = match self.processes {
            0 => String::new(),
            1 => " and the environment of 1 process".to_owned(),
            n => format!(" and the environments of {n} processes"),
        };
        format!("{} in {}{processes}", counted(self.found, "finding"), counted(self.files, "file"))
    }
}

/// A finding in one line.
fn format(finding: &Finding) -> String {
    let mut text = match &finding.place {
        Place::File { path, line: Some(line), .. } => format!("{}:{line}", path.display()),
        Place::File { path, offset: Some(offset), .. } => format!("{}: at byte {offset}", path.display()),
        Place::File { path, .. } => path.display().to_string(),
        Place::Process { pid, command, more: 0 } => format!("process {pid} ({command})"),
        Place::Process { pid, command, more } => format!("process {pid} ({command}) and {more} more"),
    };
    text += &format!(": {}", finding.what.kind);
    if let Some(variable) = &finding.variable {
        text += &format!(" in {variable}");
    }
    if let Some(issuer) = &finding.what.issuer {
        text += &format!(" of {issuer}");
    }
    if finding.what.expired == Some(true) {
        text += ", expired";
    }
    if let Some(digest) = &finding.what.digest {
        text += &format!(" [{digest}]");
    }
    text
}
