//! `hostbadge posture show|accept|diff`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::table::{Lines, columns, plain};
use super::{Common, Failure, client, key, print_json};

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// The host's state now, and the baseline that it is compared with
    Show,
    /// Take the present state as the baseline. Look at what changed first: hostbadge posture diff
    Accept {
        /// First open this host's keys with the recovery key (read from standard input), and seal them to the present
        /// state: after an update that `[seal] pcrs` took notice of
        #[arg(long)]
        recovery: bool,
    },
    /// What changed against the baseline, in words where the boot's event log has them
    Diff,
}

pub async fn run(common: &Common, verb: &Verb) -> Result<ExitCode, Failure> {
    let socket = &common.admin_socket;
    let answer = match verb {
        Verb::Show => client::get(socket, "/v1/posture").await?,
        Verb::Accept { recovery: false } => accept(common).await?,
        Verb::Accept { recovery: true } => {
            key::open_with_recovery(common, false).await?;
            accept_when_open(common).await?
        }
        Verb::Diff => client::get(socket, "/v1/posture/diff").await?,
    };
    match (common.json, verb) {
        (true, _) => return Ok(print_json(&answer)),
        (false, Verb::Diff) => diff(&answer),
        (false, _) => show(&answer),
    }
    Ok(ExitCode::SUCCESS)
}

async fn accept(common: &Common) -> Result<Value, Failure> {
    client::post(&common.admin_socket, "/v1/posture/accept", &json!({})).await
}

/// The baseline is kept with the keys, which are being loaded.
async fn accept_when_open(common: &Common) -> Result<Value, Failure> {
    for _ in 0..LOADING_TRIES {
        match accept(common).await {
            Err(Failure::NotNow(_)) => tokio::time::sleep(LOADING).await,
            outcome => return outcome,
        }
    }
    accept(common).await
}

/// How long keys that were opened may take to be in force: ten seconds.
const LOADING: Duration = Duration::from_millis(250);
const LOADING_TRIES: u32 = 40;

fn show(answer: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let mut lines = Lines::default();
    let why = answer["why"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    lines.add("posture", text(&answer["posture"]) + &why);
    lines.add("mode", text(&answer["mode"]));
    let baseline = &answer["baseline"];
    match (baseline.is_object(), baseline["accepted"].is_object()) {
        (false, _) => lines.add("baseline", "none"),
        (true, false) => {
            let when = text(&baseline["recorded"]);
            lines.add("baseline", format!("recorded {when}, accepted by nobody: hostbadge posture accept"))
        }
        (true, true) => {
            let accepted = &baseline["accepted"];
            let (at, by) = (text(&accepted["at"]), text(&accepted["by"]));
            lines.add("baseline", format!("accepted {at} by {by}"));
            lines.add("digest", text(&accepted["digest"]))
        }
    };
    let now = &answer["now"];
    if let Some(age) = now["age"].as_f64() {
        lines.add("read", format!("{} ({age:.0} s ago)", text(&now["at"])));
    }
    if let Some(trouble) = answer["trouble"].as_str() {
        lines.add("trouble", trouble);
    }
    let measured = &answer["measured"];
    if let Some(count) = measured["lines"].as_u64() {
        let trouble = measured["trouble"].as_str().map(str::to_owned);
        lines.add("measured", trouble.unwrap_or_else(|| format!("{count} lines of the IMA list are proven")));
    }
    lines.print();
    let rows: Vec<Vec<String>> =
        answer["compared"].as_array().into_iter().flatten().map(|number| row(answer, number)).collect();
    columns(&["PCR", "BASELINE", "NOW", ""], &rows);
}

fn row(answer: &Value, number: &Value) -> Vec<String> {
    let key = number.to_string();
    let value = |of: &Value| of["pcrs"][&key].as_str().unwrap_or("-").to_owned();
    let changed = answer["changed"].as_array().is_some_and(|changed| changed.contains(number));
    let verdict = if changed { "changed" } else { "" };
    vec![key.clone(), value(&answer["baseline"]), value(&answer["now"]), verdict.to_owned()]
}

fn diff(answer: &Value) {
    let lines: Vec<&str> =
        answer["changes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if lines.is_empty() {
        println!("Nothing changed against the baseline.");
    }
    for line in lines {
        println!("{}", plain(line));
    }
}
