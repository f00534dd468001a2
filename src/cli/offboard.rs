//! `hostbadge agent offboard`.

use std::process::ExitCode;

use clap::Args;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::{note, print_line};
use super::verify_receipt::receipt_lines;
use crate::verify::receipt::unverified_claims;
use crate::wire::offboarding::{OffboardRequest, OffboardResponse};

#[derive(Args, Debug)]
pub(super) struct OffboardArgs {
    /// Name of the agent
    name: String,
    /// Why, for the record and the receipt
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Prints the receipt on standard output, and what it says and what is left to do on standard error.
pub(super) async fn run(common: &CommonArgs, arguments: &OffboardArgs) -> Result<ExitCode, CliError> {
    let request = OffboardRequest { name: arguments.name.clone(), reason: arguments.reason.clone() };
    let path = "/v1/agents/offboard";
    let reply = client::post::<OffboardResponse>(&common.admin_socket, path, &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let OffboardResponse { receipt, next_steps, .. } = reply.body;
    print_line(&receipt)?;
    // The daemon has verified it. A verifier on another machine does so with hostbadge verify receipt.
    let claims = unverified_claims(&receipt).map_err(CliError::local)?;
    for (label, text) in receipt_lines(&claims) {
        note(format_args!("{label}: {text}"));
    }
    for step in next_steps {
        note(format_args!("to do: {step}"));
    }
    Ok(ExitCode::SUCCESS)
}
