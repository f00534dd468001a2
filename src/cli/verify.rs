//! `hostbadge verify token|evidence|receipt|audit`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

use super::common::{CommonArgs, print_json, print_verdict};
use super::error::CliError;
use super::files::{MAX_INPUT_SIZE, read_file, read_stdin};
use super::manufacturer_roots::read_manufacturer_roots;
use super::table::print_columns;
use super::verify_audit::{self, VerifyAuditArgs};
use super::verify_receipt::{self, VerifyReceiptArgs};
use super::verify_token::{self, VerifyTokenArgs};
use crate::clock::Clock;
use crate::verify::evidence::{CheckOutcome, CheckResult, OptionalCheck};
use crate::verify::{PcrPolicy, Roots, eat, evidence};

#[derive(Subcommand, Debug)]
pub(super) enum VerifySubcommand {
    /// Verify a token: signature, type, times, issuer and audience. Takes access tokens, JWT-SVIDs and
    /// WIT-SVIDs, and warns where verifiers with less leeway would refuse
    Token(VerifyTokenArgs),
    /// Verify evidence, also in an EAT: nonce, signatures, keys, PCR values, logs and the issuing keys that
    /// the host's TPM endorses
    Evidence(VerifyEvidenceArgs),
    /// Verify the receipt of an offboarding: that a host's TPM signed it, and what it says was destroyed
    Receipt(VerifyReceiptArgs),
    /// Verify an audit log: its records, and the checkpoints that the host's TPM certified
    ///
    /// A record that was changed, inserted, removed or moved, a file that is missing or exchanged, and a checkpoint
    /// that is missing or forged are found, and the first bad line is named. What is missing at the end of the log with
    /// all of its checkpoints is found by --known alone.
    Audit(VerifyAuditArgs),
}

#[derive(Args, Debug)]
pub(super) struct VerifyEvidenceArgs {
    /// The evidence, as `hostbadge attest` prints it; standard input if omitted or "-"
    file: Option<PathBuf>,

    /// The nonce that was sent to the host, as `hostbadge nonce` makes it: base64url without padding
    #[arg(long, value_name = "BASE64URL", allow_hyphen_values = true)]
    nonce: String,

    /// Name of the host's attestation key, as `hostbadge status` shows it on that host. Without it, or --ca-cert,
    /// the evidence could come from any TPM
    #[arg(long, value_name = "NAME")]
    ak: Option<String>,

    /// CA (PEM) of the organization that enrolled the host, in place of --ak: the host certificate names the
    /// AK
    #[arg(long, alias = "ca", value_name = "FILE")]
    ca_cert: Option<PathBuf>,

    /// Directory of TPM manufacturers' certificates, PEM or DER (.pem, .crt, .cer, .der); the EK certificate
    /// must chain to a root in it
    #[arg(long, value_name = "DIR")]
    roots: Option<PathBuf>,

    /// Accepted PCR values: a TOML file with `version = 1` and, under `[sha256]`, PCR numbers and values. The
    /// quote must cover PCRs 0 to 14, or those of the list `quoted` in this file
    #[arg(long, value_name = "FILE")]
    pcrs: Option<PathBuf>,

    /// A check that must pass: without this option it may be skipped, for lack of a log, a certificate or
    /// --roots
    #[arg(long, value_name = "CHECK", value_parser = optional_checks())]
    require: Vec<OptionalCheck>,

    /// Expected host id: 26 characters, as `hostbadge status` shows it
    #[arg(long, value_name = "ID")]
    host: Option<String>,
}

pub(super) fn run(common: &CommonArgs, subcommand: &VerifySubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        VerifySubcommand::Token(arguments) => verify_token::run(common, arguments),
        VerifySubcommand::Evidence(arguments) => evidence(common, arguments),
        VerifySubcommand::Receipt(arguments) => verify_receipt::run(common, arguments),
        VerifySubcommand::Audit(arguments) => verify_audit::run(common, arguments),
    }
}

