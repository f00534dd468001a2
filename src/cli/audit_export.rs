//! `hostbadge audit export`: records as OCSF events or OpenTelemetry logs, to a file, standard output or a collector.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::value::RawValue;

use super::audit_cursor::Cursor;
use super::audit_filters::FilterArgs;
use super::audit_query::readable_dir;
use super::audit_sink::{Delivery, Sink};
use super::audit_tail::{FOLLOW_INTERVAL, is_temporary};
use super::audit_text::print_missing;
use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use super::output::note;
use crate::audit::{AuditQuery, PageStart, read_page};
use crate::config::{escape_unprintable, escape_unprintable_json};
use crate::export::{ExportedHost, ocsf_event, otlp_request};
use crate::wire::admin::{AuditResponse, MAX_AUDIT_RECORDS};

/// Records that are sent or written at once. It is all that the command keeps in memory of what is not delivered.
const BATCH: usize = 500;
/// Bytes of records that are sent or written at once; one record at least.
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// How long a collector that takes nothing is tried, without `--follow`.
const RETRY_TIME: Duration = Duration::from_secs(60);
/// The first pause after a failed delivery; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// What the manual page says of the formats.
pub(super) const FORMATS_HELP: &str = "\
Formats:
  ocsf  one event of OCSF 1.8.0 a line: Authentication for tokens and certificates and their refusals, API Activity for
        other requests, Entity Management for changes, Application Lifecycle for the daemon's start and stop, Base Event
        for everything else
  otlp  OTLP in JSON, one ExportLogsServiceRequest a line, as the OpenTelemetry Collector's file exporter writes and
        its file receiver reads them
  json  the records as they are in the log

Each event and each log record has the line of the audit log in it (raw_data, log.record.original), so that the \
receiver can verify the chain.

With --cursor the command writes the number of the last record that was delivered into FILE, and continues after it \
the next time. What was delivered but not yet noted is delivered again; nothing is left out. A collector that is \
stalled or refuses is tried again, after 10 s without an answer and with growing pauses up to 30 s: for a minute, with \
--follow until it answers. Meanwhile the records stay in the audit log, and the command holds at most 500 of them.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Ocsf,
    Otlp,
    Json,
}

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// Format of the records
    #[arg(long, value_enum)]
    format: Format,

    /// Append to FILE instead of standard output; it is created with mode 0600
    #[arg(long, short, value_name = "FILE", conflicts_with = "to")]
    output: Option<PathBuf>,

    /// Send to a collector over OTLP/HTTP at this Unix socket (POST /v1/logs), as a path or unix:///PATH
    #[arg(long, value_name = "SOCKET", value_parser = super::common::socket_path())]
    to: Option<PathBuf>,

    /// Continue after the record whose number is in FILE, and keep it there
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,

    /// Export further records as they are written, until interrupted
    #[arg(long, short, conflicts_with = "until")]
    follow: bool,

    /// Read the log in this directory, such as a copy, without a daemon
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Name of the host whose log it is [default: this host; with --dir none]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    #[command(flatten)]
    filters: FilterArgs,
}

