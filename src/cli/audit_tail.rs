//! `hostbadge audit tail`.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::audit_filters::FilterArgs;
use super::audit_text::print_page;
use super::audit_unreadable::Unreadable;
use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::output::note;
use crate::wire::admin::{AuditResponse, MAX_AUDIT_RECORDS};
use crate::wire::status::StatusResponse;

/// Interval at which `--follow` asks for new records, and for a daemon that does not respond.
pub(super) const FOLLOW_INTERVAL: Duration = Duration::from_millis(300);
/// Records that are printed unless `--lines` says otherwise.
const DEFAULT_LINES: u16 = 20;

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

    #[command(flatten)]
    filters: FilterArgs,
}

pub(super) async fn run(common: &CommonArgs, args: &TailArgs) -> Result<ExitCode, CliError> {
    let default = if args.filters.has_since() { MAX_AUDIT_RECORDS } else { DEFAULT_LINES };
    let wanted = args.lines.unwrap_or(default);
    let mut unreadable = Unreadable::default();
    let (last_seq, has_earlier) = print_last(common, &args.filters, wanted.into(), &mut unreadable).await?;
    if let Some(count) = has_earlier.filter(|_| args.filters.has_since() && args.lines.is_none()) {
        note(format_args!("hostbadge: there are earlier records too: only the last {count} are printed"));
    }
    if args.follow {
        follow(common, args, last_seq, &mut unreadable).await?;
    }
    Ok(unreadable.finish(ExitCode::SUCCESS))
}

/// Prints the last `wanted` matching records. Returns the number of the log's last one, and how many records were printed
/// where there are earlier ones too.
pub(super) async fn print_last(
    common: &CommonArgs,
    filters: &FilterArgs,
    wanted: usize,
    unreadable: &mut Unreadable,
) -> Result<(u64, Option<usize>), CliError> {
    let mut pages: VecDeque<AuditResponse> = VecDeque::new();
    let (mut count, mut last_seq, mut start) = (0, 0, String::new());
    let mut has_more = true;
    while has_more && count < wanted {
        let limit = (wanted - count).min(MAX_AUDIT_RECORDS.into());
        let path = filters.path(&format!("limit={limit}{start}"));
        let page = client::get::<AuditResponse>(&common.admin_socket, &path).await?.body;
        last_seq = last_seq.max(page.last.unwrap_or_default());
        start = format!("&before={}", page.first.unwrap_or_default());
        has_more = page.more && page.first.is_some();
        count += page.records.len();
        if !page.records.is_empty() || !page.missing.is_empty() || !page.unreadable.is_empty() {
            pages.push_front(page);
        }
    }
    for page in &pages {
        print_page(common, page, unreadable)?;
    }
    Ok((last_seq, has_more.then_some(count)))
}

/// Prints the records after `last_seq` as they are written.
async fn follow(
    common: &CommonArgs,
    args: &TailArgs,
    mut last_seq: u64,
    unreadable: &mut Unreadable,
) -> Result<(), CliError> {
    let mut is_waiting = false;
    loop {
        let path = args.filters.path(&format!("limit={MAX_AUDIT_RECORDS}&after={last_seq}"));
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
        if is_waiting {
            // Another daemon answers, which can have another log.
            match client::get::<StatusResponse>(&common.admin_socket, "/v1/status").await {
                Ok(status) => check_end(status.body.audit.last_seq, last_seq)?,
                Err(error) if is_temporary(&error) => {
                    tokio::time::sleep(FOLLOW_INTERVAL).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            is_waiting = false;
        }
        last_seq = last_seq.max(page.last.unwrap_or_default());
        print_page(common, &page, unreadable)?;
        if !page.more {
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

/// Checks that the log, which ends with record `end`, has what was printed.
fn check_end(end: u64, printed: u64) -> Result<(), CliError> {
    if end >= printed {
        return Ok(());
    }
    Err(CliError::Local(format!(
        "the audit log ends with record {end}, before record {printed}, which was printed: it was replaced, or has \
         lost records"
    )))
}

/// Whether a later attempt can succeed: while the daemon restarts, or is asked too often.
pub(super) fn is_temporary(error: &CliError) -> bool {
    match error {
        CliError::NoDaemon(_) | CliError::Unavailable(_) => true,
        CliError::Refused(response) => response.error == "slow_down",
        CliError::Local(_) | CliError::File(..) | CliError::Output(_) => false,
    }
}
