//! Options of every subcommand, JSON output, and the last line of a verification.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::Serialize;

use super::error::CliError;
use super::output::print_line;
use crate::config::escape_unprintable;

/// Options of every subcommand, as they are given. The environment and the defaults are not clap's, because
/// its usage errors would list options that were not given.
#[derive(Args, Debug)]
pub(super) struct CommonOptions {
    /// Print JSON instead of text, also for errors
    #[arg(long, global = true)]
    json: bool,

    /// The agent socket, as a path or unix:///PATH [env: HOSTBADGE_SOCKET] [default:
    /// /run/hostbadge/agent.sock]
    #[arg(long, global = true, value_name = "PATH", value_parser = socket_path(), hide_default_value = true)]
    socket: Option<PathBuf>,

    /// The admin socket, as a path or unix:///PATH [env: HOSTBADGE_ADMIN_SOCKET] [default:
    /// /run/hostbadge/admin.sock]
    #[arg(long, global = true, value_name = "PATH", value_parser = socket_path(), hide_default_value = true)]
    admin_socket: Option<PathBuf>,
}

/// Options of every subcommand, complete.
#[derive(Debug)]
pub(super) struct CommonArgs {
    pub(super) json: bool,
    pub(super) socket: PathBuf,
    pub(super) admin_socket: PathBuf,
}

impl From<CommonOptions> for CommonArgs {
    fn from(options: CommonOptions) -> CommonArgs {
        let socket = |option: Option<PathBuf>, variable: &str, default: &str| {
            let named = std::env::var_os(variable).filter(|value| !value.is_empty());
            option.or_else(|| named.as_deref().map(without_scheme)).unwrap_or_else(|| default.into())
        };
        CommonArgs {
            json: options.json,
            socket: socket(options.socket, "HOSTBADGE_SOCKET", "/run/hostbadge/agent.sock"),
            admin_socket: socket(options.admin_socket, "HOSTBADGE_ADMIN_SOCKET", "/run/hostbadge/admin.sock"),
        }
    }
}

pub(super) fn socket_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(|value: OsString| without_scheme(&value))
}

/// The path of a socket that is named as a URI, as SPIFFE and gRPC name it: `unix:///path` or `unix:path`.
fn without_scheme(value: &OsStr) -> PathBuf {
    let bytes = value.as_bytes();
    let path = bytes.strip_prefix(b"unix://").or_else(|| bytes.strip_prefix(b"unix:")).unwrap_or(bytes);
    Path::new(OsStr::from_bytes(path)).to_owned()
}

/// Prints a value as one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<ExitCode, CliError> {
    let text = serde_json::to_string(value).map_err(CliError::local)?;
    print_line(text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the last line of a verification, and returns its exit status.
pub(super) fn print_verdict(valid: bool, reason: &str) -> Result<ExitCode, CliError> {
    let verdict = if valid { "VALID" } else { "NOT VALID" };
    print_line(format_args!("{verdict}: {}", escape_unprintable(reason)))?;
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_paths_or_uris() {
        for (given, path) in [
            ("unix:///run/a.sock", "/run/a.sock"),
            ("unix:/run/a.sock", "/run/a.sock"),
            ("unix:a.sock", "a.sock"),
            ("/run/a.sock", "/run/a.sock"),
            ("a.sock", "a.sock"),
        ] {
            assert_eq!(without_scheme(OsStr::new(given)), Path::new(path), "{given}");
        }
    }
}
