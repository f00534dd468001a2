//! `hostbadge enroll request|challenge|activate|certify|install`.
//!
//! request, activate and install ask the host's daemon; challenge and certify are the operator's, and need neither daemon
//! nor TPM.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use data_encoding::{BASE64, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::table::Lines;
use super::{Common, Failure, client, print_json};
use crate::clock::Clock;
use crate::enroll::{
    Answer, Authority, Challenge, Checked, Error, Grant, LARGEST_SMALL, Request, Secret, Seen, pem,
};
use crate::store;
use crate::verify::evidence::LARGEST;
use crate::verify::{Names, Roots};

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// On the host: say which keys its TPM has, for an operator
    Request(To),
    /// The operator: check a request, and make a challenge that only the TPM of its keys can answer
    Challenge(Make),
    /// On the host: have the TPM answer a challenge, once
    Activate(Activate),
    /// The operator: check the answer, and certify the host key
    Certify(Certify),
    /// On the host: keep the certificate
    Install {
        /// The certificate and those that lead to the organisation's root, PEM
        certificate: PathBuf,
    },
}

#[derive(Args, Debug)]
pub struct To {
    /// Write to FILE, replaced whole, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Make {
    /// As `hostbadge enroll request` gave it
    request: PathBuf,

    /// Directory of TPM makers' certificates, PEM or DER (.pem, .crt, .cer, .der): the roots, and any that lead to them
    #[arg(long, value_name = "DIR", required_unless_present = "no_roots")]
    roots: Option<PathBuf>,

    /// Do not ask for a TPM maker's word: whatever has made the keys, a program or a chip, is taken
    #[arg(long, conflicts_with = "roots")]
    no_roots: bool,

    /// Which host it must be: 26 characters, as `hostbadge status` shows it there. Without it any TPM of these makers will do
    #[arg(long, value_name = "ID")]
    host: Option<String>,

    /// The trust domain that the certificate is to name: the host says which, and does not decide it
    #[arg(long, value_name = "NAME", required_unless_present = "any_trust_domain")]
    trust_domain: Option<String>,

    /// Take whatever trust domain the host says
    #[arg(long, conflicts_with = "trust_domain")]
    any_trust_domain: bool,

    /// Where to write the secret that `certify` needs; it stays here, and must not exist yet
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,

    #[command(flatten)]
    to: To,
}

#[derive(Args, Debug)]
pub struct Activate {
    /// As `hostbadge enroll challenge` gave it
    #[arg(required_unless_present = "credential", conflicts_with = "credential")]
    challenge: Option<PathBuf>,

    /// Instead of a challenge: a file of tpm2_makecredential for this host's attestation key. Gives the secret in it
    #[arg(long, value_name = "FILE", requires = "ek")]
    credential: Option<PathBuf>,

    /// Which endorsement key the credential is for
    #[arg(long, value_name = "KIND", requires = "credential")]
    ek: Option<Kind>,

    #[command(flatten)]
    to: To,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Rsa,
    Ecc,
}

#[derive(Args, Debug)]
pub struct Certify {
    /// The host's request
    #[arg(long, value_name = "FILE")]
    request: PathBuf,

    /// What `hostbadge enroll challenge` kept; is marked as used
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,

    /// The host's answer
    #[arg(long, value_name = "FILE")]
    answer: PathBuf,

    /// The CA's certificate, first of its chain, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "csr", requires = "ca_key")]
    ca_cert: Option<PathBuf>,

    /// The CA's key, PEM: PKCS#8, SEC 1 or PKCS#1; P-256, P-384 or RSA
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,

    /// Give the host's signing request, PEM, for a CA elsewhere
    #[arg(long, conflicts_with_all = ["ca_cert", "ca_key"])]
    csr: bool,

    /// Also let the host be a CA of its trust domain: it then signs its agents' certificates below the organisation's root,
    /// which is to be the last in the file of --ca-cert
    #[arg(long, conflicts_with = "csr")]
    signing: bool,

    /// How long the certificate counts
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,

    #[command(flatten)]
    to: To,
}

pub async fn run(common: &Common, verb: &Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Request(to) => {
            let request = client::post(&common.admin_socket, "/v1/enroll/request", &json!({})).await?;
            deliver(to, format!("{request}\n").as_bytes(), 0o644)
        }
        Verb::Challenge(arguments) => challenge(common, arguments),
        Verb::Activate(arguments) => activate(common, arguments).await,
        Verb::Certify(arguments) => certify(common, arguments),
        Verb::Install { certificate } => install(common, certificate).await,
    }
}