/// Prints the result of each check; exit status 1 if one failed, or was skipped and is not optional.
fn evidence(common: &CommonArgs, arguments: &VerifyEvidenceArgs) -> Result<ExitCode, CliError> {
    let text = match arguments.file.as_deref() {
        Some(file) if file != Path::new("-") => read_file(file, eat::MAX_EAT_SIZE)?,
        _ => read_stdin(eat::MAX_EAT_SIZE)?,
    };
    let nonce = BASE64URL_NOPAD
        .decode(arguments.nonce.as_bytes())
        .map_err(|e| CliError::Local(format!("the nonce is not base64url: {e}")))?;
    // Evidence is a JSON object; an EAT is a JWT, which does not begin with a brace.
    let (mut checks, document) = match text.trim_ascii().first() {
        Some(b'{') => (Vec::new(), evidence::Evidence::parse(&text).map_err(CliError::local)?),
        _ => {
            let token = std::str::from_utf8(text.trim_ascii())
                .map_err(|_| CliError::Local("this is neither evidence nor an EAT".into()))?;
            let eat = eat::Eat::parse(token).map_err(CliError::local)?;
            (eat.check(&nonce), eat.evidence().clone())
        }
    };
    let policy = arguments.pcrs.as_deref().map(read_policy).transpose()?;
    checks.extend(match &policy {
        Some(policy) => document.check_with_pcrs(&nonce, policy.required_pcrs()),
        None => document.check(&nonce),
    });
    let now = Clock::System.now();
    let ca = arguments.ca_cert.as_deref().map(Roots::read_file).transpose().map_err(CliError::local)?;
    let roots = arguments.roots.as_deref().map(read_manufacturer_roots).transpose()?;
    let ca_check = ca.map(|ca| document.check_ak_by_host_certificate(&ca, now));
    let enrolled = ca_check.as_ref().is_some_and(|check| check.outcome == CheckOutcome::Pass);
    if ca_check.is_none() || arguments.ak.is_some() {
        checks.push(document.check_ak_by_name(arguments.ak.as_deref()));
    }
    checks.extend(ca_check);
    checks.push(document.check_ek_certificate_trust(roots.as_ref(), enrolled, now));
    if let Some(host) = &arguments.host {
        checks.push(document.check_host(host));
    }
    checks.extend(policy.map(|policy| policy.check(&document)));
    for check in &arguments.require {
        check.require(&mut checks);
    }
    let valid = checks.iter().all(CheckResult::is_acceptable);
    if common.json {
        print_json(&json!({ "valid": valid, "host": document.host, "findings": checks }))?;
    } else {
        let row = |check: &CheckResult| {
            let result = match check.outcome {
                CheckOutcome::Pass => "passed",
                CheckOutcome::Fail => "FAILED",
                CheckOutcome::Skipped if check.required => "SKIPPED",
                CheckOutcome::Skipped => "skipped",
            };
            vec![check.name.to_owned(), result.to_owned(), check.detail.clone()]
        };
        print_columns(&["CHECK", "RESULT", "DETAIL"], &checks.iter().map(row).collect::<Vec<_>>())?;
        print_verdict(valid, &summary(&checks))?;
    }
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many checks passed, and the names of the others.
fn summary(checks: &[CheckResult]) -> String {
    let names = |is_wanted: &dyn Fn(&CheckResult) -> bool| {
        checks.iter().filter(|check| is_wanted(check)).map(|check| check.name).collect::<Vec<_>>().join(", ")
    };
    let passed = checks.iter().filter(|check| check.outcome == CheckOutcome::Pass).count();
    let mut text = format!("{passed} of {} checks passed", checks.len());
    let groups = [
        ("failed", names(&|check| check.outcome == CheckOutcome::Fail)),
        ("required, but skipped", names(&|check| check.outcome == CheckOutcome::Skipped && check.required)),
        ("skipped", names(&|check| check.outcome == CheckOutcome::Skipped && !check.required)),
    ];
    for (label, names) in groups.iter().filter(|(_, names)| !names.is_empty()) {
        text += &format!("; {label}: {names}");
    }
    text
}

fn read_policy(file: &Path) -> Result<PcrPolicy, CliError> {
    let invalid = |what: &dyn std::fmt::Display| CliError::Local(format!("{}: {what}", file.display()));
    let text = String::from_utf8(read_file(file, MAX_INPUT_SIZE)?).map_err(|e| invalid(&e))?;
    PcrPolicy::parse(&text).map_err(|e| invalid(&e))
}

/// Parses the name of a check, and lists all of them in the help and completions.
fn optional_checks() -> impl TypedValueParser<Value = OptionalCheck> {
    PossibleValuesParser::new(OptionalCheck::ALL.map(OptionalCheck::as_str))
        .try_map(|name| name.parse::<OptionalCheck>())
}
