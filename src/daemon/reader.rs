//! The other program in `hostbadged`: a reader of executables, which shares nothing with the daemon.

use std::process::ExitCode;

use crate::peer::{READER_ARGUMENT, serve_reader};

/// Serves as a reader and returns the exit status, if the first argument says so. Call it before anything
/// else: a reader has no configuration, and gives up its rights first.
pub fn run_as_reader() -> Option<ExitCode> {
    std::env::args_os().nth(1).is_some_and(|argument| argument == READER_ARGUMENT).then(serve_reader)
}
