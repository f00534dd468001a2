//! `hostbadge enroll request|challenge|activate|certify|install`.
//!
//! `request`, `activate` and `install` use the host's daemon; the operator's `challenge` and `certify` need
//! neither daemon nor TPM.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use data_encoding::{BASE64, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::client;
use super::common::{CommonArgs, print_json};
use super::enroll_install::{InstallArgs, install};
use super::error::CliError;
use super::files::{OutputArgs, read_file, write_file};
use super::manufacturer_roots::read_manufacturer_roots;
use super::output::note;
use super::table::KeyValueTable;
use crate::clock::Clock;
use crate::enroll::{
    CertificateTemplate, ChallengeAnswer, ChallengeSecret, EnrollmentChallenge, EnrollmentRequest, Error,
    MAX_SMALL_FILE_SIZE, OperatorReview, OrganizationCa, VerifiedRequest, pem,
};
use crate::verify::HostSan;
use crate::verify::evidence::MAX_EVIDENCE_SIZE;
use crate::wire::enroll::{CredentialRequest, CredentialResponse};

#[derive(Subcommand, Debug)]
pub(super) enum EnrollSubcommand {
    /// On the host: create a request with the keys of its TPM
    Request(OutputArgs),
    /// The operator: check a request and create a challenge that only the TPM with its keys can answer
    Challenge(ChallengeArgs),
    /// On the host: have the TPM answer a challenge; each challenge is answered once
    Activate(ActivateArgs),
    /// The operator: check the answer and certify the host key
    Certify(CertifyArgs),
    /// On the host: install the certificate (root only)
    Install(InstallArgs),
}

// As groups, so that the usage error names both ways where neither is given.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("ek-trust").required(true).args(["roots", "no_roots"]))]
#[command(group = ArgGroup::new("domain").required(true).args(["trust_domain", "any_trust_domain"]))]
pub(super) struct ChallengeArgs {
    /// The request, as `hostbadge enroll request` wrote it
    request: PathBuf,

    /// Directory of TPM manufacturers' certificates, PEM or DER (.pem, .crt, .cer, .der): roots and
    /// intermediates
    #[arg(long, value_name = "DIR")]
    roots: Option<PathBuf>,

    /// Do not check EK certificates: also accept keys that are not in a genuine TPM
    #[arg(long)]
    no_roots: bool,

    /// Expected host id: 26 characters, as `hostbadge status` shows it on the host. Without it, any genuine
    /// TPM is accepted
    #[arg(long, value_name = "ID")]
    host: Option<String>,

    /// Expected trust domain, which the certificate will name
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,

    /// Accept the trust domain that the request states
    #[arg(long)]
    any_trust_domain: bool,

    /// Where to write the secret that `certify` needs; the file must not exist yet. Keep it private
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub(super) struct ActivateArgs {
    /// The challenge, as `hostbadge enroll challenge` wrote it
    #[arg(required_unless_present = "credential", conflicts_with = "credential")]
    challenge: Option<PathBuf>,

    /// Instead of a challenge: a file of tpm2_makecredential for this host's attestation key (root only). The
    /// output is the secret in it
    #[arg(long, value_name = "FILE", requires = "ek")]
    credential: Option<PathBuf>,

    /// The endorsement key that the credential is for
    #[arg(long, value_name = "KIND", requires = "credential")]
    ek: Option<EkAlgorithm>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EkAlgorithm {
    Rsa,
    Ecc,
}

#[derive(Args, Debug)]
pub(super) struct CertifyArgs {
    /// The host's request
    #[arg(long, value_name = "FILE")]
    request: PathBuf,

    /// The secret of `hostbadge enroll challenge`; it is marked as used
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,

    /// The host's answer
    #[arg(long, value_name = "FILE")]
    answer: PathBuf,

    /// The CA's certificate, first of its chain, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "csr_only", requires = "ca_key")]
    ca_cert: Option<PathBuf>,

    /// The CA's key, PEM: PKCS#8, SEC 1 or PKCS#1; P-256, P-384 or RSA
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,

    /// Write the host's signing request (PEM) for a CA elsewhere instead of a certificate
    #[arg(long, alias = "csr", conflicts_with_all = ["ca_cert", "ca_key"])]
    csr_only: bool,

    /// Also certify the host as a CA of its trust domain: it then issues its agents' certificates below the
    /// organization's root, which must be the last certificate in the file of --ca-cert
    #[arg(long, conflicts_with = "csr_only")]
    signing: bool,

    /// Validity of the certificate in days
    #[arg(
        long,
        value_name = "N",
        default_value_t = 365,
        value_parser = clap::value_parser!(u32).range(1..=36500)
    )]
    days: u32,

