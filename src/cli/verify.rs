//! `hostbadge verify token`.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::table::Lines;
use super::{Common, Failure, print_json};
use crate::clock::{Clock, Timestamp};
use crate::verify::{self, Expectation, Jwks};

/// Larger key sets and tokens are none of ours.
const MOST: u64 = 1024 * 1024;

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// A token: its signature, type, times, issuer and audience
    Token(Token),
}

#[derive(Args, Debug)]
pub struct Token {
    /// The token; read from standard input where it is left out or "-"
    token: Option<String>,

    /// The host's public keys, as `hostbadge export jwks` gives them
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,

    /// Whom the token must be for
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,

    /// Who must have issued it
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
}

pub fn run(common: &Common, verb: &Verb) -> Result<ExitCode, Failure> {
    let Verb::Token(arguments) = verb;
    let token = match arguments.token.as_deref() {
        Some(token) if token != "-" => token.to_owned(),
        _ => standard_input()?,
    };
    let keys = bounded(&arguments.jwks)?;
    let keys =
        Jwks::parse(&keys).map_err(|e| Failure::Local(format!("{}: {e}", arguments.jwks.display())))?;
    let expected =
        Expectation { issuer: arguments.issuer.as_deref(), audience: arguments.audience.as_deref() };
    let now = Clock::System.now();
    match verify::verify(token.trim(), &keys, now, true, expected) {
        Err(e) if common.json => {
            print_json(&json!({ "valid": false, "reason": e.to_string() }));
            Ok(ExitCode::FAILURE)
        }
        Err(e) => Err(Failure::Local(format!("the token does not hold: {e}"))),
        Ok(verified) if common.json => {
            Ok(print_json(&json!({ "valid": true, "kid": verified.kid, "claims": verified.all })))
        }
        Ok(verified) => {
            let claims = &verified.claims;
            let mut lines = Lines::default();
            lines.add("signature", format!("holds, by key {}", verified.kid));
            lines.add("issuer", checked(&claims.iss, arguments.issuer.is_some()));
            lines.add("audience", checked(&claims.aud, arguments.audience.is_some()));
            lines.add("subject", claims.sub.as_str());
            lines.add("agent", claims.client_id.as_str());
            lines.add("scope", claims.scope.as_str());
            lines.add(
                "expires",
                format!(
                    "{} (in {} s)",
                    Timestamp::from_secs(claims.exp),
                    claims.exp.saturating_sub(now.secs())
                ),
            );
            lines.add("jti", claims.jti.as_str());
            lines.add("hostbadge", verified.all["hostbadge"].to_string());
            lines.print();
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn checked(value: &str, expected: bool) -> String {
    if expected { format!("{value} (as expected)") } else { format!("{value} (not checked)") }
}

fn standard_input() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(MOST)
        .read_to_string(&mut text)
        .map_err(|e| Failure::Local(format!("standard input: {e}")))?;
    Ok(text)
}

fn bounded(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST).read_to_end(&mut text))
        .map_err(|e| Failure::Local(format!("{}: {e}", path.display())))?;
    Ok(text)
}
