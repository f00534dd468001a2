//! `hostbadge review sign`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::client;
use super::super::common::{CommonArgs, print_json};
use super::super::error::CliError;
use super::super::files::{read_file, read_stdin};
use super::super::table::KeyValueTable;
use crate::review::Document;
use crate::wire::review::{SignReviewRequest, SignReviewResponse};

/// Largest review that is read, in bytes: some 10 KiB for each of the agents that a host can have.
const MAX_REVIEW_SIZE: usize = 256 * 1024 * 1024;

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
    let request = SignReviewRequest {
        sha256,
        reviewer: arguments.reviewer.clone(),
        comment: arguments.comment.clone(),
        since: review.period.from,
        until: review.period.until,
        agents: review.totals.agents,
        unused_agents: review.totals.unused,
        never_seen: review.totals.never_seen,
        unused_rights: review.totals.rights.unused(),
    };
    let path = "/v1/reviews/sign";
    let reply = client::post::<SignReviewResponse>(&common.admin_socket, path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let SignReviewResponse { sha256, reviewer, signed_by, signed_at } = reply.body;
    let mut table = KeyValueTable::default();
    table.add("review", sha256);
    table.add("reviewer", reviewer);
    table.add("recorded", format!("{}, {signed_by}", signed_at.to_rfc3339_seconds()));
    table.print()?;
    Ok(ExitCode::SUCCESS)
}
