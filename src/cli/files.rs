//! Bounded reads of files and standard input, and output to a file or standard output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::error::CliError;
use crate::store;

/// Largest token, key set or PCR file that is read, in bytes.
pub(super) const MAX_INPUT_SIZE: usize = 1024 * 1024;

/// Where a subcommand writes its document.
#[derive(Args, Debug)]
pub(super) struct OutputArgs {
    /// Write to FILE, replaced atomically, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl OutputArgs {
    /// Whether the document goes to a file, which leaves standard output free for a summary.
    pub(super) fn is_file(&self) -> bool {
        self.output.is_some()
    }

    /// Writes the document, to a file with permissions `mode`.
    pub(super) fn write(&self, text: &[u8], mode: u32) -> Result<ExitCode, CliError> {
        match &self.output {
            Some(file) => write_file(file, text, mode)?,
            None => {
                io::stdout().write_all(text).map_err(|e| CliError::Local(format!("standard output: {e}")))?
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Replaces a file atomically.
pub(super) fn write_file(path: &Path, text: &[u8], mode: u32) -> Result<(), CliError> {
    store::write_atomic(path, text, mode).map_err(|e| CliError::Local(format!("{}: {e}", path.display())))
}

/// Reads a file of at most `max_len` bytes.
pub(super) fn read_file(path: &Path, max_len: usize) -> Result<Vec<u8>, CliError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| CliError::Local(format!("{name}: {e}")))?;
    read_bounded(file, &name, max_len)
}

/// Reads standard input, at most `max_len` bytes.
pub(super) fn read_stdin(max_len: usize) -> Result<Vec<u8>, CliError> {
    read_bounded(io::stdin(), "standard input", max_len)
}

fn read_bounded(source: impl Read, name: &str, max_len: usize) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    source
        .take(max_len as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|e| CliError::Local(format!("{name}: {e}")))?;
    if text.len() > max_len {
        return Err(CliError::Local(format!("{name}: larger than {max_len} bytes")));
    }
    Ok(text)
}
