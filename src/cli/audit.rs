//! `hostbadge audit tail`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::table::sanitize;
use super::{CliError, CommonArgs, client, whoami};

#[derive(Subcommand, Debug)]
pub enum AuditSubcommand {
    /// The last lines of the record
    Tail {
        /// How many lines
        #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        lines: u16,

        /// Go on as lines are added, until interrupted
        #[arg(long, short)]
        follow: bool,
    },
}

pub async fn run(common: &CommonArgs, subcommand: &AuditSubcommand) -> Result<ExitCode, CliError> {
    let AuditSubcommand::Tail { lines, follow } = subcommand;
    let mut last = 0;
    let mut limit = *lines;
    loop {
        let path = format!("/v1/audit?after={last}&limit={limit}");
        let response = client::get(&common.admin_socket, &path).await?;
        for line in response.as_array().into_iter().flatten() {
            last = line["seq"].as_u64().unwrap_or(last);
            if common.json { println!("{line}") } else { println!("{}", sanitize(&format_record(line))) }
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        limit = 1000;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// A line of the log for people.
fn format_record(line: &Value) -> String {
    let text = |name: &str| line[name].as_str();
    let mut parts = vec![
        line["seq"].to_string(),
        text("time").unwrap_or_default().to_owned(),
        text("event").unwrap_or_default().to_owned(),
    ];
    parts.extend(text("agent").map(str::to_owned));
    for name in ["reason", "audience", "scope", "jti", "detail"] {
        parts.extend(text(name).filter(|value| !value.is_empty()).map(|value| format!("{name}={value:?}")));
    }
    if line["peer"].is_object() {
        parts.push(format!("({})", whoami::format_peer(&line["peer"])));
    }
    parts.join(" ")
}
