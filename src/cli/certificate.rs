//! `hostbadge certificate`: a certificate for this process's own identity, once or renewed continuously.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::{read_file, write_file};
use super::linked_dir::{LinkedDir, prepare_dir};
use super::output::{print_bytes, print_line};
use super::watch::{Renewed, renew_until_signal};
use crate::enroll::pem;
use crate::wire::agent::{CertificateRequest, CertificateResponse, Ttl};

/// Largest PKCS#10 request in bytes.
const MAX_CSR_SIZE: usize = 64 * 1024;

const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const BUNDLE_FILE: &str = "bundle.pem";
const COMBINED_FILE: &str = "combined.pem";
const ALL_FILES: &[&str] = &[BUNDLE_FILE, COMBINED_FILE, KEY_FILE, CERT_FILE];

#[derive(Args, Debug)]
pub(super) struct CertificateArgs {
    /// PKCS#10 request (PEM) with the public key to certify; the rest of the request is ignored
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,

    /// Write cert.pem, key.pem, combined.pem (certificate and key) and bundle.pem into DIR instead of to
    /// standard output. DIR is created if only itself is missing
    #[arg(long, short, alias = "out", value_name = "DIR", conflicts_with = "watch")]
    output: Option<PathBuf>,

    /// Write the files of --output into DIR and renew them at half of the certificate's lifetime, until SIGTERM
    /// or SIGINT; then remove them. All files are replaced at once, by the link DIR/..data; files that this
    /// command did not write are refused and stay. One process can renew the files of a directory
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,

    /// Lifetime, like "10m", or a number of seconds; at most the host's `[certificates] ttl`, which is the
    /// default
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// Agent to act as, if this process matches several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

impl CertificateArgs {
    /// Whether the certificate goes to standard output.
    pub(super) fn prints_result(&self) -> bool {
        self.watch.is_none() && self.output.is_none()
    }
}

pub(super) async fn run(common: &CommonArgs, arguments: &CertificateArgs) -> Result<ExitCode, CliError> {
    if let Some(dir) = &arguments.watch {
        return watch(common, arguments, dir).await;
    }
    let reply = request_certificate(common, arguments).await?;
    let certificate = reply.body;
    if let Some(dir) = &arguments.output {
        let bundle = fetch_bundle(common).await?;
        prepare_dir(dir)?;
        for (name, text) in (CertificateFiles { certificate: &certificate, bundle: &bundle }).list().iter() {
            write_file(&dir.join(name), text.as_bytes(), 0o600)?;
        }
        if common.json {
            return print_json(&json!({ "expires_at": certificate.expires_at }));
        }
        print_line(format_args!("{}: valid until {}", dir.display(), certificate.expires_at))?;
        return Ok(ExitCode::SUCCESS);
    }
    if common.json {
        return print_json(&reply.raw);
    }
    print_bytes(combined(&certificate).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Renews the files until a signal arrives or the request is refused, then removes them.
async fn watch(common: &CommonArgs, arguments: &CertificateArgs, dir: &Path) -> Result<ExitCode, CliError> {
    // The key of a signing request is its owner's, and so may be a file key.pem beside the certificate.
    let used: &[&str] = match arguments.csr {
        None => ALL_FILES,
        Some(_) => &[BUNDLE_FILE, CERT_FILE],
    };
    let mut files = LinkedDir::claim(dir, ALL_FILES, used)?;
    let outcome = renew_until_signal(async || {
        let certificate = request_certificate(common, arguments).await?.body;
        let bundle = fetch_bundle(common).await?;
        let list = (CertificateFiles { certificate: &certificate, bundle: &bundle }).list();
        let contents: Vec<(&str, &[u8])> = list.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        files.replace(&contents)?;
        Ok(Renewed { expires_at: certificate.expires_at, place: dir.display().to_string() })
    })
    .await;
    files.remove();
    outcome
}

/// What is written into a directory.
struct CertificateFiles<'a> {
    certificate: &'a CertificateResponse,
    bundle: &'a str,
}

impl CertificateFiles<'_> {
    /// The files, the certificate last, so that a program that waits for it finds the other files complete.
    fn list(&self) -> Vec<(&'static str, Zeroizing<String>)> {
        let text = |text: &str| Zeroizing::new(text.to_owned());
        let mut files = vec![(BUNDLE_FILE, text(self.bundle))];
        if let Some(key) = &self.certificate.private_key {
            files.extend([(COMBINED_FILE, combined(self.certificate)), (KEY_FILE, key.clone())]);
        }
        files.push((CERT_FILE, text(&self.certificate.certificate_chain)));
        files
    }
}

/// The chain, and the private key if the daemon made one, as one text.
fn combined(certificate: &CertificateResponse) -> Zeroizing<String> {
    let key = certificate.private_key.as_ref().map(|key| key.as_str()).unwrap_or_default();
    Zeroizing::new(format!("{}{key}", certificate.certificate_chain))
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
