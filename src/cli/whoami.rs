//! `hostbadge whoami`.

use std::process::ExitCode;

use serde_json::Value;

use super::table::Lines;
use super::{Common, Failure, client, print_json};

pub async fn run(common: &Common) -> Result<ExitCode, Failure> {
    let answer = client::get(&common.socket, "/v1/whoami").await?;
    if common.json {
        return Ok(print_json(&answer));
    }
    let mut lines = Lines::default();
    match answer["agent"].as_str() {
        Some(agent) => {
            lines.add("agent", agent);
        }
        None => {
            let names: Vec<&str> =
                answer["agents"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            lines.add("agents", format!("{} (name one with --agent)", names.join(", ")));
        }
    }
    if let Some(id) = answer["spiffe_id"].as_str() {
        lines.add("id", id);
    }
    let peer = &answer["peer"];
    lines.add("process", process(peer));
    if let Some(digest) = peer["exe_sha256"].as_str() {
        lines.add("sha256", digest);
    }
    let host = &answer["host"];
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    lines.add(
        "host",
        format!("{} ({} TPM, posture {})", text(&host["id"]), text(&host["tpm"]), text(&host["posture"])),
    );
    lines.print();
    Ok(ExitCode::SUCCESS)
}

/// A peer in one line.
pub fn process(peer: &Value) -> String {
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
