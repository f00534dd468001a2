//! Lines of the audit log that are not records: each is named once and left out, and the command fails at its end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;

use super::output::note;
use crate::audit::{self, line_of};
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::wire::admin::UnreadableLines;

/// Its number is all that is known of a line.
#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

/// The number of a line of the log.
pub(super) fn seq_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Numbered>(line).ok().map(|line| line.seq)
}

/// Lines of the log's files as a response of the daemon has them.
pub(super) fn as_in_responses(found: &[audit::UnreadableLines]) -> Vec<UnreadableLines> {
    let lines = |lines: &audit::UnreadableLines| UnreadableLines {
        file: lines.file.display().to_string(),
        from: lines.from,
        to: lines.to,
    };
    found.iter().map(lines).collect()
}

/// What a command has left out.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// The directory of the log, where this process may read it.
    dir: Option<PathBuf>,
    named: Vec<UnreadableLines>,
    count: u64,
}

impl Unreadable {
    pub(super) fn new(dir: Option<PathBuf>) -> Unreadable {
        Unreadable { dir, ..Unreadable::default() }
    }

    /// Names lines. Pages can have some of them more than once.
    pub(super) fn note_lines(&mut self, found: &[UnreadableLines]) {
        for lines in found {
            let is_known = |known: &&UnreadableLines| {
                known.file == lines.file && (known.from..=known.to).contains(&lines.from)
            };
            let known_to = self.named.iter().filter(is_known).map(|known| known.to).max();
            let from = known_to.map_or(lines.from, |to| to + 1);
            if from > lines.to {
                continue;
            }
            let file = escape_unprintable(&lines.file);
            match lines.to - from {
                0 => note(format_args!("hostbadge: left out: {file} line {from} is not a record")),
                _ => note(format_args!(
                    "hostbadge: left out: {file} lines {from} to {} are not records",
                    lines.to
                )),
            }
            self.count += lines.to - from + 1;
            self.named.push(lines.clone());
        }
    }

    /// Names a line of the log that has a number, and not the other members of a record.
    pub(super) fn note_record(&mut self, line: &str) {
        self.count += 1;
        let seq = seq_of(line);
        let place = |dir: &Path| line_of(dir, seq?).ok().flatten();
        let place = self.dir.as_deref().and_then(place).map(|(file, line)| {
            let file = file.display().to_string();
            format!(" ({} line {line})", escape_unprintable(&file))
        });
        note(format_args!(
            "hostbadge: left out: record {}{} does not have the members of a record",
            seq.unwrap_or_default(),
            place.unwrap_or_default()
        ));
    }

    /// The exit status of a command that has otherwise succeeded: 1 where lines were left out, whose number is said.
    pub(super) fn finish(&self, exit_code: ExitCode) -> ExitCode {
        if self.count == 0 {
            return exit_code;
        }
        note(format_args!(
            "hostbadge: {} of the audit log could not be read; hostbadge verify audit shows what is damaged",
            counted(self.count, "line")
        ));
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, from: u64, to: u64) -> UnreadableLines {
        UnreadableLines { file: file.to_owned(), from, to }
    }

    #[test]
    fn a_line_that_several_pages_have_is_counted_once() {
        let mut unreadable = Unreadable::default();
        assert_eq!(unreadable.finish(ExitCode::SUCCESS), ExitCode::SUCCESS);
        unreadable.note_lines(&[lines("a", 3, 5), lines("b", 3, 3)]);
        assert_eq!(unreadable.count, 4);
        unreadable.note_lines(&[lines("a", 3, 7), lines("a", 4, 5), lines("b", 3, 3)]);
        assert_eq!(unreadable.count, 6);
        unreadable.note_record("{\"seq\":7}");
        assert_eq!(unreadable.count, 7);
        assert_eq!(unreadable.finish(ExitCode::SUCCESS), ExitCode::FAILURE);
    }
}
