//! `hostbadge audit export`: records as OCSF events or OpenTelemetry logs, to a file, standard output or a collector.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;
use serde_json::value::RawValue;

use super::audit_cursor::Cursor;
use super::audit_filters::FilterArgs;
use super::audit_query::readable_dir;
use super::audit_sink::{Delivery, Sink};
use super::audit_source::Source;
use super::audit_tail::{FOLLOW_INTERVAL, is_temporary};
use super::audit_text::{parse_record, print_missing};
use super::audit_unreadable::{Unreadable, seq_of};
use super::common::CommonArgs;
use super::error::CliError;
use super::output::note;
use crate::config::{escape_unprintable, escape_unprintable_json};
use crate::export::{ExportedHost, ocsf_event, otlp_request};

/// Records that are sent or written at once. A page of them, of at most 1000 and 2 MiB, is kept in memory.
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
        other requests, Detection Finding for anomalies, Entity Management for changes, Application Lifecycle for the
        daemon's start and stop, Base Event for everything else
  otlp  OTLP in JSON, one ExportLogsServiceRequest a line, as the OpenTelemetry Collector's file exporter writes and
        its file receiver reads them
  json  the records as they are in the log

Each event and each log record has the line of the audit log in it (raw_data, log.record.original), so that the \
receiver can verify the chain.

With --cursor the command writes the number of the last record that was delivered into FILE, and continues after it \
the next time. What was delivered to a collector but not yet noted is delivered again; nothing is left out. At the end \
of an output file, half a line that a power loss has left is removed, and what is there is not written again. A cursor \
beyond the end of the log is an error. A collector that is \
stalled or refuses is tried again, after 10 s without an answer and with growing pauses up to 30 s: for a minute, with \
--follow until it answers. Meanwhile the records stay in the audit log, and the command holds one page of at most 1000 \
records and 2 MiB, of which it sends 500 and 1 MiB at once.

Lines that are not records, such as damaged ones, are named on standard error with file and number and left out. The \
exit status is 1 then.";

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
    let dir = readable_dir(common, args.dir.as_deref()).await?;
    let mut exporter = Exporter {
        unreadable: Unreadable::new(dir.clone()),
        source: Source { common, filters: &args.filters, is_copy: args.dir.is_some(), dir },
        sink: Sink::open(args.to.as_deref(), args.output.as_deref())?,
        format: args.format,
        host: ExportedHost { name: host_name(args) },
        follow: args.follow,
    };
    if let Some(cursor) = cursor.as_mut() {
        cursor.check_within(exporter.source.last_seq().await?)?;
        exporter.continue_file(cursor).await?;
    }
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
        if let Some(cursor) = cursor.as_ref().filter(|_| is_waiting) {
            // Another daemon answers, which can have another log.
            match exporter.source.last_seq().await {
                Ok(last) => cursor.check_within(last)?,
                Err(error) if is_temporary(&error) => {
                    tokio::time::sleep(FOLLOW_INTERVAL).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        is_waiting = false;
        for range in &page.missing {
            print_missing(range.from, range.to);
        }
        exporter.unreadable.note_lines(&page.unreadable);
        exporter.deliver(&page.records, cursor.as_mut()).await?;
        // What was examined and does not match need not be looked at again.
        if let (Some(last), Some(cursor)) = (page.last, cursor.as_mut()) {
            cursor.advance(last)?;
        }
        after = after.max(page.last.unwrap_or_default());
        if page.more {
            continue;
        }
        if !args.follow {
            return exporter.sink.finish().map(|exit_code| exporter.unreadable.finish(exit_code));
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

struct Exporter<'a> {
    source: Source<'a>,
    sink: Sink,
    format: Format,
    host: ExportedHost,
    follow: bool,
    unreadable: Unreadable,
}

impl Exporter<'_> {
    /// Continues a file whose end the cursor does not know of, because the machine lost its power between the write and
    /// the note: half a line is removed, and whole ones are not written again.
    async fn continue_file(&self, cursor: &mut Cursor) -> Result<(), CliError> {
        let last = self.sink.last_line()?;
        let Some(line) = last.and_then(|last| last_record(self.format, &last)) else { return Ok(()) };
        match seq_of(&line) {
            // Another log can have a record with this number too, and not the same one.
            Some(seq) if seq > cursor.seq() && self.source.record(seq).await?.as_ref() == Some(&line) => {
                cursor.advance(seq)
            }
            _ => Ok(()),
        }
    }

    /// Delivers records in batches, each of which is noted before the next one.
    async fn deliver(
        &mut self,
        records: &[Box<RawValue>],
        mut cursor: Option<&mut Cursor>,
    ) -> Result<(), CliError> {
        let records = self.convertible(records);
        let mut rest = &*records;
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

    /// The records that have the members of one. Others are named, and left out unless they are exported as they are.
    fn convertible<'r>(&mut self, records: &'r [Box<RawValue>]) -> Vec<&'r RawValue> {
        let mut convertible = Vec::with_capacity(records.len());
        for line in records {
            if self.format == Format::Json || parse_record(line.get()).is_some() {
                convertible.push(&**line);
            } else {
                self.unreadable.note_record(line.get());
            }
        }
        convertible
    }

    /// The lines that are written, or the body that is sent.
    fn text(&self, batch: &[&RawValue]) -> Result<Vec<u8>, CliError> {
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
fn batch_len(records: &[&RawValue]) -> usize {
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

/// The last record of a line that an export has written, as it is in the log.
fn last_record(format: Format, line: &str) -> Option<String> {
    if format == Format::Json {
        return Some(line.to_owned());
    }
    let value: Value = serde_json::from_str(line).ok()?;
    let text = match format {
        Format::Json => None,
        Format::Ocsf => value["raw_data"].as_str(),
        Format::Otlp => {
            let records = value["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array()?;
            let mut attributes = records.last()?["attributes"].as_array()?.iter();
            attributes.find(|found| found["key"] == "log.record.original")?["value"]["stringValue"].as_str()
        }
    };
    text.map(str::to_owned)
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
        let batch_len = |records: Vec<Box<RawValue>>| {
            batch_len(&records.iter().map(|record| &**record).collect::<Vec<_>>())
        };
        assert_eq!(batch_len(of(3, 10)), 3);
        assert_eq!(batch_len(of(BATCH + 1, 10)), BATCH);
        assert_eq!(batch_len(of(4, MAX_BATCH_BYTES / 3)), 2);
        assert_eq!(batch_len(of(2, MAX_BATCH_BYTES + 1)), 1);
    }

    #[test]
    fn the_last_record_of_each_format_is_the_line_of_the_log() {
        let line = |seq: u64| {
            format!(
                "{{\"v\":1,\"seq\":{seq},\"prev\":\"{}\",\"time\":\"2026-11-26T10:00:00.000001Z\",\"event\":\
                 \"token-issued\",\"detail\":\"\\u009b\"}}",
                "0".repeat(64)
            )
        };
        let host = ExportedHost::default();
        let (first, last) = (line(6), line(7));
        let ocsf = ocsf_event(&last, &host).unwrap().to_string();
        let otlp = otlp_request([&*first, &*last], &host).unwrap().to_string();
        for (format, text) in [(Format::Json, &last), (Format::Ocsf, &ocsf), (Format::Otlp, &otlp)] {
            assert_eq!(
                last_record(format, &escape_unprintable_json(text)).as_ref(),
                Some(&last),
                "{format:?}"
            );
        }
        assert_eq!(last_record(Format::Otlp, "{}"), None);
        assert_eq!(last_record(Format::Ocsf, "x"), None);
    }
}
