//! `hostbadge key recovery`: the daemon creates a recovery key, and puts it in force once it was delivered.
//!
//! The previous recovery key stays valid until then. Otherwise a full disk, a closed pipe or a lost
//! connection would leave the host with a recovery key that no administrator has.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use serde_json::json;
use zeroize::Zeroizing;

use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::files::OutputArgs;
use super::output::{note, sync_stdout};
use super::prompt;
use crate::wire::admin::DoneResponse;
use crate::wire::keys::{ConfirmRecoveryKeyRequest, RecoveryKeyResponse};

/// How often the first group can be typed.
const MAX_ATTEMPTS: u32 = 3;

const STORE_NOTICE: &str = "The recovery key is shown once. Store it where this host's disk cannot be read: \
                            together with a copy of the disk it gives access to the keys.";
const NOT_IN_FORCE: &str = "hostbadge: the new recovery key is not in force; the previous one, if there is one, \
                            stays valid";
const UNKNOWN: &str = "hostbadge: it is not known whether the new recovery key is in force; keep both, and create \
                       another: hostbadge key recovery";

/// Creates a recovery key, writes it, and puts it in force.
pub(super) async fn create_recovery_key(
    common: &CommonArgs,
    output: &OutputArgs,
) -> Result<ExitCode, CliError> {
    if output.is_discarded() {
        return Err(CliError::Local(
            "standard output is closed or the output is /dev/null, and the recovery key is shown only once"
                .into(),
        ));
    }
    let reply = client::post_empty::<RecoveryKeyResponse>(&common.admin_socket, "/v1/keys/recovery").await?;
    let RecoveryKeyResponse { recovery_key, in_force } = reply.body;
    if let Err(error) = deliver(common, output, &recovery_key) {
        note(NOT_IN_FORCE);
        return Err(error);
    }
    if !in_force {
        confirm(common, recovery_key).await?;
    }
    // On standard error, so that a file that standard output is redirected to contains only the key.
    if !common.json {
        note(STORE_NOTICE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the key, completely and to the disk where the output is a file. A person at a terminal has to type
/// a part of it.
fn deliver(common: &CommonArgs, output: &OutputArgs, key: &str) -> Result<(), CliError> {
    if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(CliError::Local("the daemon's response contains no recovery key".into()));
    }
    let line = match common.json {
        true => format!("{}\n", json!({ "recovery_key": key })),
        false => format!("{key}\n"),
    };
    output.write(Zeroizing::new(line).as_bytes(), 0o600)?;
    if output.is_file() {
        return Ok(());
    }
    sync_stdout()?;
    match !common.json && io::stdout().is_terminal() && prompt::is_interactive() {
        true => ask_for_first_group(key),
        false => Ok(()),
    }
}

fn ask_for_first_group(key: &str) -> Result<(), CliError> {
    let group = key.split('-').nth(1).unwrap_or_default();
    for _ in 0..MAX_ATTEMPTS {
        let answer = prompt::ask("Store the key now, then type its first group after hbr1: ")?;
        if answer.trim().eq_ignore_ascii_case(group) {
            return Ok(());
        }
        note("This is not the first group.");
    }
    Err(CliError::Local("the first group was not typed".into()))
}

/// Sends the key back. A repetition is harmless, and is made if the first reply was lost.
async fn confirm(common: &CommonArgs, recovery_key: Zeroizing<String>) -> Result<(), CliError> {
    let request = ConfirmRecoveryKeyRequest { recovery_key };
    let send = || client::post::<DoneResponse>(&common.admin_socket, "/v1/keys/recovery/confirm", &request);
    let confirmed = match send().await {
        Err(CliError::NoDaemon(_)) => send().await,
        confirmed => confirmed,
    };
    confirmed.map(drop).inspect_err(|error| match error {
        CliError::Refused(_) => note(NOT_IN_FORCE),
        _ => note(UNKNOWN),
    })
}
