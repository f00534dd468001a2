//! `hostbadge status`.

use std::process::ExitCode;

use serde_json::Value;

use super::table::Lines;
use super::{Common, Failure, agent, client, print_json};

/// Exit status of a daemon that is up but cannot do all that it is for.
const DEGRADED: u8 = 4;

pub async fn run(common: &Common) -> Result<ExitCode, Failure> {
    let answer = client::get(&common.admin_socket, "/v1/status").await?;
    let code = if answer["status"] == "ok" { ExitCode::SUCCESS } else { ExitCode::from(DEGRADED) };
    if common.json {
        print_json(&answer);
        return Ok(code);
    }
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let mut lines = Lines::default();
    lines.add("status", text(&answer["status"]));
    if let Some(trouble) = answer["trouble"].as_str() {
        lines.add("trouble", trouble);
    }
    lines.add(
        "daemon",
        format!("{}, pid {}, since {}", text(&answer["version"]), answer["pid"], text(&answer["started"])),
    );
    let host = &answer["host"];
    lines.add("host", text(&host["id"]));
    lines.add("trust domain", text(&host["trust_domain"]));
    lines.add("issuer", text(&host["issuer"]));
    for line in tpm(&answer["tpm"]) {
        lines.add("TPM", line);
    }
    let certificate = &answer["certificate"];
    if certificate.is_object() {
        lines.add(
            "certificate",
            format!(
                "{} by {}, until {}",
                text(&certificate["subject"]),
                text(&certificate["issuer"]),
                text(&certificate["not_after"])
            ),
        );
    }
    let ca = &answer["ca"];
    lines.add("CA", format!("issues certificates until {}", text(&ca["issues_until"])));
    if let Some(why) = ca["waits"].as_str() {
        lines.add("CA", format!("waits: {why}"));
    }
    match answer["posture_why"].as_str() {
        Some(why) => lines.add("posture", format!("{}: {why}", text(&answer["posture"]))),
        None => lines.add("posture", text(&answer["posture"])),
    };
    for line in seal(&answer["seal"]) {
        lines.add("seal", line);
    }
    for key in answer["keys"].as_array().into_iter().flatten() {
        let since = key["since"].as_str().map(|since| format!(", since {since}")).unwrap_or_default();
        lines.add(
            "key",
            format!("{} {}, {}{since}", text(&key["alg"]), text(&key["kid"]), text(&key["state"])),
        );
    }
    if let Some(why) = answer["rsa_waits"].as_str() {
        lines.add("RS256", why);
    }
    let agents = &answer["agents"];
    lines.add("agents", format!("{}, read {}", agents["agents"], text(&agents["at"])));
    for fault in agents["faults"].as_array().into_iter().flatten() {
        lines.add("fault", agent::fault(fault));
    }
    let federation = &answer["federation"];
    let domains: Vec<String> =
        federation["trust_domains"].as_array().into_iter().flatten().map(text).collect();
    if !domains.is_empty() {
        lines.add("federation", domains.join(", "));
    }
    for fault in federation["faults"].as_array().into_iter().flatten() {
        lines.add("fault", agent::fault(fault));
    }
    let audit = &answer["audit"];
    match audit["problem"].as_str() {
        Some(problem) => {
            lines.add("audit", format!("cannot be written: {problem}; nothing is issued until it can"))
        }
        None => lines.add("audit", format!("{} lines", audit["last"])),
    };
    let journal = &answer["journal"];
    let dropped = match journal["dropped"].as_u64() {
        Some(0) | None => String::new(),
        Some(n) => format!(", {n} entries dropped"),
    };
    lines.add("journal", text(&journal["to"]) + &dropped);
    lines.add("connections", answer["connections"].to_string());
    lines.print();
    Ok(code)
}

fn seal(seal: &Value) -> Vec<String> {
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
    if seal["waiting"].as_array().is_some_and(|waiting| !waiting.is_empty()) {
        lines.push(format!("to PCRs {} once there is a recovery key", numbers(&seal["waiting"])));
    }
    lines
}

fn tpm(tpm: &Value) -> Vec<String> {
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
    if let Some(waiting) = tpm["waiting"].as_u64().filter(|waiting| *waiting > 0) {
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
