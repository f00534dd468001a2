//! `hostbadge verify token`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::common::{CommonArgs, print_json, print_verdict};
use super::error::CliError;
use super::files::{MAX_INPUT_SIZE, read_file, read_stdin};
use super::table::KeyValueTable;
use crate::clock::{Clock, Timestamp};
use crate::verify::{self, Expectation, Jwks, Status, StatusList, StatusReference, TokenKind, VerifiedToken};

#[derive(Args, Debug)]
pub(super) struct VerifyTokenArgs {
    /// The token: an access token, a JWT-SVID or a WIT-SVID; standard input if omitted or "-"
    token: Option<String>,

    /// The host's public keys, as `hostbadge export jwks` prints them
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,

    /// Expected audience
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,

    /// Expected issuer
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,

    /// Also check the token's status in this status list, as `hostbadge export status-list` prints it. Without it,
    /// a token that was revoked is valid until it expires
    #[arg(long, value_name = "FILE")]
    status_list: Option<PathBuf>,
}

/// Prints what the token states and a verdict; exit status 1 if it is not valid.
pub(super) fn run(common: &CommonArgs, arguments: &VerifyTokenArgs) -> Result<ExitCode, CliError> {
    let token = match arguments.token.as_deref() {
        Some(token) if token != "-" => token.to_owned(),
        _ => String::from_utf8(read_stdin(MAX_INPUT_SIZE)?)
            .map_err(|_| CliError::Local("standard input is not text".into()))?,
    };
    let keys = read_file(&arguments.jwks, MAX_INPUT_SIZE)?;
    let keys =
        Jwks::parse(&keys).map_err(|e| CliError::Local(format!("{}: {e}", arguments.jwks.display())))?;
    let expected =
        Expectation { issuer: arguments.issuer.as_deref(), audience: arguments.audience.as_deref() };
    let now = Clock::System.now();
    let list = arguments.status_list.as_deref().map(read_status_list).transpose()?;
    let verified = verify::verify_token(token.trim(), &keys, now, true, expected).and_then(|verified| {
        let status = list.as_deref().map(|list| check_status(&verified, list, &keys, now)).transpose()?;
        Ok((verified, status))
    });
    match verified {
        Err(e) if common.json => {
            print_json(&json!({ "valid": false, "reason": e.to_string() }))?;
            Ok(ExitCode::FAILURE)
        }
        Err(e) => print_verdict(false, &e.to_string()),
        Ok((verified, status)) => {
            let warnings = verified.claims.refused_elsewhere(now);
            if common.json {
                return print_json(&json!({
                    "valid": true,
                    "kind": kind_name(verified.kind),
                    "kid": verified.kid,
                    "claims": verified.raw_claims,
                    "status": status,
                    "warnings": warnings,
                }));
            }
            print_claims(&verified, expected, now, status.as_deref(), &warnings)?;
            print_verdict(true, &summary(&verified, expected, status.is_some()))
        }
    }
}

fn read_status_list(path: &Path) -> Result<String, CliError> {
    String::from_utf8(read_file(path, verify::MAX_STATUS_LIST_LEN)?)
        .map_err(|_| CliError::Local(format!("{}: not text", path.display())))
}

/// The status of a token that is not revoked, with the age of the list.
fn check_status(
    token: &VerifiedToken,
    list: &str,
    keys: &Jwks,
    now: Timestamp,
) -> Result<String, verify::Error> {
    let reference = StatusReference::of_claims(&token.raw_claims)?
        .ok_or_else(|| verify::Error::InvalidClaim("the token has no status".into()))?;
    let list = StatusList::verify(list.trim(), keys, now)?;
    match list.status_of(&reference)? {
        Status::Valid => {
            let age = now.as_secs().saturating_sub(list.issued());
            Ok(format!("valid {age} s ago, index {} of {}", reference.idx, reference.uri))
        }
        status => Err(verify::Error::InvalidClaim(format!(
            "{status} by index {} of the status list {}",
            reference.idx,
            reference.uri.escape_debug()
        ))),
    }
}

fn kind_name(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::AccessToken => "access-token",
        TokenKind::JwtSvid => "jwt-svid",
        TokenKind::WitSvid => "wit-svid",
    }
}

fn print_claims(
    verified: &VerifiedToken,
    expected: Expectation<'_>,
    now: Timestamp,
    status: Option<&str>,
    warnings: &[String],
) -> Result<(), CliError> {
    let claims = &verified.claims;
    let mut lines = KeyValueTable::default();
    lines.add("kind", verified.kind.to_string());
    lines.add("signature", format!("valid, by key {}", verified.kid));
    lines.add("issuer", with_check_note(&claims.iss, expected.issuer.is_some()));
    if verified.kind != TokenKind::WitSvid {
        let audiences = claims.audiences().join(", ");
        lines.add("audience", with_check_note(&audiences, expected.audience.is_some()));
    }
    lines.add("subject", claims.sub.as_str());
    lines.add_some("agent", claims.client_id.as_deref());
    if verified.kind == TokenKind::AccessToken {
        lines.add("scope", claims.scope.as_str());
    }
    let remaining = claims.exp.saturating_sub(now.as_secs());
    lines.add("expires", format!("{} (in {remaining} s)", Timestamp::from_secs(claims.exp)));
    lines.add("jti", claims.jti.as_str());
    lines.add_some("status", status);
    lines.add("hostbadge", verified.raw_claims["hostbadge"].to_string());
    for warning in warnings {
        lines.add("warning", warning.as_str());
    }
    lines.print()
}

/// What was verified, and which claims were not compared.
fn summary(verified: &VerifiedToken, expected: Expectation<'_>, has_status: bool) -> String {
    let needs_status = !has_status && verified.raw_claims.get("status").is_some();
    let has_audience = verified.kind != TokenKind::WitSvid;
    let not_compared: Vec<&str> = [
        (expected.issuer.is_none(), "the issuer (--issuer)"),
        (has_audience && expected.audience.is_none(), "the audience (--audience)"),
        (needs_status, "the status (--status-list)"),
    ]
    .into_iter()
    .filter_map(|(is_open, name)| is_open.then_some(name))
    .collect();
    let mut text = format!("signature and times of this {}", verified.kind);
    if verified.kind == TokenKind::WitSvid {
        text += "; its presenter must also prove possession of the key in \"cnf\"";
    }
    if !not_compared.is_empty() {
        text += &format!("; not compared: {}", not_compared.join(", "));
    }
    text
}

fn with_check_note(value: &str, expected: bool) -> String {
    if expected { format!("{value} (as expected)") } else { format!("{value} (not checked)") }
}
