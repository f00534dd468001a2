//! Looks at one file or text after the other, and collects what is found.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::{Zeroize, Zeroizing};

use super::super::progress::Progress;
use super::classify::describe;
use super::finding::{Finding, Place, What};
use super::open;
use super::report::Report;
use crate::agents::{environment_files, environment_secrets, unit_secrets};
use crate::clock::{Clock, Timestamp};
use crate::secrets::{Find, SecretKind, find_secrets};

/// The beginning of a file in which a zero byte says that it is not text.
const TEXT_PROBE_LEN: usize = 8192;

/// Bounds of a search.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Largest file, in bytes.
    pub(super) max_size: u64,
    pub(super) max_files: u64,
    pub(super) max_depth: u16,
}

/// What a file has beside text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Text,
    /// Settings of a unit.
    Unit,
    /// The environment of a unit.
    Environment,
}

/// A search that goes on.
pub(super) struct Scanner {
    pub(super) limits: Limits,
    pub(super) report: Report,
    progress: Progress,
    /// Files of `EnvironmentFile=` that were met and not looked at.
    pub(super) environment_files: Vec<PathBuf>,
    own_issuer: Option<String>,
    now: Timestamp,
    /// Device and inode of the files that were looked at.
    seen: HashSet<(u64, u64)>,
    /// The content of one file. It is overwritten after each.
    buffer: Zeroizing<Vec<u8>>,
}

impl Scanner {
    pub(super) fn new(limits: Limits, own_issuer: Option<String>) -> Scanner {
        Scanner {
            limits,
            report: Report::default(),
            progress: Progress::start_on_terminal(),
            environment_files: Vec::new(),
            own_issuer,
            now: Clock::System.now(),
            seen: HashSet::new(),
            buffer: Zeroizing::default(),
        }
    }

    /// Whether no further file is looked at.
    pub(super) fn is_full(&mut self) -> bool {
        self.report.ended_early |= self.report.files >= self.limits.max_files;
        self.report.ended_early
    }

    /// Whether a file or directory is met for the first time.
    pub(super) fn is_new(&mut self, found: &std::fs::Metadata) -> bool {
        self.seen.insert((found.dev(), found.ino()))
    }

    /// Looks at a file at a path, if there is one.
    pub(super) fn scan_existing(&mut self, path: &Path, kind: FileKind) {
        match open::find(None, path.as_os_str()) {
            Ok(found) => self.scan_found(&found, path, kind),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => self.report.cannot_read(path, &e),
        }
    }

    /// Looks at a file that was found, if it is a regular one.
    pub(super) fn scan_found(&mut self, found: &File, path: &Path, kind: FileKind) {
        let metadata = match found.metadata() {
            Ok(metadata) => metadata,
            Err(e) => return self.report.cannot_read(path, &e),
        };
        if !metadata.is_file() || !self.is_new(&metadata) || self.is_full() {
            return;
        }
        if metadata.len() > self.limits.max_size {
            return self.skip_large(path);
        }
        let mut content = std::mem::take(&mut self.buffer);
        match read(found, metadata.len(), self.limits.max_size, &mut content) {
            Ok(true) => self.scan_content(&content, path, kind),
            Ok(false) => self.skip_large(path),
            Err(e) => self.report.cannot_read(path, &e),
        }
        content.zeroize();
        self.buffer = content;
        self.tick();
    }

    /// Says how far the search is, if it is time.
    pub(super) fn tick(&mut self) {
        let Report { files, found, .. } = &self.report;
        self.progress.tick(|_, _| format!("{files} files, {found} found"));
    }

    /// Describes a secret.
    pub(super) fn describe(&self, kind: SecretKind, value: &[u8]) -> What {
        describe(kind, value, self.own_issuer.as_deref(), self.now)
    }

    fn skip_large(&mut self, path: &Path) {
        let reason = format!("larger than {} MiB", self.limits.max_size >> 20);
        self.report.skip(path, reason);
    }

    fn scan_content(&mut self, content: &[u8], path: &Path, kind: FileKind) {
        self.report.files += 1;
        self.report.bytes += content.len() as u64;
        let is_text = !content.iter().take(TEXT_PROBE_LEN).any(|byte| *byte == 0);
        let mut finds: Vec<Find> = Vec::new();
        find_secrets(content, |find| finds.push(find));
        let mut lines = LineCounter { content, at: 0, line: 1 };
        let mut found_lines = HashSet::new();
        for Find { kind, start, end } in finds {
            let line = is_text.then(|| lines.of(start));
            found_lines.extend(line);
            let what = self.describe(kind, &content[start..end]);
            let place = Place::File { path: path.to_owned(), line, offset: (!is_text).then_some(start) };
            self.report.add(Finding { place, variable: None, what });
        }
        if kind == FileKind::Text || !is_text {
            return;
        }
        let text = Zeroizing::new(String::from_utf8_lossy(content).into_owned());
        let settings: Vec<(usize, Option<String>)> = match kind {
            FileKind::Environment => {
                environment_secrets(&text).map(|(line, name)| (line, Some(name.to_owned()))).collect()
            }
            _ => unit_secrets(&text).into_iter().map(|secret| (secret.line, secret.variable)).collect(),
        };
        for (line, variable) in settings.into_iter().filter(|(line, _)| !found_lines.contains(line)) {
            let what = self.describe(SecretKind::Assignment, &[]);
            let place = Place::File { path: path.to_owned(), line: Some(line), offset: None };
            self.report.add(Finding { place, variable, what });
        }
        if kind == FileKind::Unit {
            self.environment_files.extend(environment_files(&text));
        }
    }

    pub(super) fn into_report(mut self) -> Report {
        self.progress.end();
        self.report
    }
}

/// Reads a file into `content`; returns false if it is larger than `max_size` bytes.
fn read(found: &File, size: u64, max_size: u64, content: &mut Vec<u8>) -> io::Result<bool> {
    // With room for all of it, nothing is copied while it grows.
    content.reserve_exact(usize::try_from(size).unwrap_or_default() + 1);
    open::open(found)?.take(max_size + 1).read_to_end(content)?;
    Ok(content.len() as u64 <= max_size)
}

/// Counts the lines of a text from its beginning.
struct LineCounter<'a> {
    content: &'a [u8],
    at: usize,
    line: usize,
}

impl LineCounter<'_> {
    /// The line of a place that is not before an earlier one.
    fn of(&mut self, place: usize) -> usize {
        self.line += self.content[self.at..place].iter().filter(|byte| **byte == b'\n').count();
        self.at = place;
        self.line
    }
}
