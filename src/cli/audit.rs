//! `hostbadge audit tail|lifecycle|prove`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use super::audit_lifecycle;
use super::audit_prove;
use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::format::format_peer;
use super::output::{note, print_line};
use crate::clock::{Clock, Timestamp};
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::wire::admin::{AuditRecord, AuditResponse, MAX_AUDIT_RECORDS};

/// Interval at which `--follow` asks for new records, and for a daemon that does not respond.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(300);
/// Records that are printed unless `--lines` says otherwise.
const DEFAULT_LINES: u16 = 20;

#[derive(Subcommand, Debug)]
pub(super) enum AuditSubcommand {
    /// Print the last records of the audit log
    Tail(TailArgs),
    /// Name agents, units and grants that may have to be ended or completed; exit status 1 if there is something
    #[command(after_long_help = audit_lifecycle::KINDS)]
    Lifecycle(audit_lifecycle::LifecycleArgs),
    /// Prove that one record is in the log, without showing the others: the record, an inclusion proof and the
    /// checkpoint, in the form of c2sp.org/tlog-proof
    ///
    /// A leaf of the tree is the SHA-256 digest of a record's line. The proof is made from the files of the log, so that
    /// the daemon is not asked.
    Prove(audit_prove::ProveArgs),
}

#[derive(Args, Debug)]
pub(super) struct TailArgs {
    /// Number of records [default: 20; with --since, 1000]
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_AUDIT_RECORDS)))]
    lines: Option<u16>,

    /// Print further records as they are written, until interrupted
    ///
    /// No record is left out, also while the log's file changes and the daemon restarts. Where records that
    /// were not printed yet are no longer in the log, standard error names their numbers.
    #[arg(long, short, conflicts_with = "until")]
    follow: bool,

    /// Only records about this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,

    /// Only records about this tenant: its agents, credentials and keys
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,

    /// Only records of this event, such as token-issued or request-refused
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,

    /// Only records about the token with this identifier
    #[arg(long, value_name = "JTI")]
    jti: Option<String>,

    /// Only records from this time on: a time in UTC, such as 2026-11-26T10:00:00Z, or an age, such as 2h
    ///
    /// The search ends at the first record that is more than an hour older, so records that were made with a
    /// clock that was wrong by more are not found.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,

    /// Only records up to this time, as in --since
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
}

pub(super) async fn run(common: &CommonArgs, subcommand: &AuditSubcommand) -> Result<ExitCode, CliError> {
    let args = match subcommand {
        AuditSubcommand::Tail(args) => args,
        AuditSubcommand::Lifecycle(args) => return audit_lifecycle::run(common, args).await,
        AuditSubcommand::Prove(args) => return audit_prove::run(common, args),
    };
    let last_seq = print_last(common, args).await?;
    if args.follow {
        follow(common, args, last_seq).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the last matching records, and returns the number of the log's last one.
async fn print_last(common: &CommonArgs, args: &TailArgs) -> Result<u64, CliError> {
    let default = if args.since.is_some() { MAX_AUDIT_RECORDS } else { DEFAULT_LINES };
    let wanted = usize::from(args.lines.unwrap_or(default));
    let mut pages: VecDeque<AuditResponse> = VecDeque::new();
    let (mut count, mut last_seq, mut start) = (0, 0, String::new());
    let mut has_more = true;
    while has_more && count < wanted {
        let path = args.path(&format!("limit={}{start}", wanted - count));
        let page = client::get::<AuditResponse>(&common.admin_socket, &path).await?.body;
        last_seq = last_seq.max(page.last.unwrap_or_default());
        start = format!("&before={}", page.first.unwrap_or_default());
        has_more = page.more && page.first.is_some();
        count += page.records.len();
        if !page.records.is_empty() || !page.missing.is_empty() {
            pages.push_front(page);
        }
    }
    for page in &pages {
        print(common, page)?;
    }
    if has_more && args.since.is_some() && args.lines.is_none() {
        note(format_args!("hostbadge: there are earlier records too: only the last {count} are printed"));
    }
    Ok(last_seq)
}

/// Prints the records after `last_seq` as they are written.
async fn follow(common: &CommonArgs, args: &TailArgs, mut last_seq: u64) -> Result<(), CliError> {
    let mut is_waiting = false;
    loop {
        let path = args.path(&format!("limit={MAX_AUDIT_RECORDS}&after={last_seq}"));
        let page = match client::get::<AuditResponse>(&common.admin_socket, &path).await {
            Ok(reply) => reply.body,
            Err(error) if is_temporary(&error) => {
                if !is_waiting {
                    note(format_args!(
                        "{error}\nhostbadge: waiting; the records continue after number {last_seq}"
                    ));
                }
                is_waiting = true;
                tokio::time::sleep(FOLLOW_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        is_waiting = false;
        last_seq = last_seq.max(page.last.unwrap_or_default());
        print(common, &page)?;
        if !page.more {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

/// Whether a later attempt can succeed: while the daemon restarts, or is asked too often.
fn is_temporary(error: &CliError) -> bool {
    match error {
        CliError::NoDaemon(_) | CliError::Unavailable(_) => true,
        CliError::Refused(response) => response.error == "slow_down",
        CliError::Local(_) | CliError::File(..) | CliError::Output(_) => false,
    }
}

/// Prints the records of a page, and says which numbers the log does not have.
fn print(common: &CommonArgs, page: &AuditResponse) -> Result<(), CliError> {
    let mut missing = page.missing.iter().peekable();
    for line in &page.records {
        let record: AuditRecord = serde_json::from_str(line.get())
            .map_err(|e| CliError::Local(format!("cannot parse an audit record: {e}")))?;
        while let Some(range) = missing.next_if(|range| range.from < record.seq) {
            print_missing(range.from, range.to);
        }
        if common.json {
            print_line(line)?;
        } else {
            print_line(escape_unprintable(&format_record(&record)))?;
        }
    }
    missing.for_each(|range| print_missing(range.from, range.to));
    Ok(())
}

fn print_missing(from: u64, to: u64) {
    note(format_args!(
        "hostbadge: left out: {}, which the audit log does not have: numbers {from} to {to}",
        counted(to - from + 1, "record")
    ));
}

impl TailArgs {
    /// The target of a request with these filters.
    fn path(&self, start: &str) -> String {
        let mut path = format!("/v1/audit?{start}");
        let (since, until) = (self.since.map(|t| t.to_string()), self.until.map(|t| t.to_string()));
        let filters = [
            ("agent", &self.agent),
            ("tenant", &self.tenant),
            ("event", &self.event),
            ("jti", &self.jti),
            ("since", &since),
            ("until", &until),
        ];
        for (name, value) in filters {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _ = write!(path, "&{name}={}", percent_encode(value));
            }
        }
        path
    }
}

/// Encodes all but unreserved characters (RFC 3986 section 2.3).
fn percent_encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A time of RFC 3339 in UTC, or an age.
fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        return Ok(Timestamp::from_secs(Clock::System.now().as_secs().saturating_sub(age.as_secs())));
    }
    Timestamp::deserialize(Value::from(text))
        .map_err(|_| "give a time in UTC, such as 2026-11-26T10:00:00Z, or an age, such as 2h".to_owned())
}

/// A record in one line.
fn format_record(record: &AuditRecord) -> String {
    let mut parts = vec![record.seq.to_string(), record.time.to_string(), record.event.clone()];
    parts.extend(record.agent.clone());
    let members = [
        ("tenant", &record.tenant),
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
