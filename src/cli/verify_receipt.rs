//! `hostbadge verify receipt`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::common::{CommonArgs, print_json, print_verdict};
use super::error::CliError;
use super::files::{MAX_INPUT_SIZE, read_file, read_stdin};
use super::table::KeyValueTable;
use crate::clock::{Clock, Timestamp};
use crate::verify::evidence::{Evidence, MAX_EVIDENCE_SIZE};
use crate::verify::receipt::{
    DestroyedKey, ErasureClaim, MAX_RECEIPT_SIZE, ReceiptClaims, check_counter, receipt_kid, verify_receipt,
};
use crate::verify::{self, Jwk, Jwks};

#[derive(Args, Debug)]
pub(super) struct VerifyReceiptArgs {
    /// The receipt, as `hostbadge agent offboard` prints it; standard input if omitted or "-"
    file: Option<PathBuf>,

    /// The host's public keys, as `hostbadge export jwks` prints them
    #[arg(long, value_name = "FILE", required_unless_present = "evidence")]
    jwks: Option<PathBuf>,

    /// Evidence of the host in place of --jwks. Verify it first: hostbadge verify evidence proves that its host key
    /// is in the TPM. Its AK then also has to state the counter's value
    #[arg(long, value_name = "FILE", conflicts_with = "jwks")]
    evidence: Option<PathBuf>,

    /// Expected host id: 26 characters, as `hostbadge status` shows it
    #[arg(long, value_name = "ID")]
    host: Option<String>,

