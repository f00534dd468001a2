//! `hostbadge leak`: what a leaked token or certificate is, where it was used, and its revocation.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;
use data_encoding::HEXLOWER;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::{MAX_INPUT_SIZE, read_stdin};
use super::format::format_peer;
use super::output::{note, print_line};
use super::revoke::print_revoked;
use super::table::KeyValueTable;
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::secrets::{SecretKind, find_secrets};
use crate::verify::parse_certificate;
use crate::wire::admin::AuditRecord;
use crate::wire::leak::{LeakRequest, LeakResponse, LeakedKind};

/// Tokens and certificates of one input that are looked up, each with a request of its own.
const MAX_LEAKS: usize = 16;
/// Records of each kind that are printed; --json has all that the daemon answered.
const MAX_PRINTED: usize = 10;

#[derive(Args, Debug)]
pub(super) struct LeakArgs {
    /// Also revoke the agent that it was issued to: it gets nothing until you lift that
    #[arg(long)]
    agent: bool,
    /// Also revoke the invocation of the unit in which it was issued: all that the running unit has
    #[arg(long)]
    invocation: bool,
    /// Revoke nothing, and only tell what is known
    #[arg(long)]
    dry_run: bool,
    /// The identifier of the token, as the audit log has it, in place of the token
    #[arg(long, value_name = "JTI", allow_hyphen_values = true)]
    jti: Option<String>,
    /// Why, for the audit log and "hostbadge revoke list" [default: leaked]
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// What leaked.
#[derive(PartialEq)]
enum Leaked {
    Token(Zeroizing<String>),
    Serial(String),
}

/// Prints what is known of each token and certificate. Exit status 1 if none of them is of this host.
pub(super) async fn run(common: &CommonArgs, arguments: &LeakArgs) -> Result<ExitCode, CliError> {
    let base = LeakRequest {
        agent: arguments.agent,
        invocation: arguments.invocation,
        dry_run: arguments.dry_run,
        reason: arguments.reason.clone(),
        ..LeakRequest::default()
    };
    if let Some(jti) = &arguments.jti {
        let request = LeakRequest { jti: Some(jti.clone()), ..base };
        return Ok(exit_code(is_own(&report(common, &request).await?)));
    }
    let leaks = read_leaks()?;
    let mut has_own = false;
    for (at, leaked) in leaks.iter().take(MAX_LEAKS).enumerate() {
        if at > 0 && !common.json {
            print_line("")?;
        }
        let request = match leaked {
            Leaked::Token(token) => LeakRequest { token: Some(token.to_string()), ..base.clone() },
            Leaked::Serial(serial) => LeakRequest { serial: Some(serial.clone()), ..base.clone() },
        };
        has_own |= is_own(&report(common, &request).await?);
    }
    if leaks.len() > MAX_LEAKS {
        let left = leaks.len() - MAX_LEAKS;
        note(format_args!(
            "hostbadge: {} more in the input: remove what was handled, and run this command again",
            counted(left, "token")
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(exit_code(has_own))
}

/// Asks the daemon, and prints its answer.
async fn report(common: &CommonArgs, request: &LeakRequest) -> Result<LeakedKind, CliError> {
    let reply = client::post::<LeakResponse>(&common.admin_socket, "/v1/leak", request).await?;
    if common.json {
        print_json(&reply.raw)?;
    } else {
        print(&reply.body)?;
    }
    Ok(reply.body.what)
}

fn is_own(what: &LeakedKind) -> bool {
    !matches!(what, LeakedKind::Foreign | LeakedKind::NoToken | LeakedKind::Unknown)
}

fn exit_code(is_own: bool) -> ExitCode {
    if is_own { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The tokens and certificates of standard input, each once.
fn read_leaks() -> Result<Vec<Leaked>, CliError> {
    if io::stdin().is_terminal() {
        note("hostbadge: paste the token, and end the input with Ctrl-D");
    }
    let text = Zeroizing::new(read_stdin(MAX_INPUT_SIZE)?);
    let leaks = leaks_in(&text);
    if leaks.is_empty() {
        return Err(CliError::Local(
            "standard input has neither a token (three parts of base64url with dots between them) nor a certificate \
             in PEM; hostbadge hygiene finds keys of other forms"
                .to_owned(),
        ));
    }
    Ok(leaks)
}

fn leaks_in(text: &[u8]) -> Vec<Leaked> {
    let mut leaks: Vec<Leaked> = Vec::new();
    find_secrets(text, |find| {
        let token = std::str::from_utf8(&text[find.start..find.end]).ok();
        if let Some(token) = token.filter(|_| find.kind == SecretKind::Jwt) {
            let leaked = Leaked::Token(Zeroizing::new(token.to_owned()));
            if !leaks.contains(&leaked) {
                leaks.push(leaked);
            }
        }
    });
    for certificate in CertificateDer::pem_slice_iter(text).flatten() {
        let Ok(certificate) = parse_certificate(&certificate) else { continue };
        let serial = certificate.tbs_certificate().serial_number().as_bytes();
        let leaked = Leaked::Serial(HEXLOWER.encode(serial));
        // The certificates after the first are those of CAs, which is_ca tells apart.
        if !leaks.contains(&leaked) && !is_ca(&certificate) {
            leaks.push(leaked);
        }
    }
    leaks
}

/// Whether a certificate is one of a CA: its subject issues certificates.
fn is_ca(certificate: &x509_cert::Certificate) -> bool {
    use x509_cert::ext::pkix::BasicConstraints;
    let constraints = certificate.tbs_certificate().get_extension::<BasicConstraints>();
    matches!(constraints, Ok(Some((_, BasicConstraints { ca: true, .. }))))
}

fn print(report: &LeakResponse) -> Result<(), CliError> {
    print_line(escape_unprintable(&report.explanation))?;
    let mut table = KeyValueTable::default();
    table.add_some("jti", report.jti.clone());
    table.add_some("serial", report.serial.clone());
    table.add_some("agent", report.agent.clone());
    table.add_some("tenant", report.tenant.clone());
    table.add_some("SPIFFE ID", report.spiffe_id.clone());
    table.add_some("audience", Some(report.audiences.join(", ")).filter(|text| !text.is_empty()));
    table.add_some("scope", report.scope.clone());
    table.add_some("unit", report.unit.clone());
    table.add_some("invocation", report.invocation.clone());
    table.add_some("expires", report.expires_at.map(|at| at.to_rfc3339_seconds()));
    table.add_some("invalid before", report.revoked_before.clone());
    if let Some(issued) = &report.issued {
        let by = issued.peer.as_ref().map(format_peer).unwrap_or_default();
        table.add("issued", format!("{} to {by} (record {})", issued.time.to_rfc3339_seconds(), issued.seq));
    }
    for record in last(&report.later) {
        table.add(&record.event, format_record(record));
    }
    let left_out = report.later_count - report.later.len().min(MAX_PRINTED).min(report.later_count);
    if left_out > 0 {
        table.add("", format!("{} earlier: see hostbadge audit tail --jti", counted(left_out, "record")));
    }
    for record in last(&report.refusals) {
        table.add("refused", format_record(record));
    }
    table.print()?;
    if !report.searched_all && is_own(&report.what) {
        note("hostbadge: the audit log is longer than what was searched, 512 MiB");
    }
    for revoked in &report.revoked {
        print_revoked(revoked)?;
    }
    print_line("What to do next:")?;
    for step in &report.next {
        print_line(escape_unprintable(&format!("- {step}")))?;
    }
    Ok(())
}

/// The last records, as many as are printed.
fn last(records: &[AuditRecord]) -> &[AuditRecord] {
    &records[records.len().saturating_sub(MAX_PRINTED)..]
}

fn format_record(record: &AuditRecord) -> String {
    let mut parts = vec![record.time.to_rfc3339_seconds()];
    parts.extend(record.agent.as_ref().map(|agent| format!("by {agent}")));
    parts
        .extend(record.active.map(|active| if active { "active".to_owned() } else { "inactive".to_owned() }));
    parts.extend(record.reason.clone());
    parts.extend(record.detail.clone());
    parts.extend(record.peer.as_ref().map(|peer| format!("({})", format_peer(peer))));
    parts.push(format!("record {}", record.seq));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_other_text_and_each_once() {
        let part = "AbCdEfGhIjKlMnOp0123456789";
        let token = |tail: &str| format!("eyJ{part}.eyJ{part}{tail}.{part}{part}");
        let text = format!(
            "$ curl -H 'Authorization: Bearer {}' https://x\n{}\n{{\"token\":\"{}\"}}\nghp_{}",
            token("a"),
            token("a"),
            token("b"),
            "x1".repeat(18)
        );
        let found: Vec<String> = leaks_in(text.as_bytes())
            .into_iter()
            .map(|leaked| match leaked {
                Leaked::Token(token) => token.to_string(),
                Leaked::Serial(serial) => serial,
            })
            .collect();
        assert_eq!(found, [token("a"), token("b")]);
        assert!(leaks_in(b"\xff\0 no token, eyJ only").is_empty());
    }
}
