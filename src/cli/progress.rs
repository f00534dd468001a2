//! Says on standard error how far something long is.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::output::{note, note_unterminated};
use crate::clock::Timestamp;
use crate::plural::counted;

/// What takes less says nothing.
const QUIET_TIME: Duration = Duration::from_secs(2);
/// How often the line on a terminal is renewed.
const LINE_INTERVAL: Duration = Duration::from_millis(200);
/// How often a line is written to anything else.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A line that is renewed on a terminal, or lines from time to time.
#[derive(Debug)]
pub(super) struct Progress {
    is_terminal: bool,
    /// Whether nothing is written to anything but a terminal.
    is_quiet_elsewhere: bool,
    started: Instant,
    next: Instant,
    is_shown: bool,
}

impl Progress {
    /// On a terminal a line that is renewed, elsewhere one line every 10 s.
    pub(super) fn start() -> Progress {
        let now = Instant::now();
        Progress {
            is_terminal: io::stderr().is_terminal(),
            is_quiet_elsewhere: false,
            started: now,
            next: now + QUIET_TIME,
            is_shown: false,
        }
    }

    /// As [`Progress::start`], with nothing elsewhere than on a terminal.
    pub(super) fn start_on_terminal() -> Progress {
        Progress { is_quiet_elsewhere: true, ..Progress::start() }
    }

    /// Says how far it is, if it is time. `text` gets the time since the start, and whether it is for a terminal.
    pub(super) fn tick(&mut self, text: impl FnOnce(Duration, bool) -> String) {
        let now = Instant::now();
        if now < self.next || self.is_quiet_elsewhere && !self.is_terminal {
            return;
        }
        let text = text(now - self.started, self.is_terminal);
        if self.is_terminal {
            note_unterminated(format_args!("\r\x1b[K{text}"));
            (self.next, self.is_shown) = (now + LINE_INTERVAL, true);
        } else {
            note(format_args!("hostbadge: {text}"));
            self.next = now + LOG_INTERVAL;
        }
    }

    /// Says how far the audit log was read, from its end on.
    pub(super) fn tick_records(&mut self, records: u64, back_to: Timestamp) {
        self.tick(|_, _| {
            format!("{} of the audit log were read, back to {back_to}", counted(records, "record"))
        });
    }

    /// Removes the line.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            note_unterminated("\r\x1b[K");
        }
    }
}
