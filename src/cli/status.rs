//! `hostbadge status`.

use std::process::ExitCode;

use serde_json::Value;

use super::table::KeyValueTable;
use super::{CliError, CommonArgs, agent, client, print_json};

/// Exit status of a daemon that is up but cannot do all that it is for.
const EXIT_DEGRADED: u8 = 4;

pub async fn run(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let response = client::get(&common.admin_socket, "/v1/status").await?;
    let code = if response["status"] == "ok" { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DEGRADED) };
    if common.json {
        print_json(&response);
        return Ok(code);
    }
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let mut table = KeyValueTable::default();
    table.add("status", text(&response["status"]));
    if let Some(trouble) = response["issuer_blocked_reason"].as_str() {
        table.add("blocked", trouble);
    }
    table.add(
        "daemon",
        format!(
            "{}, pid {}, since {}",
            text(&response["version"]),
            response["pid"],
            text(&response["started"])
        ),
    );
    let host = &response["host"];
    table.add("host", text(&host["id"]));
    table.add("trust domain", text(&host["trust_domain"]));
    table.add("issuer", text(&host["issuer"]));
    for line in tpm_lines(&response["tpm"]) {
        table.add("TPM", line);
    }
    let certificate = &response["certificate"];
    if certificate.is_object() {
        table.add(
            "certificate",
            format!(
                "{} by {}, until {}",
                text(&certificate["subject"]),
                text(&certificate["issuer"]),
                text(&certificate["not_after"])
            ),
        );
    }
    let ca = &response["ca"];
    table.add("CA", format!("issues certificates until {}", text(&ca["issues_until"])));
    if let Some(why) = ca["blocked_reason"].as_str() {
        table.add("CA", format!("waits: {why}"));
    }
    match response["posture_reason"].as_str() {
        Some(why) => table.add("posture", format!("{}: {why}", text(&response["posture"]))),
        None => table.add("posture", text(&response["posture"])),
    };
    for line in seal_lines(&response["seal"]) {
        table.add("seal", line);
    }
    for key in response["keys"].as_array().into_iter().flatten() {
        let since = key["since"].as_str().map(|since| format!(", since {since}")).unwrap_or_default();
        table.add(
            "key",
            format!("{} {}, {}{since}", text(&key["alg"]), text(&key["kid"]), text(&key["state"])),
        );
    }
    if let Some(why) = response["rsa_blocked_reason"].as_str() {
        table.add("RS256", why);
    }
    let agents = &response["agents"];
    table.add("agents", format!("{}, read {}", agents["agents"], text(&agents["at"])));
    for fault in agents["faults"].as_array().into_iter().flatten() {
        table.add("fault", agent::format_diagnostic(fault));
    }
    let federation = &response["federation"];
    let domains: Vec<String> =
        federation["trust_domains"].as_array().into_iter().flatten().map(text).collect();
    if !domains.is_empty() {
        table.add("federation", domains.join(", "));
    }
    for fault in federation["faults"].as_array().into_iter().flatten() {
        table.add("fault", agent::format_diagnostic(fault));
    }
    let audit = &response["audit"];
    match audit["problem"].as_str() {
        Some(problem) => {
            table.add("audit", format!("cannot be written: {problem}; nothing is issued until it can"))
        }
        None => table.add("audit", format!("{} lines", audit["last"])),
    };
    let journal = &response["journal"];
    let dropped = match journal["dropped"].as_u64() {
        Some(0) | None => String::new(),
        Some(n) => format!(", {n} entries dropped"),
    };
    table.add("journal", text(&journal["sink"]) + &dropped);
    table.add("connections", response["connections"].to_string());
    table.print();
    Ok(code)
}

fn seal_lines(seal: &Value) -> Vec<String> {
    let numbers = |list: &Value| {
        let numbers = list.as_array().into_iter().flatten().map(Value::to_string);
        numbers.collect::<Vec<_>>().join(", ")
    };
    if seal.is_null() {
        return Vec::new();
    }
    let mut lines = vec![match seal["pcrs"].as_array().is_some_and(|pcrs| !pcrs.is_empty()) {
        true => format!("to this TPM and its PCRs {}", numbers(&seal["pcrs"])),
        false => "to this TPM".to_owned(),
    }];
    match seal["recovery"].as_str() {
        Some(made) => lines[0] += &format!("; recovery key made {made}"),
        None => lines[0] += "; no recovery key (hostbadge key recovery)",
    }
    if seal["pending_pcrs"].as_array().is_some_and(|waiting| !waiting.is_empty()) {
        lines.push(format!("to PCRs {} once there is a recovery key", numbers(&seal["pending_pcrs"])));
    }
    lines
}

fn tpm_lines(tpm: &Value) -> Vec<String> {
    let text = |name: &str| tpm[name].as_str().unwrap_or_default().trim().to_owned();
    let mut lines = Vec::new();
    let mut state = text("state");
    if !text("detail").is_empty() {
        state += &format!(": {}", text("detail"));
    }
    lines.push(state);
    if text("state") != "ready" {
        lines.push(format!("mend: {}", text("remedy")));
    }
    if let Some(waiting) = tpm["waiting_to_sign"].as_u64().filter(|waiting| *waiting > 0) {
        lines.push(format!("{waiting} requests wait for it to sign"));
    }
    if !text("manufacturer").is_empty() {
        let certificate = if tpm["ek_certificate"] == true { "with" } else { "without" };
        lines.push(format!(
            "{}, {} {}, firmware {}, {certificate} an EK certificate",
            text("kind"),
            text("manufacturer"),
            text("vendor"),
            text("firmware")
        ));
    }
    if !text("ak_name").is_empty() {
        lines.push(format!("attestation key {}", text("ak_name")));
    }
    lines
}
