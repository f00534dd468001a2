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

use super::table::KeyValueTable;
use super::{CliError, CommonArgs, client, print_json};
use crate::clock::Clock;
use crate::enroll::{
    CertificateTemplate, ChallengeAnswer, ChallengeSecret, EnrollmentChallenge, EnrollmentRequest, Error,
    MAX_SMALL_FILE_SIZE, OperatorReview, OrganizationCa, VerifiedRequest, pem,
};
use crate::store;
use crate::verify::evidence::MAX_EVIDENCE_SIZE;
use crate::verify::{HostSan, Roots};

#[derive(Subcommand, Debug)]
pub enum EnrollSubcommand {
    /// On the host: say which keys its TPM has, for an operator
    Request(OutputArgs),
    /// The operator: check a request, and make a challenge that only the TPM of its keys can answer
    Challenge(ChallengeArgs),
    /// On the host: have the TPM answer a challenge, once
    Activate(ActivateArgs),
    /// The operator: check the answer, and certify the host key
    Certify(CertifyArgs),
    /// On the host: keep the certificate
    Install {
        /// The certificate and those that lead to the organisation's root, PEM
        certificate: PathBuf,
    },
}

#[derive(Args, Debug)]
pub struct OutputArgs {
    /// Write to FILE, replaced whole, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct ChallengeArgs {
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
    output_args: OutputArgs,
}

#[derive(Args, Debug)]
pub struct ActivateArgs {
    /// As `hostbadge enroll challenge` gave it
    #[arg(required_unless_present = "credential", conflicts_with = "credential")]
    challenge: Option<PathBuf>,

    /// Instead of a challenge: a file of tpm2_makecredential for this host's attestation key. Gives the secret in it
    #[arg(long, value_name = "FILE", requires = "ek")]
    credential: Option<PathBuf>,

    /// Which endorsement key the credential is for
    #[arg(long, value_name = "KIND", requires = "credential")]
    ek: Option<EkAlgorithm>,

    #[command(flatten)]
    output_args: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EkAlgorithm {
    Rsa,
    Ecc,
}

#[derive(Args, Debug)]
pub struct CertifyArgs {
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
    output_args: OutputArgs,
}

pub async fn run(common: &CommonArgs, subcommand: &EnrollSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        EnrollSubcommand::Request(output_args) => {
            let request = client::post(&common.admin_socket, "/v1/enroll/request", &json!({})).await?;
            write_output(output_args, format!("{request}\n").as_bytes(), 0o644)
        }
        EnrollSubcommand::Challenge(arguments) => challenge(common, arguments),
        EnrollSubcommand::Activate(arguments) => activate(common, arguments).await,
        EnrollSubcommand::Certify(arguments) => certify(common, arguments),
        EnrollSubcommand::Install { certificate } => install(common, certificate).await,
    }
}

/// Checks a request. Prints what was found where the challenge goes to a file.
fn challenge(common: &CommonArgs, arguments: &ChallengeArgs) -> Result<ExitCode, CliError> {
    let request = EnrollmentRequest::parse(&read_limited(&arguments.request, MAX_EVIDENCE_SIZE)?)
        .map_err(to_cli_error)?;
    let verified = request.check().map_err(to_cli_error)?;
    let expectations = [
        ("host", &arguments.host, &verified.host),
        ("trust domain", &arguments.trust_domain, &verified.trust_domain),
    ];
    for (what, expected, found) in expectations {
        if expected.as_ref().is_some_and(|wanted| wanted != found) {
            return Err(CliError::Local(format!("the request is of another {what}: {found}")));
        }
    }
    let roots = arguments.roots.as_deref().map(Roots::read_dir).transpose();
    let roots = roots.map_err(|e| CliError::Local(e.to_string()))?;
    let review = OperatorReview::new(&verified, roots.as_ref().map(|roots| (roots, Clock::System.now())))
        .map_err(to_cli_error)?;
    let untrusted = untrusted_ek_certificates(&verified, &review);
    if arguments.secret.exists() {
        let path = arguments.secret.display();
        return Err(CliError::Local(format!("{path} exists, and may be what another challenge needs")));
    }
    let (challenge, secret) = EnrollmentChallenge::generate(&verified, review).map_err(to_cli_error)?;
    write_file(&arguments.secret, &json_line(&secret)?, 0o600)?;
    let exit_code = write_output(&arguments.output_args, &json_line(&challenge)?, 0o644)?;
    if arguments.output_args.output.is_none() {
        return Ok(exit_code);
    }
    print_review(common, &verified, &secret.review, untrusted);
    Ok(exit_code)
}

