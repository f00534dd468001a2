//! `hostbadge key list|rotate`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::table::{Lines, columns, plain};
use super::{Common, Failure, client, paper, print_json};

#[derive(Subcommand, Debug)]
pub enum Verb {
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

pub async fn run(common: &Common, verb: &Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::List => list(common).await,
        Verb::Rotate { now } => rotate(common, *now).await,
        Verb::Recovery => recovery(common).await,
        Verb::Recover { accept } => recover(common, *accept).await,
        Verb::Accept => accept(common).await,
    }
}

async fn list(common: &Common) -> Result<ExitCode, Failure> {
    let answer = client::get(&common.admin_socket, "/v1/keys").await?;
    if common.json {
        return Ok(print_json(&answer));
    }
    let rows: Vec<Vec<String>> = answer["keys"].as_array().into_iter().flatten().map(row).collect();
    columns(&["KID", "ALG", "STATE", "SINCE", "NEXT", "AT"], &rows);
    if let Some(why) = answer["waits"].as_str() {
        println!("A step that is due waits: {}", plain(why));
    }
    if let Some(why) = answer["rsa_waits"].as_str() {
        println!("RS256 waits: {}", plain(why));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(key: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let next = &key["next"];
    [&key["kid"], &key["alg"], &key["state"], &key["since"], &next["step"], &next["at"]].map(text).to_vec()
}

async fn rotate(common: &Common, now: bool) -> Result<ExitCode, Failure> {
    let answer = client::post(&common.admin_socket, "/v1/keys/rotate", &json!({ "now": now })).await?;
    if common.json {
        return Ok(print_json(&answer));
    }
    let text = |name: &str| answer[name].as_str().unwrap_or("unknown");
    let mut lines = Lines::default();
    match text("did") {
        "activated" => {
            lines.add("signs now", text("kid"));
            lines.add("retired", text("retired"));
        }
        "nothing" => {
            lines.add("published before", text("kid"));
            lines.add("signs from", text("active_from"));
        }
        _ => {
            lines.add("published", text("kid"));
            lines.add("signs from", text("active_from"));
        }
    }
    lines.print();
    println!("{}", if now { UNKNOWN } else { LEARN });
    Ok(ExitCode::SUCCESS)
}

const UNKNOWN: &str = "Relying parties that hold an uploaded key set refuse the tokens of the key that signs now until \
                       they get the new set: hostbadge export jwks";
const LEARN: &str =
    "Give relying parties that hold an uploaded key set the new one before then: hostbadge export jwks";

async fn recovery(common: &Common) -> Result<ExitCode, Failure> {
    let answer = client::post(&common.admin_socket, "/v1/keys/recovery", &json!({})).await?;
    if common.json {
        return Ok(print_json(&answer));
    }
    println!("{}", plain(answer["recovery_key"].as_str().unwrap_or("unknown")));
    // Beside the key itself, so that a file that it is written to holds nothing else.
    eprintln!("{ONCE}");
    Ok(ExitCode::SUCCESS)
}

/// Also the first half of `hostbadge posture accept --recovery`.
pub async fn open_with_recovery(common: &Common, accept: bool) -> Result<(), Failure> {
    let key = paper::read_recovery_key()?;
    client::post(
        &common.admin_socket,
        "/v1/keys/recover",
        &json!({ "recovery_key": key.trim(), "accept": accept }),
    )
    .await?;
    Ok(())
}

async fn recover(common: &Common, accept: bool) -> Result<ExitCode, Failure> {
    open_with_recovery(common, accept).await?;
    Ok(done(common, "The keys are open, and sealed to this TPM as it is now."))
}

async fn accept(common: &Common) -> Result<ExitCode, Failure> {
    client::post(&common.admin_socket, "/v1/keys/accept", &json!({})).await?;
    Ok(done(
        common,
        "The state directory is taken as it is. Keys that were retired since may sign again: hostbadge key rotate --now",
    ))
}

fn done(common: &Common, text: &str) -> ExitCode {
    if common.json {
        return print_json(&json!({ "done": true }));
    }
    println!("{text}");
    ExitCode::SUCCESS
}

const ONCE: &str =
    "This is shown once. Keep it where this host's disk cannot be read: whoever has both has its keys.";
