//! `hostbadge audit tail`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::format::format_peer;
use super::output::print_line;
use crate::config::escape_unprintable;
use crate::wire::admin::{AuditRecord, AuditResponse, MAX_AUDIT_RECORDS};

/// Interval at which `--follow` asks for new records.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(300);

#[derive(Subcommand, Debug)]
pub(super) enum AuditSubcommand {
    /// Print the last records of the audit log
    Tail {
        /// Number of records
        #[arg(
            long,
            short = 'n',
            default_value_t = 20,
            value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_AUDIT_RECORDS))
        )]
        lines: u16,

        /// Print further records as they are written, until interrupted
        #[arg(long, short)]
        follow: bool,
    },
}

pub(super) async fn run(common: &CommonArgs, subcommand: &AuditSubcommand) -> Result<ExitCode, CliError> {
    let AuditSubcommand::Tail { lines, follow } = subcommand;
    let (mut last_seq, mut limit) = (0, *lines);
    loop {
        let path = format!("/v1/audit?after={last_seq}&limit={limit}");
        let reply = client::get::<AuditResponse>(&common.admin_socket, &path).await?;
        for line in reply.body {
            let record: AuditRecord = serde_json::from_str(line.get())
                .map_err(|e| CliError::Local(format!("cannot parse an audit record: {e}")))?;
            last_seq = record.seq;
            if common.json {
                print_line(&line)?;
            } else {
                print_line(escape_unprintable(&format_record(&record)))?;
            }
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        limit = MAX_AUDIT_RECORDS;
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

/// A record in one line.
fn format_record(record: &AuditRecord) -> String {
    let mut parts = vec![record.seq.to_string(), record.time.to_string(), record.event.clone()];
    parts.extend(record.agent.clone());
    let members = [
        ("reason", &record.reason),
        ("audience", &record.audience),
        ("scope", &record.scope),
        ("jti", &record.jti),
        ("detail", &record.detail),
    ];
    for (name, value) in members {
        parts.extend(
            value.as_ref().filter(|value| !value.is_empty()).map(|value| format!("{name}={value:?}")),
        );
    }
    parts.extend(record.peer.as_ref().map(|peer| format!("({})", format_peer(peer))));
    parts.join(" ")
}
