//! `hostbadge certificate`: a certificate for this process's own identity, once or for as long as somebody needs it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use data_encoding::BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::table::sanitize;
use super::{CliError, CommonArgs, client, print_json};
use crate::clock::{Clock, Timestamp};
use crate::enroll::pem;
use crate::store;

/// No request for a certificate is larger.
const MAX_CSR_SIZE: u64 = 64 * 1024;
/// How soon a daemon that is away is asked again, at first and at last.
const INITIAL_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);

const CERT_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
const BUNDLE_FILE: &str = "bundle.pem";

#[derive(Args, Debug)]
pub struct CertificateArgs {
    /// A PKCS#10 request, PEM: the key stays where it is. Of what it asks for only the key counts
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,

    /// Write cert.pem, key.pem and bundle.pem into DIR instead of to standard output
    #[arg(long, value_name = "DIR", conflicts_with = "watch")]
    out: Option<PathBuf>,

    /// Keep cert.pem, key.pem and bundle.pem in DIR fresh until ended by SIGTERM or SIGINT, and remove them then.
    /// cert.pem is replaced last
    #[arg(long, value_name = "DIR")]
    watch: Option<PathBuf>,

    /// A shorter life than the host's usual, like "10m"
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// Which agent to be, where this process is several
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

pub async fn run(common: &CommonArgs, arguments: &CertificateArgs) -> Result<ExitCode, CliError> {
    if let Some(dir) = &arguments.watch {
        return watch(common, arguments, dir).await;
    }
    let response = request_certificate(common, arguments).await?;
    if let Some(dir) = &arguments.out {
        let bundle = fetch_bundle(common).await?;
        write_files(dir, &response, &bundle)?;
        if common.json {
            return Ok(print_json(&serde_json::json!({ "expires_at": response["expires_at"] })));
        }
        println!("{}", summary(&response, dir));
        return Ok(ExitCode::SUCCESS);
    }
    if common.json {
        return Ok(print_json(&response));
    }
    print!(
        "{}{}",
        string_field(&response, "certificate_chain")?,
        response["private_key"].as_str().unwrap_or_default()
    );
    Ok(ExitCode::SUCCESS)
}

/// Until somebody ends it, or it is refused.
async fn watch(common: &CommonArgs, arguments: &CertificateArgs, dir: &Path) -> Result<ExitCode, CliError> {
    let listen = |kind| signal(kind).map_err(|e| CliError::Local(e.to_string()));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let outcome = tokio::select! {
        failure = renew_until_error(common, arguments, dir) => Err(failure),
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

/// Replaces the files at half of each certificate's life. Returns what no later try would mend.
async fn renew_until_error(common: &CommonArgs, arguments: &CertificateArgs, dir: &Path) -> CliError {
    let mut retry_delay = INITIAL_RETRY_DELAY;
    let mut last_error = String::new();
    loop {
        let renewal = async {
            let response = request_certificate(common, arguments).await?;
            let bundle = fetch_bundle(common).await?;
            write_files(dir, &response, &bundle)?;
            Ok(response)
        };
        match renewal.await {
            Ok(response) => {
                println!("{}", summary(&response, dir));
                last_error.clear();
                retry_delay = INITIAL_RETRY_DELAY;
                tokio::time::sleep(renewal_delay(&response)).await;
                continue;
            }
            Err(failure) if !is_retryable(&failure) => return failure,
            // Each trouble is said once.
            Err(failure) if failure.to_string() != last_error => {
                last_error = failure.to_string();
                eprintln!("hostbadge: {last_error}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(jitter(retry_delay)).await;
        retry_delay = (retry_delay * 2).min(MAX_RETRY_DELAY);
    }
}

/// Whether it makes sense to ask again.
fn is_retryable(failure: &CliError) -> bool {
    match failure {
        CliError::NoDaemon(_) | CliError::Unavailable(_) => true,
        CliError::Refused(body) => body["error"] == "slow_down",
        CliError::Local(_) => false,
    }
}

async fn request_certificate(common: &CommonArgs, arguments: &CertificateArgs) -> Result<Value, CliError> {
    let mut request = Map::new();
    if let Some(file) = &arguments.csr {
        request.insert("csr".into(), read_csr(file)?.into());
    }
    if let Some(ttl) = &arguments.ttl {
        request.insert("ttl".into(), ttl.as_str().into());
    }
    if let Some(agent) = &arguments.agent {
        request.insert("agent".into(), agent.as_str().into());
    }
    client::post(&common.socket, "/v1/certificate", &Value::Object(request)).await
}

fn read_csr(file: &Path) -> Result<String, CliError> {
    use std::io::Read;
    let mut text = String::new();
    let read = fs::File::open(file).and_then(|file| file.take(MAX_CSR_SIZE).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(e) => Err(CliError::Local(format!("{}: {e}; the request is to be PEM", file.display()))),
    }
}

/// The roots of the host's trust domain, PEM.
async fn fetch_bundle(common: &CommonArgs) -> Result<String, CliError> {
    let document = client::get(&common.socket, "/v1/bundle").await?;
    let keys = document["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let roots = keys.iter().filter_map(|key| BASE64.decode(key["x5c"][0].as_str()?.as_bytes()).ok());
    let text: Result<String, _> = roots.map(|root| pem("CERTIFICATE", &root)).collect();
    let text = text.map_err(|e| CliError::Local(e.to_string()))?;
    match text.is_empty() {
        true => Err(CliError::Local("the bundle holds no certificate".into())),
        false => Ok(text),
    }
}

/// The certificate comes last: whoever waits for it finds the rest.
fn write_files(dir: &Path, response: &Value, bundle: &str) -> Result<(), CliError> {
    let failed = |name: &str| {
        let path = dir.join(name);
        move |e: io::Error| CliError::Local(format!("{}: {e}", path.display()))
    };
    let chain = string_field(response, "certificate_chain")?;
    store::ensure_dir(dir, 0o700).map_err(|e| CliError::Local(format!("{e}")))?;
    store::write_atomic(&dir.join(BUNDLE_FILE), bundle.as_bytes(), 0o600).map_err(failed(BUNDLE_FILE))?;
    if let Some(key) = response["private_key"].as_str() {
        let key = Zeroizing::new(key.to_owned());
        store::write_atomic(&dir.join(KEY_FILE), key.as_bytes(), 0o600).map_err(failed(KEY_FILE))?;
    }
    store::write_atomic(&dir.join(CERT_FILE), chain.as_bytes(), 0o600).map_err(failed(CERT_FILE))
}

fn string_field<'a>(response: &'a Value, name: &str) -> Result<&'a str, CliError> {
    response[name].as_str().ok_or_else(|| CliError::Local(format!("the answer holds no {name}")))
}

fn summary(response: &Value, dir: &Path) -> String {
    let expires_at = response["expires_at"].as_str().unwrap_or("unknown");
    format!("{}: fresh until {}", dir.display(), sanitize(expires_at))
}

/// Half of what is left of its life, or a little less.
fn renewal_delay(response: &Value) -> Duration {
    let expires_at = response["expires_at"].as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    let expires_at = expires_at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let left = Timestamp::from_secs(expires_at.as_secs()).since(Clock::System.now());
    jitter(left / 2).max(Duration::from_millis(500))
}

/// Up to a tenth less, so that many do not ask at once.
fn jitter(delay: Duration) -> Duration {
    let mut part = [0];
    let _ = SystemRandom::new().fill(&mut part);
    delay - (delay / 10).mul_f64(f64::from(part[0]) / 256.0)
}
