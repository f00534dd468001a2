//! `hostbadge export status-list`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::files::{OutputArgs, file_error, write_file};
use super::output::print_line;
use super::tenant_args::TenantArgs;
use crate::plural::counted;
use crate::wire::agent::StatusListsResponse;

#[derive(Args, Debug)]
pub(super) struct StatusListArgs {
    /// A list's number, or a directory that gets all lists, each as a file named by its number. Without it, the
    /// issuer's only list
    #[arg(value_name = "DIR|N")]
    target: Option<String>,

    #[command(flatten)]
    tenant: TenantArgs,

    #[command(flatten)]
    output: OutputArgs,
}

impl StatusListArgs {
    pub(super) fn output(&self) -> &OutputArgs {
        &self.output
    }
}

pub(super) async fn run(common: &CommonArgs, arguments: &StatusListArgs) -> Result<ExitCode, CliError> {
    let target = arguments.target.as_deref();
    if let Some(number) = target.filter(|target| is_number(target)) {
        return write_one(common, arguments, number).await;
    }
    let path = arguments.tenant.path("/v1/status-lists")?;
    let uris = client::get::<StatusListsResponse>(&common.socket, &path).await?.body.status_lists;
    // The addresses end in the numbers.
    let numbers: Vec<&str> =
        uris.iter().filter_map(|uri| uri.rsplit('/').next()).filter(|name| is_number(name)).collect();
    match (target, &numbers[..]) {
        (Some(dir), _) if arguments.output.is_file() => {
            Err(CliError::Local(format!("--output is for one list, and {dir} is a directory")))
        }
        (Some(dir), _) => write_all(common, arguments, Path::new(dir), &numbers).await,
        (None, [number]) => write_one(common, arguments, number).await,
        (None, []) => Err(CliError::Local(
            "there is no status list: no token with a status has been issued since the last ones expired"
                .into(),
        )),
        (None, several) => Err(CliError::Local(format!(
            "there are {}: {}; name one of them, or a directory for all",
            counted(several.len(), "status list"),
            several.join(", ")
        ))),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

async fn write_one(
    common: &CommonArgs,
    arguments: &StatusListArgs,
    number: &str,
) -> Result<ExitCode, CliError> {
    let list = list(common, arguments, number).await?;
    arguments.output.write(format!("{list}\n").as_bytes(), 0o644)
}

/// Files without a newline, so that a web server sends what the daemon does.
async fn write_all(
    common: &CommonArgs,
    arguments: &StatusListArgs,
    dir: &Path,
    numbers: &[&str],
) -> Result<ExitCode, CliError> {
    fs::create_dir_all(dir).map_err(|e| file_error(dir, &e))?;
    for number in numbers {
        let (list, file) = (list(common, arguments, number).await?, dir.join(number));
        write_file(&file, list.as_bytes(), 0o644)?;
        print_line(&file.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(common: &CommonArgs, arguments: &StatusListArgs, number: &str) -> Result<String, CliError> {
    let path = arguments.tenant.path(&format!("/v1/status-list/{number}"))?;
    client::get_text(&common.socket, &path).await
}
