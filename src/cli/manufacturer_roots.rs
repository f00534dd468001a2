//! The directory of `--roots`: certificates of TPM manufacturers.

use std::path::Path;

use super::error::CliError;
use super::output::note;
use crate::verify::ManufacturerRoots;

/// How many files that were passed over are named.
const MAX_NAMED_FILES: usize = 20;

/// Reads the directory, and names on standard error what was passed over.
pub(super) fn read_manufacturer_roots(dir: &Path) -> Result<ManufacturerRoots, CliError> {
    let roots = ManufacturerRoots::read_dir(dir).map_err(CliError::local)?;
    let passed_over = roots.passed_over();
    for file in passed_over.iter().take(MAX_NAMED_FILES) {
        note(format_args!("hostbadge: passed over {file}"));
    }
    if passed_over.len() > MAX_NAMED_FILES {
        note(format_args!("hostbadge: passed over {} more", passed_over.len() - MAX_NAMED_FILES));
    }
    Ok(roots)
}
