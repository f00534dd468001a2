//! `hostbadge hygiene`: looks for secrets that were left in files, environments, shell histories and unit files. It
//! says where they are and of what kind, and never what they are.

mod classify;
mod environ;
mod finding;
mod open;
mod report;
mod scanner;
mod tree;
mod units;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::common::CommonArgs;
use super::error::CliError;
use crate::config::Config;
use scanner::{FileKind, Limits, Scanner};

/// Exit status where none of the named paths can be looked at.
const EXIT_USAGE: u8 = 2;
/// Files of shells and other programs that keep what was typed, below a home directory.
const HISTORIES: [&str; 16] = [
    ".ash_history",
    ".bash_history",
    ".config/fish/fish_history",
    ".history",
    ".ksh_history",
    ".lesshst",
    ".local/share/fish/fish_history",
    ".mysql_history",
    ".node_repl_history",
    ".psql_history",
    ".python_history",
    ".rediscli_history",
    ".sh_history",
    ".sqlite_history",
    ".zhistory",
    ".zsh_history",
];

#[derive(Args, Debug)]
pub(super) struct HygieneArgs {
    /// Files and directories to look at, with everything below them
    ///
    /// Links are not followed. /proc, /sys, /dev and other file systems of the kernel below a directory are left out,
    /// and so is what is no regular file. A home directory that is named is looked at with its shell histories.
    paths: Vec<PathBuf>,
    /// Leave out the environments of processes
    ///
    /// Without it, the environments of all processes are looked at that this user may read: for root, those of all
    /// processes.
    #[arg(long)]
    no_environ: bool,
    /// Leave out the unit files of systemd and the files that they name with EnvironmentFile=
    #[arg(long)]
    no_units: bool,
    /// Leave out the shell histories in this user's home directory
    #[arg(long)]
    no_histories: bool,
    /// Largest file that is looked at, in MiB; larger ones are named
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    max_size: u64,
    /// Files to look at; the search ends there
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    max_files: u64,
    /// Directories within each other to look into; deeper ones are named
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    max_depth: u16,
}

/// Prints the findings. Exit status 0 if there is none, 1 if there is one, and 2 if there is none and no path that is
/// named can be looked at. A path that is missing is named among what cannot be read, and ends no search of the others.
pub(super) fn run(common: &CommonArgs, arguments: &HygieneArgs) -> Result<ExitCode, CliError> {
    let limits = Limits {
        max_size: arguments.max_size * 1024 * 1024,
        max_files: arguments.max_files,
        max_depth: arguments.max_depth,
    };
    let mut scanner = Scanner::new(limits, own_issuer());
    let mut has_root = arguments.paths.is_empty();
    for path in &arguments.paths {
        match fs::canonicalize(path) {
            Ok(root) => {
                has_root = true;
                tree::scan(&mut scanner, &root, FileKind::Text);
            }
            Err(error) => scanner.report.cannot_read(path, &error),
        }
    }
    if !arguments.no_histories
        && let Some(home) = home()
    {
        for history in HISTORIES {
            scanner.scan_existing(&home.join(history), FileKind::Text);
        }
    }
    if !arguments.no_units {
        units::scan(&mut scanner, home().as_deref());
    }
    if !arguments.no_environ {
        environ::scan(&mut scanner);
    }
    let report = scanner.into_report();
    let status = report.print(common.json)?;
    Ok(if has_root || report.found > 0 { status } else { ExitCode::from(EXIT_USAGE) })
}

/// This user's home directory.
fn home() -> Option<PathBuf> {
    let named = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let home =
        named.or_else(|| nix::unistd::User::from_uid(nix::unistd::getuid()).ok()?.map(|user| user.dir))?;
    (home != Path::new("/")).then_some(home)
}

/// The issuer of this host's tokens, if its configuration says it.
fn own_issuer() -> Option<String> {
    let config = Config::load(None).ok()?;
    config.issuer.or_else(|| config.trust_domain.map(|domain| format!("https://{domain}")))
}
