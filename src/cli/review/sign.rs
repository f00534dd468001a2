//! `hostbadge review sign`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::super::client;
use super::super::common::{CommonArgs, print_json};
use super::super::error::CliError;
use super::super::files::{read_file, read_stdin};
use super::super::table::KeyValueTable;
use super::host::host_name;
use crate::clock::Clock;
use crate::plural::counted;
use crate::review::Document;
use crate::wire::review::{SignReviewRequest, SignReviewResponse};

/// Largest review that is read, in bytes: some 10 KiB for each of the agents that a host can have.
const MAX_REVIEW_SIZE: usize = 256 * 1024 * 1024;

/// Two processes round the time differently.
const MAX_AHEAD: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub(super) struct SignArgs {
    /// The output of "hostbadge review --json" or the page of --html; "-" is standard input
    file: PathBuf,
    /// Who examined the review
    #[arg(long, value_name = "NAME")]
    reviewer: String,
    /// What follows from it, for the record
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

pub(super) async fn run(common: &CommonArgs, arguments: &SignArgs) -> Result<ExitCode, CliError> {
    let name = arguments.file.display();
    let bytes = match arguments.file.as_os_str() == "-" {
        true => read_stdin(MAX_REVIEW_SIZE)?,
        false => read_file(&arguments.file, MAX_REVIEW_SIZE)?,
    };
    let Document { review, sha256 } =
        Document::read(&bytes).map_err(|e| CliError::Local(format!("{name}: {e}")))?;
    let host = host_name();
    if review.host != host {
        return Err(CliError::Local(format!(
            "{name}: it is a review of the host {:?}, and this host is {host:?}; sign it there",
            review.host
        )));
    }
    if review.period.until > Clock::System.now().after(MAX_AHEAD) {
        return Err(CliError::Local(format!(
            "{name}: the review ends in the future, so it was not made by now"
        )));
    }
    let request = SignReviewRequest {
        sha256,
        reviewer: arguments.reviewer.clone(),
        comment: arguments.comment.clone(),
        host,
        complete: review.period.complete,
        missing_records: review.period.missing_records,
        since: review.period.from,
        until: review.period.until,
        agents: review.totals.agents,
        unused_agents: review.totals.unused,
        not_seen: review.totals.not_seen,
        unused_rights: review.totals.rights.unused(),
    };
    let path = "/v1/reviews/sign";
    let reply = client::post::<SignReviewResponse>(&common.admin_socket, path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let figures = format!(
        "{}, {} unused, {} not seen, {}",
        counted(request.agents, "agent"),
        request.unused_agents,
        request.not_seen,
        counted(request.unused_rights, "unused right")
    );
    let (since, until) = (request.since.to_rfc3339_seconds(), request.until.to_rfc3339_seconds());
    let coverage = match (request.complete, request.missing_records) {
        (true, 0) => String::new(),
        (_, 0) => ", shorter than was asked for".to_owned(),
        (_, missing) => format!(", not complete, {} missing", counted(missing, "record")),
    };
    let SignReviewResponse { sha256, reviewer, signed_by, signed_at } = reply.body;
    let mut table = KeyValueTable::default();
    table.add("review", sha256);
    table.add("host", request.host);
    table.add("period", format!("{since} to {until}{coverage}"));
    table.add("figures", figures);
    table.add("reviewer", reviewer);
    table.add("recorded", format!("{}, {signed_by}", signed_at.to_rfc3339_seconds()));
    table.print()?;
    Ok(ExitCode::SUCCESS)
}