pub(super) async fn run(common: &CommonArgs, args: &ExportArgs) -> Result<ExitCode, CliError> {
    if args.to.is_some() && args.format != Format::Otlp {
        return Err(CliError::Local("a collector takes --format otlp".to_owned()));
    }
    let mut cursor = args.cursor.as_deref().map(Cursor::open).transpose()?;
    let mut exporter = Exporter {
        source: Source {
            common,
            filters: &args.filters,
            dir: readable_dir(common, args.dir.as_deref()).await?,
        },
        sink: Sink::open(args.to.as_deref(), args.output.as_deref())?,
        format: args.format,
        host: ExportedHost { name: host_name(args) },
        follow: args.follow,
    };
    let mut after = cursor.as_ref().map_or(0, Cursor::seq);
    let mut is_waiting = false;
    loop {
        let page = match exporter.source.page(after).await {
            Ok(page) => page,
            Err(error) if args.follow && is_temporary(&error) => {
                if !is_waiting {
                    note(format_args!(
                        "{error}\nhostbadge: waiting; the records continue after number {after}"
                    ));
                }
                is_waiting = true;
                tokio::time::sleep(FOLLOW_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        is_waiting = false;
        for range in &page.missing {
            print_missing(range.from, range.to);
        }
        let delivered = exporter.deliver(&page.records, cursor.as_mut()).await;
        delivered?;
        // What was examined and does not match need not be looked at again.
        if let (Some(last), Some(cursor)) = (page.last, cursor.as_mut()) {
            cursor.advance(last)?;
        }
        after = after.max(page.last.unwrap_or_default());
        if page.more {
            continue;
        }
        if !args.follow {
            return exporter.sink.finish();
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

fn host_name(args: &ExportArgs) -> Option<String> {
    let own = || {
        let name = std::fs::read_to_string(HOST_NAME_FILE).ok()?;
        Some(name.trim_end().to_owned()).filter(|name| !name.is_empty())
    };
    args.host.clone().or_else(|| own().filter(|_| args.dir.is_none()))
}

/// Where the records come from.
struct Source<'a> {
    common: &'a CommonArgs,
    filters: &'a FilterArgs,
    /// The directory of the log, where this process may read it.
    dir: Option<PathBuf>,
}

impl Source<'_> {
    /// The records after a number, as many as fit a page.
    async fn page(&self, after: u64) -> Result<AuditResponse, CliError> {
        let Some(dir) = self.dir.clone() else {
            let path = self.filters.path(&format!("limit={MAX_AUDIT_RECORDS}&after={after}"));
            return Ok(client::get(&self.common.admin_socket, &path).await?.body);
        };
        let query = AuditQuery { start: PageStart::After(after), ..self.filters.query()? };
        let read = tokio::task::spawn_blocking(move || read_page(&dir, &query, MAX_AUDIT_RECORDS.into()));
        let page = read.await.map_err(CliError::local)?.map_err(CliError::local)?;
        let missing = page.missing.iter();
        Ok(AuditResponse {
            records: page.records,
            first: page.first,
            last: page.last,
            more: page.has_more,
            missing: missing
                .map(|range| crate::wire::admin::MissingRecords { from: range.from, to: range.to })
                .collect(),
        })
    }
}

struct Exporter<'a> {
    source: Source<'a>,
    sink: Sink,
    format: Format,
    host: ExportedHost,
    follow: bool,
}

impl Exporter<'_> {
    /// Delivers records in batches, each of which is noted before the next one.
    async fn deliver(
        &mut self,
        records: &[Box<RawValue>],
        mut cursor: Option<&mut Cursor>,
    ) -> Result<(), CliError> {
        let mut rest = records;
        while !rest.is_empty() {
            let (batch, further) = rest.split_at(batch_len(rest));
            rest = further;
            let text = self.text(batch)?;
            self.deliver_batch(text).await?;
            let last = batch.last().and_then(|line| seq_of(line.get()));
            if let (Some(last), Some(cursor)) = (last, cursor.as_deref_mut()) {
                cursor.advance(last)?;
            }
        }
        Ok(())
    }

    /// The lines that are written, or the body that is sent.
    fn text(&self, batch: &[Box<RawValue>]) -> Result<Vec<u8>, CliError> {
        let lines = batch.iter().map(|line| line.get());
        let mut text = Vec::new();
        match self.format {
            Format::Json => lines.for_each(|line| push_line(&mut text, line)),
            Format::Ocsf => {
                for line in lines {
                    let event = ocsf_event(line, &self.host).map_err(CliError::local)?;
                    push_line(&mut text, &escape_unprintable_json(&event.to_string()));
                }
            }
            Format::Otlp => {
                let request = otlp_request(lines, &self.host).map_err(CliError::local)?;
                push_line(&mut text, &escape_unprintable_json(&request.to_string()));
            }
        }
        Ok(text)
    }

    /// Delivers one batch, as often as it takes.
    async fn deliver_batch(&mut self, text: Vec<u8>) -> Result<(), CliError> {
        let started = tokio::time::Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut is_told = false;
        loop {
            let problem = match self.sink.deliver(&text).await? {
                Delivery::Done => return Ok(()),
                Delivery::Later(problem) => problem,
            };
            if !self.follow && started.elapsed() + pause > RETRY_TIME {
                return Err(CliError::unavailable(format!("the collector takes no records: {problem}")));
            }
            if !is_told {
                note(format_args!(
                    "hostbadge: the collector takes no records, trying again: {}",
                    escape_unprintable(&problem)
                ));
            }
            is_told = true;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// How many records the next batch has.
fn batch_len(records: &[Box<RawValue>]) -> usize {
    let mut bytes = 0;
    let fitting = records.iter().take(BATCH).take_while(|line| {
        bytes += line.get().len();
        bytes <= MAX_BATCH_BYTES
    });
    fitting.count().max(1)
}

fn push_line(text: &mut Vec<u8>, line: &str) {
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
}

fn seq_of(line: &str) -> Option<u64> {
    super::audit_text::parse_record(line).ok().map(|record| record.seq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_number_and_bytes() {
        let of = |count: usize, length: usize| -> Vec<Box<RawValue>> {
            let text = format!("\"{}\"", "x".repeat(length));
            (0..count).map(|_| RawValue::from_string(text.clone()).unwrap()).collect()
        };
        assert_eq!(batch_len(&of(3, 10)), 3);
        assert_eq!(batch_len(&of(BATCH + 1, 10)), BATCH);
        assert_eq!(batch_len(&of(4, MAX_BATCH_BYTES / 3)), 2);
        assert_eq!(batch_len(&of(2, MAX_BATCH_BYTES + 1)), 1);
    }
}
