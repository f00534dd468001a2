//! `hostbadge posture show|accept|diff`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::table::{KeyValueTable, print_columns, sanitize};
use super::{CliError, CommonArgs, client, key, print_json};

#[derive(Subcommand, Debug)]
pub enum PostureSubcommand {
    /// The host's state now, and the baseline that it is compared with
    Show,
    /// Take the present state as the baseline. Look at what changed first: hostbadge posture diff
    Accept {
        /// First open this host's keys with the recovery key (read from standard input), and seal them to the present
        /// state: after an update that `[seal] pcrs` took notice of
        #[arg(long)]
        recovery: bool,
        /// The digest of the state that was looked at, by posture show or diff; another one is refused. Without it, the
        /// state is shown and accepted as shown
        #[arg(long, value_name = "D")]
        digest: Option<String>,
    },
    /// What changed against the baseline, in words where the boot's event log has them
    Diff,
}

pub async fn run(common: &CommonArgs, subcommand: &PostureSubcommand) -> Result<ExitCode, CliError> {
    let socket = &common.admin_socket;
    let response = match subcommand {
        PostureSubcommand::Show => client::get(socket, "/v1/posture").await?,
        PostureSubcommand::Accept { recovery: false, digest } => accept(common, digest.as_deref()).await?,
        PostureSubcommand::Accept { recovery: true, digest } => {
            key::recover_keys(common, false).await?;
            accept_once_unlocked(common, digest.as_deref()).await?
        }
        PostureSubcommand::Diff => client::get(socket, "/v1/posture/diff").await?,
    };
    match (common.json, subcommand) {
        (true, _) => return Ok(print_json(&response)),
        (false, PostureSubcommand::Diff) => print_diff(&response),
        (false, PostureSubcommand::Accept { digest: None, .. }) => print_summary(&response),
        (false, _) => print_state(&response),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is shown is what is accepted: should it be another meanwhile, the daemon refuses.
async fn accept(common: &CommonArgs, digest: Option<&str>) -> Result<Value, CliError> {
    let digest = match digest {
        Some(digest) => digest.to_owned(),
        None => {
            let state = client::get(&common.admin_socket, "/v1/posture").await?;
            let Some(digest) = state["reading"]["digest"].as_str() else {
                let why = state["error"].as_str().unwrap_or("nobody has looked at the host yet");
                let error = "temporarily_unavailable";
                return Err(CliError::Unavailable(json!({ "error": error, "error_description": why })));
            };
            if !common.json {
                print_state(&state);
                println!();
            }
            digest.to_owned()
        }
    };
    client::post(&common.admin_socket, "/v1/posture/accept", &json!({ "digest": digest })).await
}

/// The baseline is kept with the keys, which are being loaded.
async fn accept_once_unlocked(common: &CommonArgs, digest: Option<&str>) -> Result<Value, CliError> {
    for _ in 0..UNLOCK_POLL_ATTEMPTS {
        match accept(common, digest).await {
            Err(CliError::Unavailable(_)) => tokio::time::sleep(UNLOCK_POLL_INTERVAL).await,
            outcome => return outcome,
        }
    }
    accept(common, digest).await
}

/// How long keys that were opened may take to be in force: ten seconds.
const UNLOCK_POLL_INTERVAL: Duration = Duration::from_millis(250);
const UNLOCK_POLL_ATTEMPTS: u32 = 40;

fn print_state(response: &Value) {
    print_summary(response);
    let rows: Vec<Vec<String>> = response["compared"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|number| pcr_row(response, number))
        .collect();
    print_columns(&["PCR", "BASELINE", "NOW", ""], &rows);
}

fn print_summary(response: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let mut table = KeyValueTable::default();
    let why = response["reason"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    table.add("posture", text(&response["posture"]) + &why);
    table.add("mode", text(&response["mode"]));
    let baseline = &response["baseline"];
    match (baseline.is_object(), baseline["accepted"].is_object()) {
        (false, _) => table.add("baseline", "none"),
        (true, false) => {
            let when = text(&baseline["recorded"]);
            table.add("baseline", format!("recorded {when}, accepted by nobody: hostbadge posture accept"))
        }
        (true, true) => {
            let accepted = &baseline["accepted"];
            let (at, by) = (text(&accepted["at"]), text(&accepted["by"]));
            table.add("baseline", format!("accepted {at} by {by}"));
            table.add("digest", text(&accepted["digest"]))
        }
    };
    let now = &response["reading"];
    if let Some(age) = now["age"].as_f64() {
        table.add("read", format!("{} ({age:.0} s ago)", text(&now["at"])));
        table.add("digest now", text(&now["digest"]));
    }
    if let Some(trouble) = response["error"].as_str() {
        table.add("trouble", trouble);
    }
    let measured = &response["measured"];
    if let Some(count) = measured["lines"].as_u64() {
        let trouble = measured["error"].as_str().map(str::to_owned);
        table.add("measured", trouble.unwrap_or_else(|| format!("{count} lines of the IMA list are proven")));
    }
    table.print();
}

fn pcr_row(response: &Value, number: &Value) -> Vec<String> {
    let pcr = number.to_string();
    let value = |snapshot: &Value| snapshot["pcrs"][&pcr].as_str().unwrap_or("-").to_owned();
    let changed = response["changed"].as_array().is_some_and(|changed| changed.contains(number));
    let verdict = if changed { "changed" } else { "" };
    vec![pcr.clone(), value(&response["baseline"]), value(&response["reading"]), verdict.to_owned()]
}

fn print_diff(response: &Value) {
    let lines: Vec<&str> =
        response["changes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if lines.is_empty() {
        println!("Nothing changed against the baseline.");
    }
    for line in &lines {
        println!("{}", sanitize(line));
    }
    if let (false, Some(digest)) = (lines.is_empty(), response["digest"].as_str()) {
        println!("If that was you: hostbadge posture accept --digest {}", sanitize(digest));
    }
}