/// Checks a request. Prints what was found where the challenge goes to a file.
fn challenge(common: &Common, arguments: &Make) -> Result<ExitCode, Failure> {
    let request = Request::parse(&file(&arguments.request, LARGEST)?).map_err(refused)?;
    let checked = request.check().map_err(refused)?;
    let wanted = [
        ("host", &arguments.host, &checked.host),
        ("trust domain", &arguments.trust_domain, &checked.trust_domain),
    ];
    for (what, wanted, found) in wanted {
        if wanted.as_ref().is_some_and(|wanted| wanted != found) {
            return Err(Failure::Local(format!("the request is of another {what}: {found}")));
        }
    }
    let roots = arguments.roots.as_deref().map(Roots::read_dir).transpose();
    let roots = roots.map_err(|e| Failure::Local(e.to_string()))?;
    let seen =
        Seen::of(&checked, roots.as_ref().map(|roots| (roots, Clock::System.now()))).map_err(refused)?;
    let left_out = left_out(&checked, &seen);
    if arguments.secret.exists() {
        let path = arguments.secret.display();
        return Err(Failure::Local(format!("{path} exists, and may be what another challenge needs")));
    }
    let (challenge, secret) = Challenge::make(&checked, seen).map_err(refused)?;
    write(&arguments.secret, &json_line(&secret)?, 0o600)?;
    let done = deliver(&arguments.to, &json_line(&challenge)?, 0o644)?;
    if arguments.to.output.is_none() {
        return Ok(done);
    }
    say(common, &checked, &secret.seen, left_out);
    Ok(done)
}

async fn activate(common: &Common, arguments: &Activate) -> Result<ExitCode, Failure> {
    if let (Some(credential), Some(ek)) = (&arguments.credential, arguments.ek) {
        let ek = match ek {
            Kind::Rsa => "rsa",
            Kind::Ecc => "ecc",
        };
        let ask = json!({ "ek": ek, "credential": BASE64.encode(&file(credential, LARGEST_SMALL)?) });
        let answer = client::post(&common.admin_socket, "/v1/enroll/credential", &ask).await?;
        if common.json && arguments.to.output.is_none() {
            return Ok(print_json(&answer));
        }
        let secret = BASE64.decode(answer["secret"].as_str().unwrap_or_default().as_bytes());
        let secret = secret.map_err(|e| Failure::Local(format!("the daemon's answer: {e}")))?;
        return deliver(&arguments.to, &Zeroizing::new(secret), 0o600);
    }
    let text = file(arguments.challenge.as_deref().unwrap_or(Path::new("")), LARGEST_SMALL)?;
    let challenge = Challenge::parse(&text).map_err(refused)?;
    let ask = serde_json::to_value(&challenge).map_err(|e| Failure::Local(e.to_string()))?;
    let answer = client::post(&common.admin_socket, "/v1/enroll/activate", &ask).await?;
    deliver(&arguments.to, format!("{answer}\n").as_bytes(), 0o644)
}

/// What an operator is to look at, before the challenge goes and before the certificate does.
fn say(common: &Common, checked: &Checked, seen: &Seen, left_out: usize) {
    let ak = HEXLOWER.encode(&checked.ak_name);
    if common.json {
        print_json(&json!({
            "host": seen.host, "trust_domain": seen.trust_domain, "ak": ak, "made": checked.made, "maker": seen.maker,
            "left_out": left_out,
        }));
        return;
    }
    let mut lines = Lines::default();
    lines.add("host", seen.host.as_str());
    lines.add("trust domain", seen.trust_domain.as_str());
    lines.add("requested", checked.made.to_string());
    lines.add("attestation key", ak);
    lines.add("TPM maker", seen.maker.as_deref().unwrap_or("not asked for: nobody says that this is a TPM"));
    if left_out > 0 {
        let what = format!("{left_out} that lead to no root: the host certificate does not name them");
        lines.add("EK certificates left out", what);
    }
    lines.print();
}

/// EK certificates of the request that the host certificate is not to name.
fn left_out(checked: &Checked, seen: &Seen) -> usize {
    checked.keys.certificates().into_iter().filter(|certificate| !seen.takes(certificate)).count()
}

