//! `hostbadge verify token|evidence`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;

use super::table::{Lines, columns};
use super::{Common, Failure, print_json};
use crate::clock::{Clock, Timestamp};
use crate::verify::{self, Expectation, Jwks, PcrPolicy, Roots, eat, evidence};

/// Larger key sets and tokens are none of ours.
const MOST: u64 = 1024 * 1024;

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// A token: its signature, type, times, issuer and audience
    Token(Token),
    /// Evidence, alone or in an EAT: nonce, signatures, keys, PCR values, logs and the issuing keys that the host's TPM
    /// stands for
    Evidence(Evidence),
}

#[derive(Args, Debug)]
pub struct Evidence {
    /// The document, as `hostbadge attest` gives it; standard input where it is left out or "-"
    file: Option<PathBuf>,

    /// The challenge that was given to the host, in base64url without padding
    #[arg(long, value_name = "BASE64URL")]
    nonce: String,

    /// The Name of the host's attestation key, as `hostbadge status` on that host shows it: without it nothing ties the
    /// evidence to that host's TPM
    #[arg(long, value_name = "NAME")]
    ak: Option<String>,

    /// In place of --ak: the CA of the organisation that enrolled the host, PEM. Its certificate for the host names the AK
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Directory of TPM makers' certificates, PEM or DER (.pem, .crt, .cer, .der): the EK's certificate must lead to a root
    #[arg(long, value_name = "DIR")]
    roots: Option<PathBuf>,

    /// The PCR values that are taken: a TOML file with `version = 1` and, under `[sha256]`, numbers and values
    #[arg(long, value_name = "FILE")]
    pcrs: Option<PathBuf>,

    /// Which host it must be: 26 characters, as `hostbadge status` shows it
    #[arg(long, value_name = "ID")]
    host: Option<String>,
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
    match verb {
        Verb::Token(arguments) => token(common, arguments),
        Verb::Evidence(arguments) => evidence(common, arguments),
    }
}

/// A table of what holds and what does not; exit status 1 where anything does not.
fn evidence(common: &Common, arguments: &Evidence) -> Result<ExitCode, Failure> {
    let text = match arguments.file.as_deref() {
        Some(file) if file != Path::new("-") => bounded(file, eat::LARGEST as u64 + 1)?,
        _ => standard_input(eat::LARGEST as u64 + 1)?,
    };
    let wrong = |e: verify::Error| Failure::Local(e.to_string());
    let nonce = BASE64URL_NOPAD
        .decode(arguments.nonce.as_bytes())
        .map_err(|e| Failure::Local(format!("the nonce is not base64url: {e}")))?;
    // A JSON object is the document; an EAT is a JWT, which begins with no brace.
    let (mut findings, document) = match text.trim_ascii().first() {
        Some(b'{') => (Vec::new(), evidence::Evidence::parse(&text).map_err(wrong)?),
        _ => {
            let token = std::str::from_utf8(text.trim_ascii())
                .map_err(|_| Failure::Local("this is neither evidence nor an EAT".into()))?;
            let eat = eat::Eat::parse(token).map_err(wrong)?;
            (eat.check(&nonce), eat.evidence().clone())
        }
    };
    findings.extend(document.check(&nonce));
    let now = Clock::System.now();
    let certificates = |e: verify::Error| Failure::Local(e.to_string());
    let ca = arguments.ca.as_deref().map(Roots::read_file).transpose().map_err(certificates)?;
    let roots = arguments.roots.as_deref().map(Roots::read_dir).transpose().map_err(certificates)?;
    let vouched = ca.map(|ca| document.is_vouched_by(&ca, now));
    let enrolled = vouched.as_ref().is_some_and(|vouched| vouched.holds);
    if vouched.is_none() || arguments.ak.is_some() {
        findings.push(document.is_signed_by(arguments.ak.as_deref()));
    }
    findings.extend(vouched);
    findings.push(document.is_certified(roots.as_ref(), enrolled, now));
    if let Some(host) = &arguments.host {
        findings.push(document.is_of(host));
    }
    if let Some(file) = &arguments.pcrs {
        let wrong = |what: &dyn std::fmt::Display| Failure::Local(format!("{}: {what}", file.display()));
        let text = String::from_utf8(bounded(file, MOST)?).map_err(|e| wrong(&e))?;
        findings.push(PcrPolicy::parse(&text).map_err(|e| wrong(&e))?.judge(&document));
    }
    let all = findings.iter().all(|finding| finding.holds);
    match common.json {
        true => drop(print_json(&json!({ "valid": all, "host": document.host, "findings": findings }))),
        false => {
            let row = |finding: &evidence::Finding| {
                let verdict = match (finding.checked, finding.holds) {
                    (false, _) => "not checked",
                    (true, true) => "holds",
                    (true, false) => "DOES NOT HOLD",
                };
                vec![finding.what.to_owned(), verdict.to_owned(), finding.detail.clone()]
            };
            columns(&["WHAT", "VERDICT", "DETAIL"], &findings.iter().map(row).collect::<Vec<_>>());
        }
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn token(common: &Common, arguments: &Token) -> Result<ExitCode, Failure> {
    let token = match arguments.token.as_deref() {
        Some(token) if token != "-" => token.to_owned(),
        _ => String::from_utf8(standard_input(MOST)?)
            .map_err(|_| Failure::Local("standard input is no text".into()))?,
    };
    let keys = bounded(&arguments.jwks, MOST)?;
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

fn standard_input(most: u64) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    std::io::stdin()
        .take(most)
        .read_to_end(&mut text)
        .map_err(|e| Failure::Local(format!("standard input: {e}")))?;
    Ok(text)
}

fn bounded(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut text))
        .map_err(|e| Failure::Local(format!("{}: {e}", path.display())))?;
    Ok(text)
}
