//! `hostbadge key list|rotate`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::table::{KeyValueTable, print_columns, sanitize};
use super::{CliError, CommonArgs, client, print_json, prompt};

#[derive(Subcommand, Debug)]
pub enum KeySubcommand {
    /// The issuing keys and what happens to each next, and the keys that sign in the TPM
    List,
    /// Publish the next issuing key; it signs once relying parties have had their time to learn it
    Rotate {
        /// Let the next key sign at once. Relying parties that hold an uploaded key set refuse its tokens until they
        /// get the new one
        #[arg(long)]
        now: bool,
    },
    /// Make a recovery key: shown once, it opens this host's keys after a firmware update or on another TPM. One of
    /// before opens nothing any more
    Recovery,
    /// Open this host's keys with the recovery key (read from standard input), and seal them to this TPM as it is now
    Recover {
        /// Take the state directory as it is as well, even if it is not the latest of this host
        #[arg(long)]
        accept: bool,
    },
    /// Take the state directory as it is, after an older copy of it was put back on purpose
    Accept,
}

pub async fn run(common: &CommonArgs, subcommand: &KeySubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        KeySubcommand::List => list(common).await,
        KeySubcommand::Rotate { now } => rotate(common, *now).await,
        KeySubcommand::Recovery => recovery(common).await,
        KeySubcommand::Recover { accept } => recover(common, *accept).await,
        KeySubcommand::Accept => accept(common).await,
    }
}

async fn list(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let response = client::get(&common.admin_socket, "/v1/keys").await?;
    if common.json {
        return Ok(print_json(&response));
    }
    let rows: Vec<Vec<String>> = response["keys"].as_array().into_iter().flatten().map(row).collect();
    print_columns(&["KID", "ALG", "STATE", "SINCE", "NEXT", "AT"], &rows);
    if let Some(why) = response["blocked_reason"].as_str() {
        println!("A step that is due waits: {}", sanitize(why));
    }
    if let Some(why) = response["rsa_blocked_reason"].as_str() {
        println!("RS256 waits: {}", sanitize(why));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(key: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let next = &key["next"];
    [&key["kid"], &key["alg"], &key["state"], &key["since"], &next["step"], &next["at"]].map(text).to_vec()
}

async fn rotate(common: &CommonArgs, now: bool) -> Result<ExitCode, CliError> {
    let response = client::post(&common.admin_socket, "/v1/keys/rotate", &json!({ "now": now })).await?;
    if common.json {
        return Ok(print_json(&response));
    }
    let text = |name: &str| response[name].as_str().unwrap_or("unknown");
    let mut table = KeyValueTable::default();
    match text("outcome") {
        "activated" => {
            table.add("signs now", text("kid"));
            table.add("retired", text("retired"));
        }
        "already-published" => {
            table.add("published before", text("kid"));
            table.add("signs from", text("active_from"));
        }
        _ => {
            table.add("published", text("kid"));
            table.add("signs from", text("active_from"));
        }
    }
    table.print();
    println!("{}", if now { ROTATED_NOW_NOTICE } else { ROTATION_NOTICE });
    Ok(ExitCode::SUCCESS)
}

const ROTATED_NOW_NOTICE: &str = "Relying parties that hold an uploaded key set refuse the tokens of the key that signs now until \
                       they get the new set: hostbadge export jwks";
const ROTATION_NOTICE: &str =
    "Give relying parties that hold an uploaded key set the new one before then: hostbadge export jwks";

async fn recovery(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let response = client::post(&common.admin_socket, "/v1/keys/recovery", &json!({})).await?;
    if common.json {
        return Ok(print_json(&response));
    }
    println!("{}", sanitize(response["recovery_key"].as_str().unwrap_or("unknown")));
    // Beside the key itself, so that a file that it is written to holds nothing else.
    eprintln!("{RECOVERY_KEY_NOTICE}");
    Ok(ExitCode::SUCCESS)
}

/// Also the first half of `hostbadge posture accept --recovery`.
pub async fn recover_keys(common: &CommonArgs, accept: bool) -> Result<(), CliError> {
    let key = prompt::read_recovery_key()?;
    client::post(
        &common.admin_socket,
        "/v1/keys/recover",
        &json!({ "recovery_key": key.trim(), "accept": accept }),
    )
    .await?;
    Ok(())
}

async fn recover(common: &CommonArgs, accept: bool) -> Result<ExitCode, CliError> {
    recover_keys(common, accept).await?;
    Ok(print_done(common, "The keys are open, and sealed to this TPM as it is now."))
}

async fn accept(common: &CommonArgs) -> Result<ExitCode, CliError> {
    client::post(&common.admin_socket, "/v1/keys/accept", &json!({})).await?;
    Ok(print_done(
        common,
        "The state directory is taken as it is. Keys that were retired since may sign again: hostbadge key rotate --now",
    ))
}

fn print_done(common: &CommonArgs, text: &str) -> ExitCode {
    if common.json {
        return print_json(&json!({ "done": true }));
    }
    println!("{text}");
    ExitCode::SUCCESS
}

const RECOVERY_KEY_NOTICE: &str =
    "This is shown once. Keep it where this host's disk cannot be read: whoever has both has its keys.";