    /// Expected agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

/// Prints what the receipt states and a verdict; exit status 1 if it is not valid.
pub(super) fn run(common: &CommonArgs, arguments: &VerifyReceiptArgs) -> Result<ExitCode, CliError> {
    let text = match arguments.file.as_deref() {
        Some(file) if file != Path::new("-") => read_file(file, MAX_RECEIPT_SIZE)?,
        _ => read_stdin(MAX_RECEIPT_SIZE)?,
    };
    let text = String::from_utf8(text).map_err(|_| CliError::Local("this is no receipt: not text".into()))?;
    match verified(text.trim(), arguments)? {
        Err(e) if common.json => {
            print_json(&json!({ "valid": false, "reason": e.to_string() }))?;
            Ok(ExitCode::FAILURE)
        }
        Err(e) => print_verdict(false, &e.to_string()),
        Ok((claims, counter)) if common.json => {
            print_json(&json!({ "valid": true, "claims": claims, "counter": counter }))
        }
        Ok((claims, counter)) => {
            let mut table = KeyValueTable::default();
            for (label, text) in receipt_lines(&claims) {
                table.add(label, text);
            }
            table.add("counter", counter.unwrap_or_else(|| "not checked (--evidence)".to_owned()));
            table.print()?;
            print_verdict(true, &summary(arguments))
        }
    }
}

/// The claims, and what the TPM states of the counter if there is evidence. The outer error is that of a file.
fn verified(
    text: &str,
    arguments: &VerifyReceiptArgs,
) -> Result<Result<(ReceiptClaims, Option<String>), verify::Error>, CliError> {
    let kid = match receipt_kid(text) {
        Ok(kid) => kid,
        Err(e) => return Ok(Err(e)),
    };
    let (key, evidence) = match (&arguments.jwks, &arguments.evidence) {
        (_, Some(file)) => {
            let invalid = |e: verify::Error| CliError::Local(format!("{}: {e}", file.display()));
            let evidence = Evidence::parse(&read_file(file, MAX_EVIDENCE_SIZE)?).map_err(invalid)?;
            (Some(evidence.host_key().map_err(invalid)?), Some(evidence))
        }
        (Some(file), None) => (find_key(file, &kid)?, None),
        (None, None) => (None, None),
    };
    let expected_host = evidence.as_ref().map(|evidence| &evidence.host);
    let Some(key) = key else {
        return Ok(Err(verify::Error::UnknownKey(kid.escape_debug().to_string())));
    };
    let result = verify_receipt(text, &key, Clock::System.now());
    Ok(result.and_then(|claims| {
        let expected = [
            ("host", &claims.iss, arguments.host.as_ref().or(expected_host)),
            ("agent", &claims.agent, arguments.agent.as_ref()),
        ];
        for (what, found, wanted) in expected {
            if wanted.is_some_and(|wanted| wanted != found) {
                let found = found.escape_debug();
                return Err(verify::Error::InvalidClaim(format!("it is about the {what} \"{found}\"")));
            }
        }
        let counter = evidence.as_ref().map(|evidence| check_counter(&claims, evidence)).transpose()?;
        Ok((claims, counter))
    }))
}

fn find_key(file: &Path, kid: &str) -> Result<Option<Jwk>, CliError> {
    let keys = Jwks::parse(&read_file(file, MAX_INPUT_SIZE)?)
        .map_err(|e| CliError::Local(format!("{}: {e}", file.display())))?;
    Ok(keys.find(kid).cloned())
}

fn summary(arguments: &VerifyReceiptArgs) -> String {
    let open: Vec<&str> = [
        (arguments.host.is_none() && arguments.evidence.is_none(), "the host (--host)"),
        (arguments.agent.is_none(), "the agent (--agent)"),
    ]
    .into_iter()
    .filter_map(|(is_open, name)| is_open.then_some(name))
    .collect();
    match open.as_slice() {
        [] => "the host signed this receipt".to_owned(),
        names => format!("the host signed this receipt; not compared: {}", names.join(", ")),
    }
}

/// What a receipt says, a label and a text for each line.
pub(super) fn receipt_lines(claims: &ReceiptClaims) -> Vec<(&'static str, String)> {
    let time = |seconds: u64| Timestamp::from_secs(seconds).to_rfc3339_seconds();
    let mut lines = vec![("agent", claims.agent.clone()), ("host", claims.iss.clone())];
    lines.extend(claims.sub.iter().map(|id| ("SPIFFE ID", id.clone())));
    lines.push(("offboarded", format!("{}, by {}", time(claims.iat), claims.requested_by)));
    lines.extend(claims.reason.iter().map(|reason| ("reason", reason.clone())));
    let revocation = &claims.revocation;
    lines.push(("revoked", format!("{}, epoch {}", time(revocation.at), revocation.epoch)));
    for credential in &claims.destroyed.credentials {
        let tenant = credential.tenant.as_ref().map(|tenant| format!(" of tenant {tenant}"));
        let versions: Vec<String> = credential.versions.iter().map(u64::to_string).collect();
        let text = format!(
            "credential {}{}, version {}",
            credential.name,
            tenant.unwrap_or_default(),
            versions.join(", ")
        );
        lines.push(("destroyed", text));
    }
    for key in &claims.destroyed.keys {
        match key {
            DestroyedKey::KeyEncryptionKey => {
                lines.push(("destroyed", "the agent's key-encryption key".to_owned()));
            }
        }
    }
    if claims.destroyed.credentials.is_empty() && claims.destroyed.keys.is_empty() {
        lines.push(("destroyed", "nothing was left".to_owned()));
    }
    for credential in &claims.shared_credentials {
        let tenant = credential.tenant.as_ref().map(|tenant| format!(" of tenant {tenant}"));
        let text = format!("credential {}{}, which is shared", credential.name, tenant.unwrap_or_default());
        lines.push(("not destroyed", text));
    }
    let erasure = |erasure: &ErasureClaim| {
        let ErasureClaim { nv_index, before, after, at } = erasure;
        format!("the TPM's counter at {nv_index:#x} from {before} to {after}, {}", time(*at))
    };
    lines.extend(claims.erasure.iter().map(|one| ("erasure", erasure(one))));
    lines.extend(claims.earlier_erasures.iter().map(|one| ("earlier erasure", erasure(one))));
    lines
}
