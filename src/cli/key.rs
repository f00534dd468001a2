//! `hostbadge key list|rotate`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::table::{Lines, columns, plain};
use super::{Common, Failure, client, print_json};

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// The issuing keys, and what happens to each next
    List,
    /// Publish the next issuing key; it signs once relying parties have had their time to learn it
    Rotate {
        /// Let the next key sign at once. Relying parties that hold an uploaded key set refuse its tokens until they
        /// get the new one
        #[arg(long)]
        now: bool,
    },
}

pub async fn run(common: &Common, verb: &Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::List => list(common).await,
        Verb::Rotate { now } => rotate(common, *now).await,
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
