//! `hostbadge approve list|show|yes|no`: requests of agents that a person has to approve.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;
use super::prompt::{confirm, is_interactive};
use super::table::{KeyValueTable, print_columns};
use crate::config::escape_unprintable;
use crate::wire::approvals::{Approval, ApprovalDecision, ApprovalState, ApprovalsResponse, DecideRequest};

const PATH: &str = "/v1/approvals";

#[derive(Subcommand, Debug)]
pub(super) enum ApproveSubcommand {
    /// List the requests that wait for an approval, and those that were decided lately, the oldest first
    List,
    /// Show everything that an approval of a request is bound to
    Show {
        /// Id of the request, as "approve list" and the journal have it
        id: String,
    },
    /// Show a request, and approve it
    Yes(YesArgs),
    /// Refuse a request, or take its approval back; requests of the agent for as much are refused until its time has passed
    No(NoArgs),
}

#[derive(Args, Debug)]
pub(super) struct YesArgs {
    /// Id of the request
    id: String,
    /// The digest of what was examined, from "approve show"; without it, this command shows the request and asks
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct NoArgs {
    /// Id of the request
    id: String,
    /// Why, in one line; the agent reads it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) async fn run(common: &CommonArgs, subcommand: &ApproveSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        ApproveSubcommand::List => list(common).await,
        ApproveSubcommand::Show { id } => show(common, id).await,
        ApproveSubcommand::Yes(arguments) => approve(common, arguments).await,
        ApproveSubcommand::No(arguments) => deny(common, arguments).await,
    }
}

async fn list(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::get::<ApprovalsResponse>(&common.admin_socket, PATH).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let rows: Vec<Vec<String>> = reply.body.approvals.iter().map(row).collect();
    print_columns(&["ID", "STATE", "LEFT", "AGENT", "REQUEST"], &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn row(approval: &Approval) -> Vec<String> {
    vec![
        approval.id.clone(),
        state(approval.state).to_owned(),
        format!("{} s", approval.seconds_left),
        text(&approval.request, "/agent"),
        requested(&approval.request),
    ]
}

async fn show(common: &CommonArgs, id: &str) -> Result<ExitCode, CliError> {
    let approval = find(common, id).await?;
    match common.json {
        true => print_json(&approval),
        false => {
            table(&approval).print()?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn approve(common: &CommonArgs, arguments: &YesArgs) -> Result<ExitCode, CliError> {
    let digest = match &arguments.digest {
        Some(digest) => digest.clone(),
        None => {
            if !is_interactive() {
                return Err(CliError::Local(
                    "standard input is no terminal, so that this command cannot ask; examine the request with \
                     \"hostbadge approve show\", and add --digest with its digest"
                        .to_owned(),
                ));
            }
            let approval = find(common, &arguments.id).await?;
            table(&approval).print()?;
            if !confirm("Approve this request? Type \"yes\": ")? {
                return Err(CliError::Local("not approved; \"hostbadge approve no\" refuses it".to_owned()));
            }
            approval.digest
        }
    };
    let request =
        DecideRequest { id: arguments.id.clone(), digest, decision: ApprovalDecision::Approve, reason: None };
    decide(common, &request, "approved").await
}

async fn deny(common: &CommonArgs, arguments: &NoArgs) -> Result<ExitCode, CliError> {
    let digest = find(common, &arguments.id).await?.digest;
    let request = DecideRequest {
        id: arguments.id.clone(),
        digest,
        decision: ApprovalDecision::Deny,
        reason: arguments.reason.clone(),
    };
    decide(common, &request, "refused").await
}

async fn decide(common: &CommonArgs, request: &DecideRequest, done: &str) -> Result<ExitCode, CliError> {
    let reply = client::post::<Approval>(&common.admin_socket, &format!("{PATH}/decide"), request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let Approval { id, seconds_left, request, .. } = reply.body;
    let agent = text(&request, "/agent");
    let what = requested(&request);
    let line = format!("{done} {id}: {agent}, {what}; this counts for {seconds_left} s");
    print_line(escape_unprintable(&line))?;
    Ok(ExitCode::SUCCESS)
}

async fn find(common: &CommonArgs, id: &str) -> Result<Approval, CliError> {
    let reply = client::get::<ApprovalsResponse>(&common.admin_socket, PATH).await?;
    let found = reply.body.approvals.into_iter().find(|approval| approval.id == id);
    found.ok_or_else(|| {
        CliError::Local(format!(
            "no request has the id {id}: it may have been used, changed by the agent, or its time has passed; see \
             \"hostbadge approve list\""
        ))
    })
}

/// Every member of the request, so that nothing is approved that is not shown.
fn table(approval: &Approval) -> KeyValueTable {
    let mut table = KeyValueTable::default();
    table.add("id", &approval.id);
    table.add("state", format!("{}, {} s left", state(approval.state), approval.seconds_left));
    table.add("asked at", approval.requested.to_rfc3339_seconds());
    table.add("asked by pid", approval.pid.to_string());
    add_members(&mut table, &approval.request);
    table.add("digest", &approval.digest);
    table
}

fn add_members(table: &mut KeyValueTable, object: &Value) {
    for (key, value) in object.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) => add_members(table, value),
            Value::String(text) => table.add(key, unmistakable(text)),
            other => table.add(key, other.to_string()),
        }
    }
}

/// A text of the agent in quotes, in which nothing imitates another row or letter: what is not ASCII is escaped, and so
/// is each space but a single one.
fn unmistakable(text: &str) -> String {
    let mut shown = String::from("\"");
    let mut was_space = false;
    for character in text.chars() {
        match character {
            ' ' if was_space => shown.push_str("\\u{20}"),
            '"' | '\\' => shown.extend(['\\', character]),
            _ if character.is_ascii_graphic() || character == ' ' => shown.push(character),
            _ => shown.extend(character.escape_unicode()),
        }
        was_space = character == ' ';
    }
    shown.push('"');
    shown
}

/// What is requested, in one line.
fn requested(request: &Value) -> String {
    match request.pointer("/request/kind").and_then(Value::as_str) {
        Some("credential") => format!("credential {}", text(request, "/request/name")),
        Some("proof") => {
            let [kind, method, url] =
                ["proof", "method", "url"].map(|name| text(request, &format!("/request/{name}")));
            let credential = match text(request, "/request/credential") {
                credential if credential.is_empty() => String::new(),
                credential => format!(" by credential {credential}"),
            };
            match url.is_empty() {
                true => format!("{kind} proof for {}", text(request, "/request/audience")),
                false => format!("{kind} proof{credential} for {method} {url}"),
            }
        }
        _ => {
            let (audience, scope) = (text(request, "/request/audience"), text(request, "/request/scope"));
            let scope = if scope.is_empty() { String::new() } else { format!(", scope {scope}") };
            format!("token for {audience}{scope}")
        }
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn state(state: ApprovalState) -> &'static str {
    match state {
        ApprovalState::Pending => "waits",
        ApprovalState::Approved => "approved",
        ApprovalState::Denied => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_agents_imitate_nothing() {
        for (text, shown) in [
            ("/usr/bin/a b", r#""/usr/bin/a b""#),
            ("/x      digest  00", r#""/x \u{20}\u{20}\u{20}\u{20}\u{20}digest \u{20}00""#),
            ("/usr/b\u{456}n", r#""/usr/b\u{456}n""#),
            ("a\nb\u{1b}[2K", r#""a\u{a}b\u{1b}[2K""#),
            (r#"a"\u{20}"#, r#""a\"\\u{20}""#),
        ] {
            assert_eq!(unmistakable(text), shown);
        }
    }
}
