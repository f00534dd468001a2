//! `hostbadge audit query`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::audit_filters::FilterArgs;
use super::audit_tail::print_last;
use super::audit_text::print_records;
use super::audit_unreadable::{Unreadable, as_in_responses};
use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::output::note;
use crate::audit::{FoundRecords, IndexUse, search_last};
use crate::wire::admin::MissingRecords;
use crate::wire::status::StatusResponse;

/// Most records of one search.
const MAX_LINES: i64 = 100_000;

/// What the manual page says of the index.
pub(super) const INDEX_HELP: &str = "\
The command reads the log's files itself where the caller may (as root), and keeps an index beside each file of the \
log: N.index of N.jsonl, about 4 % of its size. The index says only where to look: each record is read from the log \
and compared again, and what the index does not describe is read too. It is made again where it is missing, damaged, \
older than its file or of another version, and can be removed at any time. It is not kept where the disk would have \
less than 128 MiB left. Members of the admin group, who may not \
read the files, get the same records from the daemon, without the index and therefore more slowly in a large log.

The records are those that are in the files. Whether these were changed is checked by verifying the log. Lines that \
are not records are named on standard error and left out, and the exit status is 1 then.

The daemon gives at most 1000 records and 2 MiB of them in one response; the command asks for as many as it needs.";

#[derive(Args, Debug)]
pub(super) struct QueryArgs {
    /// Number of records, the latest that match
    #[arg(long, short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=MAX_LINES))]
    lines: u32,

    #[command(flatten)]
    filters: FilterArgs,

    /// Search the log in this directory, such as a copy, without a daemon
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Neither use an index nor make one: read everything that the times do not exclude
    #[arg(long)]
    no_index: bool,
}

pub(super) async fn run(common: &CommonArgs, args: &QueryArgs) -> Result<ExitCode, CliError> {
    let query = args.filters.query()?;
    let wanted = args.lines as usize;
    let dir = readable_dir(common, args.dir.as_deref()).await?;
    let mut unreadable = Unreadable::new(dir.clone());
    let has_earlier = match dir {
        Some(dir) => {
            let by = if args.no_index { IndexUse::None } else { IndexUse::Beside };
            let found = tokio::task::spawn_blocking(move || search_last(&dir, &query, wanted, by));
            let found = found.await.map_err(CliError::local)?.map_err(CliError::local)?;
            print_found(common, &found, &mut unreadable)?
        }
        None => print_last(common, &args.filters, wanted, &mut unreadable).await?.1,
    };
    if let Some(count) = has_earlier {
        note(format_args!(
            "hostbadge: there may be earlier records too: only the last {count} are printed; see --lines"
        ));
    }
    Ok(unreadable.finish(ExitCode::SUCCESS))
}

/// The directory of the log, if this process may read it: the given one, else the daemon's.
pub(super) async fn readable_dir(
    common: &CommonArgs,
    given: Option<&Path>,
) -> Result<Option<PathBuf>, CliError> {
    if let Some(dir) = given {
        return Ok(Some(dir.to_owned()));
    }
    let status = client::get::<StatusResponse>(&common.admin_socket, "/v1/status").await?.body;
    Ok(status.audit.directory.map(PathBuf::from).filter(|dir| fs::read_dir(dir).is_ok()))
}

/// Prints the records. Returns how many they are where there are earlier ones.
fn print_found(
    common: &CommonArgs,
    found: &FoundRecords,
    unreadable: &mut Unreadable,
) -> Result<Option<usize>, CliError> {
    unreadable.note_lines(&as_in_responses(&found.unreadable));
    let missing = MissingRecords::from_ranges(found.missing.iter().map(|range| (range.from, range.to)));
    print_records(common, found.lines.iter().map(|line| &**line), &missing, unreadable)?;
    Ok(found.has_more.then_some(found.lines.len()))
}
