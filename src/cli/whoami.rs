//! `hostbadge whoami`.

use std::process::ExitCode;

use serde_json::Value;

use super::table::KeyValueTable;
use super::{CliError, CommonArgs, client, print_json};

pub async fn run(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let response = client::get(&common.socket, "/v1/whoami").await?;
    if common.json {
        return Ok(print_json(&response));
    }
    let mut table = KeyValueTable::default();
    match response["agent"].as_str() {
        Some(agent) => {
            table.add("agent", agent);
        }
        None => {
            let names: Vec<&str> =
                response["agents"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            table.add("agents", format!("{} (name one with --agent)", names.join(", ")));
        }
    }
    if let Some(id) = response["spiffe_id"].as_str() {
        table.add("id", id);
    }
    let peer = &response["peer"];
    table.add("process", format_peer(peer));
    if let Some(digest) = peer["exe_sha256"].as_str() {
        table.add("sha256", digest);
    }
    let host = &response["host"];
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    table.add(
        "host",
        format!("{} ({} TPM, posture {})", text(&host["id"]), text(&host["tpm"]), text(&host["posture"])),
    );
    table.print();
    Ok(ExitCode::SUCCESS)
}

/// A peer in one line.
pub fn format_peer(peer: &Value) -> String {
    let mut text = format!("pid {}, uid {}, gid {}", peer["pid"], peer["uid"], peer["gid"]);
    if let Some(unit) = peer["unit"].as_str() {
        text += &format!(", unit {unit}");
    }
    match peer["exe"].as_str() {
        Some(exe) => text += &format!(", running {exe}"),
        None => text += ", executable not readable",
    }
    if peer["pinned"] == false {
        text += ", unpinned";
    }
    text
}
