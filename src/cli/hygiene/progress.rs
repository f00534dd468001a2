//! Says on a terminal how far a long search is.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::super::output::note_unterminated;

/// A shorter search says nothing.
const QUIET_TIME: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(500);

/// The line on standard error that is renewed while a search goes on.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    next: Instant,
    is_shown: bool,
}

impl Progress {
    pub(super) fn start() -> Progress {
        Progress {
            is_terminal: io::stderr().is_terminal(),
            next: Instant::now() + QUIET_TIME,
            is_shown: false,
        }
    }

    /// Renews the line if it is time.
    pub(super) fn tick(&mut self, files: u64, found: usize) {
        if !self.is_terminal || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + INTERVAL;
        self.is_shown = true;
        note_unterminated(format_args!("\r\x1b[K{files} files, {found} found"));
    }

    /// Removes the line.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            note_unterminated("\r\x1b[K");
        }
    }
}