    #[command(flatten)]
    output: OutputArgs,
}

impl EnrollSubcommand {
    /// Whether the result goes to standard output.
    pub(super) fn prints_result(&self) -> bool {
        let output = match self {
            EnrollSubcommand::Request(output) => output,
            EnrollSubcommand::Challenge(arguments) => &arguments.output,
            EnrollSubcommand::Activate(arguments) => &arguments.output,
            EnrollSubcommand::Certify(arguments) => &arguments.output,
            EnrollSubcommand::Install(_) => return true,
        };
        !output.is_file()
    }
}

pub(super) async fn run(common: &CommonArgs, subcommand: &EnrollSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        EnrollSubcommand::Request(output) => {
            let request =
                client::post_empty::<Box<RawValue>>(&common.admin_socket, "/v1/enroll/request").await?.body;
            output.write(format!("{request}\n").as_bytes(), 0o644)
        }
        EnrollSubcommand::Challenge(arguments) => challenge(common, arguments),
        EnrollSubcommand::Activate(arguments) => activate(common, arguments).await,
        EnrollSubcommand::Certify(arguments) => certify(common, arguments),
        EnrollSubcommand::Install(arguments) => install(common, arguments).await,
    }
}

/// Checks a request and writes a challenge. Prints a summary if the challenge goes to a file.
fn challenge(common: &CommonArgs, arguments: &ChallengeArgs) -> Result<ExitCode, CliError> {
    let request = EnrollmentRequest::parse(&read_file(&arguments.request, MAX_EVIDENCE_SIZE)?)
        .map_err(CliError::local)?;
    let verified = request.check().map_err(CliError::local)?;
    let expectations = [
        ("host", &arguments.host, &verified.host),
        ("trust domain", &arguments.trust_domain, &verified.trust_domain),
    ];
    for (what, expected, found) in expectations {
        if expected.as_ref().is_some_and(|wanted| wanted != found) {
            return Err(CliError::Local(format!("the request is for another {what}: {found}")));
        }
    }
    let roots = arguments.roots.as_deref().map(read_manufacturer_roots).transpose()?;
    let review = OperatorReview::new(&verified, roots.as_ref().map(|roots| (roots, Clock::System.now())))
        .map_err(CliError::local)?;
    let untrusted = untrusted_ek_certificates(&verified, &review);
    if arguments.secret.exists() {
        let path = arguments.secret.display();
        return Err(CliError::Local(format!(
            "{path} already exists, possibly for another challenge; choose another file"
        )));
    }
    let (challenge, secret) = EnrollmentChallenge::generate(&verified, review).map_err(CliError::local)?;
    write_file(&arguments.secret, &json_line(&secret)?, 0o600)?;
    arguments.output.write(&json_line(&challenge)?, 0o644)?;
    if arguments.output.is_file() {
        print_review(common, &verified, &secret.review, untrusted)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn activate(common: &CommonArgs, arguments: &ActivateArgs) -> Result<ExitCode, CliError> {
    if let (Some(credential), Some(ek)) = (&arguments.credential, arguments.ek) {
        let ek = match ek {
            EkAlgorithm::Rsa => "rsa",
            EkAlgorithm::Ecc => "ecc",
        };
        let credential = BASE64.encode(&read_file(credential, MAX_SMALL_FILE_SIZE)?);
        let request = CredentialRequest { ek: ek.into(), credential };
        let reply =
            client::post::<CredentialResponse>(&common.admin_socket, "/v1/enroll/credential", &request)
                .await?;
        if common.json && !arguments.output.is_file() {
            return print_json(&reply.raw);
        }
        let secret = BASE64
            .decode(reply.body.secret.as_bytes())
            .map_err(|e| CliError::Local(format!("the daemon's response: {e}")))?;
        return arguments.output.write(&Zeroizing::new(secret), 0o600);
    }
    let text = read_file(arguments.challenge.as_deref().unwrap_or(Path::new("")), MAX_SMALL_FILE_SIZE)?;
    let challenge = EnrollmentChallenge::parse(&text).map_err(CliError::local)?;
    let answer =
        client::post::<Box<RawValue>>(&common.admin_socket, "/v1/enroll/activate", &challenge).await?.body;
    arguments.output.write(format!("{answer}\n").as_bytes(), 0o644)
}

/// Prints what the operator should check before passing on the challenge or the certificate.
fn print_review(
    common: &CommonArgs,
    verified: &VerifiedRequest,
    review: &OperatorReview,
    untrusted: usize,
) -> Result<ExitCode, CliError> {
    let ak = HEXLOWER.encode(&verified.ak_name);
    if common.json {
        return print_json(&json!({
            "host": review.host,
            "trust_domain": review.trust_domain,
            "ak": ak,
            "made": verified.created_at,
            "maker": review.maker,
            "left_out": untrusted,
        }));
    }
    let mut table = KeyValueTable::default();
    table.add("host", review.host.as_str());
    table.add("trust domain", review.trust_domain.as_str());
    table.add("requested", verified.created_at.to_string());
    table.add("attestation key", ak);
    table.add(
        "TPM manufacturer",
        review.maker.as_deref().unwrap_or("not checked: the keys may not be in a genuine TPM"),
    );
    if untrusted > 0 {
        let what = format!("{untrusted} without a chain to a root; the host certificate does not name them");
        table.add("EK certificates left out", what);
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

/// Number of EK certificates of the request that the host certificate will not name.
fn untrusted_ek_certificates(verified: &VerifiedRequest, review: &OperatorReview) -> usize {
    verified
        .endorsement_keys
        .certificates()
        .into_iter()
        .filter(|certificate| !review.lists_ek_certificate(certificate))
        .count()
}

/// Marks the secret as used before it writes the certificate, so that there is never a second one.
fn certify(common: &CommonArgs, arguments: &CertifyArgs) -> Result<ExitCode, CliError> {
    let request = EnrollmentRequest::parse(&read_file(&arguments.request, MAX_EVIDENCE_SIZE)?)
        .map_err(CliError::local)?;
    let verified = request.check().map_err(CliError::local)?;
    let mut secret = ChallengeSecret::parse(&read_file(&arguments.secret, MAX_SMALL_FILE_SIZE)?)
        .map_err(CliError::local)?;
    let answer = ChallengeAnswer::parse(&read_file(&arguments.answer, MAX_SMALL_FILE_SIZE)?)
        .map_err(CliError::local)?;
    secret.verify_answer(&verified, &answer).map_err(CliError::local)?;
    let text = match (&arguments.ca_cert, &arguments.ca_key) {
        (Some(certificate), Some(key)) => {
            let certificate = read_file(certificate, MAX_SMALL_FILE_SIZE)?;
            let key = Zeroizing::new(read_file(key, MAX_SMALL_FILE_SIZE)?);
            let authority = OrganizationCa::from_pem(&certificate, &key).map_err(CliError::local)?;
            let mut ek_certificates = verified.endorsement_keys.certificates();
            ek_certificates.retain(|certificate| secret.review.lists_ek_certificate(certificate));
            let template = || {
                let mut serial = [0; 16];
                SystemRandom::new().fill(&mut serial).map_err(|_| CliError::local(Error::Random))?;
                Ok(CertificateTemplate {
                    san: HostSan { ek_certificates: ek_certificates.clone(), ..verified.san() },
                    host_key: &verified.host_key,
                    now: Clock::System.now(),
                    days: arguments.days,
                    serial,
                })
            };
            let certificate_pem = |der: &[u8]| pem("CERTIFICATE", der).map_err(CliError::local);
            let host = template()?.issue_host_certificate(&authority).map_err(CliError::local)?;
            let mut text = certificate_pem(&host)?;
            for certificate in authority.intermediates() {
                text += &certificate_pem(certificate)?;
            }
            if arguments.signing {
                let root = authority.root().map_err(CliError::local)?;
                let signing = template()?.issue_signing_certificate(&authority).map_err(CliError::local)?;
                text += &certificate_pem(&signing)?;
                text += &certificate_pem(root)?;
            }
            text
        }
        _ => {
            // The host signed the request, so it cannot be changed here.
            if untrusted_ek_certificates(&verified, &secret.review) > 0 {
                note(
                    "hostbadge: the request names EK certificates without a chain to a root; have the CA leave \
                     them out",
                );
            }
            pem("CERTIFICATE REQUEST", &verified.csr).map_err(CliError::local)?
        }
    };
    secret.used = true;
    write_file(&arguments.secret, &json_line(&secret)?, 0o600)?;
    arguments.output.write(text.as_bytes(), 0o644)?;
    if arguments.output.is_file() {
        let untrusted = untrusted_ek_certificates(&verified, &secret.review);
        print_review(common, &verified, &secret.review, untrusted)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn json_line(document: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut text = serde_json::to_vec(document).map_err(CliError::local)?;
    text.push(b'\n');
    Ok(Zeroizing::new(text))
}
