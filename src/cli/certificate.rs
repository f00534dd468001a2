//! `hostbadge certificate`: a certificate for this process's own identity, once or renewed continuously.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::{read_file, write_file};
use super::renewal::{Backoff, renewal_delay};
use crate::clock::Clock;
use crate::enroll::pem;
use crate::store;
use crate::wire::agent::{CertificateRequest, CertificateResponse, Ttl};

/// Largest PKCS#10 request in bytes.
const MAX_CSR_SIZE: usize = 64 * 1024;

const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const BUNDLE_FILE: &str = "bundle.pem";

#[derive(Args, Debug)]
pub(super) struct CertificateArgs {
    /// PKCS#10 request (PEM) with the public key to certify; the rest of the request is ignored
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,

    /// Write cert.pem, key.pem and bundle.pem into DIR instead of to standard output
    #[arg(long, value_name = "DIR", conflicts_with = "watch")]
    out: Option<PathBuf>,

    /// Write cert.pem, key.pem and bundle.pem into DIR and renew them at half of the certificate's lifetime,
    /// until SIGTERM or SIGINT; then remove them. cert.pem is replaced last
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,

    /// Lifetime, like "10m", or a number of seconds; at most the host's `[certificates] ttl`, which is the default
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

pub(super) async fn run(common: &CommonArgs, arguments: &CertificateArgs) -> Result<ExitCode, CliError> {
    if let Some(dir) = &arguments.watch {
        return watch(common, arguments, dir).await;
    }
    let reply = request_certificate(common, arguments).await?;
    let certificate = reply.body;
    if let Some(dir) = &arguments.out {
        let bundle = fetch_bundle(common).await?;
        write_files(dir, &certificate, &bundle)?;
        if common.json {
            return print_json(&json!({ "expires_at": certificate.expires_at }));
        }
        println!("{}", summary(&certificate, dir));
        return Ok(ExitCode::SUCCESS);
    }
    if common.json {
        return print_json(&reply.raw);
    }
    let key = certificate.private_key.as_ref().map(|key| key.as_str()).unwrap_or_default();
    print!("{}{key}", certificate.certificate_chain);
    Ok(ExitCode::SUCCESS)
}

/// Renews the files until a signal arrives or the request is refused, then removes them.
async fn watch(common: &CommonArgs, arguments: &CertificateArgs, dir: &Path) -> Result<ExitCode, CliError> {
    let listen = |kind| signal(kind).map_err(CliError::local);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let outcome = tokio::select! {
        error = renew_until_error(common, arguments, dir) => Err(error),
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        _ = hangup.recv() => Ok(ExitCode::SUCCESS),
    };
    for name in [CERT_FILE, KEY_FILE, BUNDLE_FILE] {
        if name == KEY_FILE && arguments.csr.is_some() {
            continue;
        }
        match fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                eprintln!("hostbadge: {}: {e}", dir.join(name).display());
            }
            _ => {}
        }
    }
    outcome
}

/// Replaces the files at half of each certificate's lifetime. Returns the first error that a repetition would
/// not fix.
async fn renew_until_error(common: &CommonArgs, arguments: &CertificateArgs, dir: &Path) -> CliError {
    let mut backoff = Backoff::new();
    let mut last_error = String::new();
    loop {
        match renew(common, arguments, dir).await {
            Ok(certificate) => {
                println!("{}", summary(&certificate, dir));
                last_error.clear();
                backoff = Backoff::new();
                tokio::time::sleep(renewal_delay(certificate.expires_at, Clock::System.now())).await;
                continue;
            }
            Err(error) if !is_retryable(&error) => return error,
            // A repeated error is printed once.
            Err(error) if error.to_string() != last_error => {
                last_error = error.to_string();
                eprintln!("hostbadge: {last_error}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn renew(
    common: &CommonArgs,
    arguments: &CertificateArgs,
    dir: &Path,
) -> Result<CertificateResponse, CliError> {
    let certificate = request_certificate(common, arguments).await?.body;
    let bundle = fetch_bundle(common).await?;
    write_files(dir, &certificate, &bundle)?;
    Ok(certificate)
}

fn is_retryable(error: &CliError) -> bool {
    match error {
        CliError::NoDaemon(_) | CliError::Unavailable(_) => true,
        CliError::Refused(response) => response.error == "slow_down",
        CliError::Local(_) => false,
    }
}

async fn request_certificate(
    common: &CommonArgs,
    arguments: &CertificateArgs,
) -> Result<client::Reply<CertificateResponse>, CliError> {
    let csr = arguments.csr.as_deref().map(read_csr).transpose()?;
    let request = CertificateRequest {
        csr: csr.map(Into::into),
        ttl: arguments.ttl.as_deref().map(|ttl| Ttl::Text(ttl.into())),
        agent: arguments.agent.as_deref().map(Into::into),
    };
    client::post(&common.socket, "/v1/certificate", &request).await
}

fn read_csr(file: &Path) -> Result<String, CliError> {
    String::from_utf8(read_file(file, MAX_CSR_SIZE)?)
        .map_err(|_| CliError::Local(format!("{}: the request must be PEM", file.display())))
}

/// The members of a SPIFFE bundle document (RFC 7517 with `x5c`) that hold root certificates.
#[derive(Deserialize)]
struct BundleDocument {
    keys: Vec<BundleKey>,
}

#[derive(Deserialize)]
struct BundleKey {
    #[serde(default)]
    x5c: Vec<String>,
}

/// The root certificates of the host's trust domain, PEM.
async fn fetch_bundle(common: &CommonArgs) -> Result<String, CliError> {
    let document = client::get::<BundleDocument>(&common.socket, "/v1/bundle").await?.body;
    let roots = document.keys.iter().filter_map(|key| BASE64.decode(key.x5c.first()?.as_bytes()).ok());
    let text: Result<String, _> = roots.map(|root| pem("CERTIFICATE", &root)).collect();
    let text = text.map_err(CliError::local)?;
    if text.is_empty() {
        return Err(CliError::Local("the bundle contains no certificate".into()));
    }
    Ok(text)
}

/// Writes the certificate last, so that a program that waits for it finds the other files complete.
fn write_files(dir: &Path, certificate: &CertificateResponse, bundle: &str) -> Result<(), CliError> {
    store::ensure_dir(dir, 0o700).map_err(CliError::local)?;
    write_file(&dir.join(BUNDLE_FILE), bundle.as_bytes(), 0o600)?;
    if let Some(key) = &certificate.private_key {
        write_file(&dir.join(KEY_FILE), key.as_bytes(), 0o600)?;
    }
    write_file(&dir.join(CERT_FILE), certificate.certificate_chain.as_bytes(), 0o600)
}

fn summary(certificate: &CertificateResponse, dir: &Path) -> String {
    format!("{}: valid until {}", dir.display(), certificate.expires_at)
}