async fn activate(common: &CommonArgs, arguments: &ActivateArgs) -> Result<ExitCode, CliError> {
    if let (Some(credential), Some(ek)) = (&arguments.credential, arguments.ek) {
        let ek = match ek {
            EkAlgorithm::Rsa => "rsa",
            EkAlgorithm::Ecc => "ecc",
        };
        let request =
            json!({ "ek": ek, "credential": BASE64.encode(&read_limited(credential, MAX_SMALL_FILE_SIZE)?) });
        let response = client::post(&common.admin_socket, "/v1/enroll/credential", &request).await?;
        if common.json && arguments.output_args.output.is_none() {
            return Ok(print_json(&response));
        }
        let secret = BASE64.decode(response["secret"].as_str().unwrap_or_default().as_bytes());
        let secret = secret.map_err(|e| CliError::Local(format!("the daemon's answer: {e}")))?;
        return write_output(&arguments.output_args, &Zeroizing::new(secret), 0o600);
    }
    let text = read_limited(arguments.challenge.as_deref().unwrap_or(Path::new("")), MAX_SMALL_FILE_SIZE)?;
    let challenge = EnrollmentChallenge::parse(&text).map_err(to_cli_error)?;
    let request = serde_json::to_value(&challenge).map_err(|e| CliError::Local(e.to_string()))?;
    let response = client::post(&common.admin_socket, "/v1/enroll/activate", &request).await?;
    write_output(&arguments.output_args, format!("{response}\n").as_bytes(), 0o644)
}

/// What an operator is to look at, before the challenge goes and before the certificate does.
fn print_review(common: &CommonArgs, verified: &VerifiedRequest, review: &OperatorReview, untrusted: usize) {
    let ak = HEXLOWER.encode(&verified.ak_name);
    if common.json {
        print_json(&json!({
            "host": review.host, "trust_domain": review.trust_domain, "ak": ak, "made": verified.created_at, "maker": review.maker,
            "left_out": untrusted,
        }));
        return;
    }
    let mut table = KeyValueTable::default();
    table.add("host", review.host.as_str());
    table.add("trust domain", review.trust_domain.as_str());
    table.add("requested", verified.created_at.to_string());
    table.add("attestation key", ak);
    table
        .add("TPM maker", review.maker.as_deref().unwrap_or("not asked for: nobody says that this is a TPM"));
    if untrusted > 0 {
        let what = format!("{untrusted} that lead to no root: the host certificate does not name them");
        table.add("EK certificates left out", what);
    }
    table.print();
}

/// EK certificates of the request that the host certificate is not to name.
fn untrusted_ek_certificates(verified: &VerifiedRequest, review: &OperatorReview) -> usize {
    verified
        .endorsement_keys
        .certificates()
        .into_iter()
        .filter(|certificate| !review.lists_ek_certificate(certificate))
        .count()
}