/// The secret is marked as used before the certificate exists, so that there is never a second one.
fn certify(common: &Common, arguments: &Certify) -> Result<ExitCode, Failure> {
    let request = Request::parse(&file(&arguments.request, LARGEST)?).map_err(refused)?;
    let checked = request.check().map_err(refused)?;
    let mut secret = Secret::parse(&file(&arguments.secret, LARGEST_SMALL)?).map_err(refused)?;
    let answer = Answer::parse(&file(&arguments.answer, LARGEST_SMALL)?).map_err(refused)?;
    secret.judge(&checked, &answer).map_err(refused)?;
    let text = match (&arguments.ca_cert, &arguments.ca_key) {
        (Some(certificate), Some(key)) => {
            let certificate = file(certificate, LARGEST_SMALL)?;
            let key = Zeroizing::new(file(key, LARGEST_SMALL)?);
            let authority = Authority::from_pem(&certificate, &key).map_err(refused)?;
            let mut taken = checked.keys.certificates();
            taken.retain(|certificate| secret.seen.takes(certificate));
            let grant = || {
                let mut serial = [0; 16];
                SystemRandom::new().fill(&mut serial).map_err(|_| refused(Error::Random))?;
                Ok(Grant {
                    names: Names { ek_certificates: taken.clone(), ..checked.names() },
                    host_key: &checked.host_key,
                    now: Clock::System.now(),
                    days: arguments.days,
                    serial,
                })
            };
            let mut text = pem("CERTIFICATE", &grant()?.certificate(&authority).map_err(refused)?);
            text.extend(authority.between().map(|der| pem("CERTIFICATE", der)));
            if arguments.signing {
                let what =
                    "there is no root in its file, which the bundle of the host's trust domain is to hold";
                let root = authority.root().ok_or_else(|| refused(Error::Authority(what.into())))?;
                let signing = grant()?.signing_certificate(&authority).map_err(refused)?;
                text += &(pem("CERTIFICATE", &signing) + &pem("CERTIFICATE", root));
            }
            text
        }
        _ => {
            // The host has signed it as it is.
            if left_out(&checked, &secret.seen) > 0 {
                eprintln!(
                    "hostbadge: the request names EK certificates that lead to no root; have the CA leave them out"
                );
            }
            pem("CERTIFICATE REQUEST", &checked.csr)
        }
    };
    secret.used = true;
    write(&arguments.secret, &json_line(&secret)?, 0o600)?;
    let done = deliver(&arguments.to, text.as_bytes(), 0o644)?;
    if arguments.to.output.is_some() {
        say(common, &checked, &secret.seen, left_out(&checked, &secret.seen));
    }
    Ok(done)
}

async fn install(common: &Common, certificate: &Path) -> Result<ExitCode, Failure> {
    let text = String::from_utf8(file(certificate, 2 * LARGEST_SMALL)?)
        .map_err(|_| Failure::Local(format!("{}: this is no PEM", certificate.display())))?;
    let ask = json!({ "certificate": text });
    let answer = client::post(&common.admin_socket, "/v1/enroll/install", &ask).await?;
    if common.json {
        return Ok(print_json(&answer));
    }
    let mut lines = Lines::default();
    for (label, name) in [("certificate", "subject"), ("issuer", "issuer"), ("until", "not_after")] {
        lines.add(label, answer[name].as_str().unwrap_or("unknown"));
    }
    lines.print();
    Ok(ExitCode::SUCCESS)
}

fn refused(error: Error) -> Failure {
    Failure::Local(error.to_string())
}

fn json_line(document: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut text = serde_json::to_vec(document).map_err(|e| Failure::Local(e.to_string()))?;
    text.push(b'\n');
    Ok(Zeroizing::new(text))
}

fn deliver(to: &To, text: &[u8], mode: u32) -> Result<ExitCode, Failure> {
    use std::io::Write;
    match &to.output {
        Some(file) => write(file, text, mode)?,
        None => {
            std::io::stdout().write_all(text).map_err(|e| Failure::Local(format!("standard output: {e}")))?
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &[u8], mode: u32) -> Result<(), Failure> {
    store::replace(path, text, mode).map_err(|e| Failure::Local(format!("{}: {e}", path.display())))
}

/// One byte more than is taken, so that the reader sees that it is too long.
fn file(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut text))
        .map_err(|e| Failure::Local(format!("{}: {e}", path.display())))?;
    Ok(text)
}
