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

use super::table::plain;
use super::{Common, Failure, client, print_json};
use crate::clock::{Clock, Timestamp};
use crate::enroll::pem;
use crate::store;

/// No request for a certificate is larger.
const LARGEST_CSR: u64 = 64 * 1024;
/// How soon a daemon that is away is asked again, at first and at last.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(30);

const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";
const BUNDLE: &str = "bundle.pem";

#[derive(Args, Debug)]
pub struct Arguments {
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

pub async fn run(common: &Common, arguments: &Arguments) -> Result<ExitCode, Failure> {
    if let Some(dir) = &arguments.watch {
        return watch(common, arguments, dir).await;
    }
    let answer = ask(common, arguments).await?;
    if let Some(dir) = &arguments.out {
        let bundle = bundle(common).await?;
        put(dir, &answer, &bundle)?;
        if common.json {
            return Ok(print_json(&serde_json::json!({ "expires_at": answer["expires_at"] })));
        }
        println!("{}", told(&answer, dir));
        return Ok(ExitCode::SUCCESS);
    }
    if common.json {
        return Ok(print_json(&answer));
    }
    print!("{}{}", text(&answer, "certificate_chain")?, answer["private_key"].as_str().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

/// Until somebody ends it, or it is refused.
async fn watch(common: &Common, arguments: &Arguments, dir: &Path) -> Result<ExitCode, Failure> {
    let heard = |kind| signal(kind).map_err(|e| Failure::Local(e.to_string()));
    let mut terminate = heard(SignalKind::terminate())?;
    let mut interrupt = heard(SignalKind::interrupt())?;
    let mut hangup = heard(SignalKind::hangup())?;
    let ended = tokio::select! {
        failure = keep_fresh(common, arguments, dir) => Err(failure),
        _ = terminate.recv() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        _ = hangup.recv() => Ok(ExitCode::SUCCESS),
    };
    for name in [CERT, KEY, BUNDLE] {
        if name == KEY && arguments.csr.is_some() {
            continue;
        }
        match fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                eprintln!("hostbadge: {}: {e}", dir.join(name).display());
            }
            _ => {}
        }
    }
    ended
}

/// Replaces the files at half of each certificate's life. Returns what no later try would mend.
async fn keep_fresh(common: &Common, arguments: &Arguments, dir: &Path) -> Failure {
    let mut pause = SOON;
    let mut said = String::new();
    loop {
        let fresh = async {
            let answer = ask(common, arguments).await?;
            let bundle = bundle(common).await?;
            put(dir, &answer, &bundle)?;
            Ok(answer)
        };
        match fresh.await {
            Ok(answer) => {
                println!("{}", told(&answer, dir));
                said.clear();
                pause = SOON;
                tokio::time::sleep(half_life(&answer)).await;
                continue;
            }
            Err(failure) if !passes(&failure) => return failure,
            // Each trouble is said once.
            Err(failure) if failure.to_string() != said => {
                said = failure.to_string();
                eprintln!("hostbadge: {said}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(about(pause)).await;
        pause = (pause * 2).min(LATE);
    }
}

/// Whether it makes sense to ask again.
fn passes(failure: &Failure) -> bool {
    match failure {
        Failure::NoDaemon(_) | Failure::NotNow(_) => true,
        Failure::Refused(body) => body["error"] == "slow_down",
        Failure::Local(_) => false,
    }
}

async fn ask(common: &Common, arguments: &Arguments) -> Result<Value, Failure> {
    let mut ask = Map::new();
    if let Some(file) = &arguments.csr {
        ask.insert("csr".into(), read_csr(file)?.into());
    }
    if let Some(ttl) = &arguments.ttl {
        ask.insert("ttl".into(), ttl.as_str().into());
    }
    if let Some(agent) = &arguments.agent {
        ask.insert("agent".into(), agent.as_str().into());
    }
    client::post(&common.socket, "/v1/certificate", &Value::Object(ask)).await
}

fn read_csr(file: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let read = fs::File::open(file).and_then(|file| file.take(LARGEST_CSR).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(e) => Err(Failure::Local(format!("{}: {e}; the request is to be PEM", file.display()))),
    }
}

/// The roots of the host's trust domain, PEM.
async fn bundle(common: &Common) -> Result<String, Failure> {
    let document = client::get(&common.socket, "/v1/bundle").await?;
    let keys = document["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let roots = keys.iter().filter_map(|key| BASE64.decode(key["x5c"][0].as_str()?.as_bytes()).ok());
    let text: String = roots.map(|root| pem("CERTIFICATE", &root)).collect();
    match text.is_empty() {
        true => Err(Failure::Local("the bundle holds no certificate".into())),
        false => Ok(text),
    }
}

/// The certificate comes last: whoever waits for it finds the rest.
fn put(dir: &Path, answer: &Value, bundle: &str) -> Result<(), Failure> {
    let failed = |name: &str| {
        let path = dir.join(name);
        move |e: io::Error| Failure::Local(format!("{}: {e}", path.display()))
    };
    let chain = text(answer, "certificate_chain")?;
    store::ensure_dir(dir, 0o700).map_err(|e| Failure::Local(format!("{e}")))?;
    store::replace(&dir.join(BUNDLE), bundle.as_bytes(), 0o600).map_err(failed(BUNDLE))?;
    if let Some(key) = answer["private_key"].as_str() {
        let key = Zeroizing::new(key.to_owned());
        store::replace(&dir.join(KEY), key.as_bytes(), 0o600).map_err(failed(KEY))?;
    }
    store::replace(&dir.join(CERT), chain.as_bytes(), 0o600).map_err(failed(CERT))
}

fn text<'a>(answer: &'a Value, name: &str) -> Result<&'a str, Failure> {
    answer[name].as_str().ok_or_else(|| Failure::Local(format!("the answer holds no {name}")))
}

fn told(answer: &Value, dir: &Path) -> String {
    let until = answer["expires_at"].as_str().unwrap_or("unknown");
    format!("{}: fresh until {}", dir.display(), plain(until))
}

/// Half of what is left of its life, or a little less.
fn half_life(answer: &Value) -> Duration {
    let until = answer["expires_at"].as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    let until = until.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let left = Timestamp::from_secs(until.as_secs()).since(Clock::System.now());
    about(left / 2).max(Duration::from_millis(500))
}

/// Up to a tenth less, so that many do not ask at once.
fn about(pause: Duration) -> Duration {
    let mut part = [0];
    let _ = SystemRandom::new().fill(&mut part);
    pause - (pause / 10).mul_f64(f64::from(part[0]) / 256.0)
}