/// The secret is marked as used before the certificate exists, so that there is never a second one.
fn certify(common: &CommonArgs, arguments: &CertifyArgs) -> Result<ExitCode, CliError> {
    let request = EnrollmentRequest::parse(&read_limited(&arguments.request, MAX_EVIDENCE_SIZE)?)
        .map_err(to_cli_error)?;
    let verified = request.check().map_err(to_cli_error)?;
    let mut secret = ChallengeSecret::parse(&read_limited(&arguments.secret, MAX_SMALL_FILE_SIZE)?)
        .map_err(to_cli_error)?;
    let answer = ChallengeAnswer::parse(&read_limited(&arguments.answer, MAX_SMALL_FILE_SIZE)?)
        .map_err(to_cli_error)?;
    secret.verify_answer(&verified, &answer).map_err(to_cli_error)?;
    let text = match (&arguments.ca_cert, &arguments.ca_key) {
        (Some(certificate), Some(key)) => {
            let certificate = read_limited(certificate, MAX_SMALL_FILE_SIZE)?;
            let key = Zeroizing::new(read_limited(key, MAX_SMALL_FILE_SIZE)?);
            let authority = OrganizationCa::from_pem(&certificate, &key).map_err(to_cli_error)?;
            let mut ek_certificates = verified.endorsement_keys.certificates();
            ek_certificates.retain(|certificate| secret.review.lists_ek_certificate(certificate));
            let template = || {
                let mut serial = [0; 16];
                SystemRandom::new().fill(&mut serial).map_err(|_| to_cli_error(Error::Random))?;
                Ok(CertificateTemplate {
                    san: HostSan { ek_certificates: ek_certificates.clone(), ..verified.san() },
                    host_key: &verified.host_key,
                    now: Clock::System.now(),
                    days: arguments.days,
                    serial,
                })
            };
            let certificate_pem = |der: &[u8]| pem("CERTIFICATE", der).map_err(to_cli_error);
            let host = template()?.issue_host_certificate(&authority).map_err(to_cli_error)?;
            let mut text = certificate_pem(&host)?;
            for certificate in authority.intermediates() {
                text += &certificate_pem(certificate)?;
            }
            if arguments.signing {
                let root = authority.root().map_err(to_cli_error)?;
                let signing = template()?.issue_signing_certificate(&authority).map_err(to_cli_error)?;
                text += &certificate_pem(&signing)?;
                text += &certificate_pem(root)?;
            }
            text
        }
        _ => {
            // The host has signed it as it is.
            if untrusted_ek_certificates(&verified, &secret.review) > 0 {
                eprintln!(
                    "hostbadge: the request names EK certificates that lead to no root; have the CA leave them out"
                );
            }
            pem("CERTIFICATE REQUEST", &verified.csr).map_err(to_cli_error)?
        }
    };
    secret.used = true;
    write_file(&arguments.secret, &json_line(&secret)?, 0o600)?;
    let exit_code = write_output(&arguments.output_args, text.as_bytes(), 0o644)?;
    if arguments.output_args.output.is_some() {
        print_review(common, &verified, &secret.review, untrusted_ek_certificates(&verified, &secret.review));
    }
    Ok(exit_code)
}

async fn install(common: &CommonArgs, certificate: &Path) -> Result<ExitCode, CliError> {
    let text = String::from_utf8(read_limited(certificate, 2 * MAX_SMALL_FILE_SIZE)?)
        .map_err(|_| CliError::Local(format!("{}: this is no PEM", certificate.display())))?;
    let request = json!({ "certificate": text });
    let response = client::post(&common.admin_socket, "/v1/enroll/install", &request).await?;
    if common.json {
        return Ok(print_json(&response));
    }
    let mut table = KeyValueTable::default();
    for (label, name) in [("certificate", "subject"), ("issuer", "issuer"), ("until", "not_after")] {
        table.add(label, response[name].as_str().unwrap_or("unknown"));
    }
    table.print();
    Ok(ExitCode::SUCCESS)
}

fn to_cli_error(error: Error) -> CliError {
    CliError::Local(error.to_string())
}

fn json_line(document: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut text = serde_json::to_vec(document).map_err(|e| CliError::Local(e.to_string()))?;
    text.push(b'\n');
    Ok(Zeroizing::new(text))
}

fn write_output(output_args: &OutputArgs, text: &[u8], mode: u32) -> Result<ExitCode, CliError> {
    use std::io::Write;
    match &output_args.output {
        Some(file) => write_file(file, text, mode)?,
        None => {
            std::io::stdout().write_all(text).map_err(|e| CliError::Local(format!("standard output: {e}")))?
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_file(path: &Path, text: &[u8], mode: u32) -> Result<(), CliError> {
    store::write_atomic(path, text, mode).map_err(|e| CliError::Local(format!("{}: {e}", path.display())))
}

/// One byte more than is taken, so that the reader sees that it is too long.
fn read_limited(path: &Path, max_len: usize) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(max_len as u64 + 1).read_to_end(&mut text))
        .map_err(|e| CliError::Local(format!("{}: {e}", path.display())))?;
    Ok(text)
}
