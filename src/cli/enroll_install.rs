//! `hostbadge enroll install`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::read_file;
use super::output::note;
use super::prompt;
use super::table::KeyValueTable;
use crate::config::escape_unprintable;
use crate::enroll::{InstallBundle, MAX_SMALL_FILE_SIZE, SigningChain};
use crate::verify::HostCertificate;
use crate::wire::enroll::InstallRequest;
use crate::wire::status;

#[derive(Args, Debug)]
pub(super) struct InstallArgs {
    /// The certificate and its chain up to the organization's root, PEM
    certificate: PathBuf,

    /// SHA-256 digest of the root below which the certificate lets the host sign, in hexadecimal, with or
    /// without colons, as the organization told you. The certificate is installed without a question if its
    /// root has this digest
    #[arg(long, value_name = "DIGEST", value_parser = parse_digest)]
    root_sha256: Option<String>,

    /// Install a certificate that lets the host sign without a question, whatever its root is
    #[arg(long, conflicts_with = "root_sha256")]
    yes: bool,
}

/// Installs the host's certificate. One that lets the host sign makes a root part of the host's trust bundle:
/// it is shown first.
pub(super) async fn install(common: &CommonArgs, arguments: &InstallArgs) -> Result<ExitCode, CliError> {
    let path = arguments.certificate.display();
    let text = String::from_utf8(read_file(&arguments.certificate, 2 * MAX_SMALL_FILE_SIZE)?)
        .map_err(|_| CliError::Local(format!("{path}: not a PEM file")))?;
    let request =
        InstallRequest { root_sha256: confirmed_root(common, arguments, &text)?, certificate: text };
    let reply =
        client::post::<status::HostCertificate>(&common.admin_socket, "/v1/enroll/install", &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let mut table = KeyValueTable::default();
    table.add("certificate", reply.body.subject);
    table.add("issuer", reply.body.issuer);
    table.add("until", reply.body.not_after.to_string());
    table.add_some("signs below root", reply.body.signing_root_sha256);
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

/// The digest of the root that the administrator accepts; `None` if the file does not let the host sign. The
/// daemon verifies the chain, and that its root has this digest.
fn confirmed_root(
    common: &CommonArgs,
    arguments: &InstallArgs,
    text: &str,
) -> Result<Option<String>, CliError> {
    let fault = |reason: &dyn std::fmt::Display| {
        CliError::Local(format!("{}: {reason}", arguments.certificate.display()))
    };
    let certificate = HostCertificate::from_pem(text.as_bytes()).map_err(|e| fault(&e))?;
    let bundle = InstallBundle::split(certificate.chain()).map_err(|e| fault(&e))?;
    let Some(chain) = bundle.signing_chain else {
        return match &arguments.root_sha256 {
            None => Ok(None),
            Some(_) => Err(fault(&"--root-sha256 is given, and nothing in the file lets the host sign")),
        };
    };
    let digest = chain.root_sha256();
    if let Some(expected) = &arguments.root_sha256 {
        if *expected != digest {
            return Err(fault(&format!("its root has another SHA-256 digest: {digest}")));
        }
        return Ok(Some(digest));
    }
    show_root(&chain)?;
    if arguments.yes {
        return Ok(Some(digest));
    }
    if common.json || !prompt::is_interactive() {
        return Err(CliError::Local(
            "cannot ask whether this root is the organization's (--json, or standard input is not a \
             terminal); give its digest with --root-sha256, or --yes"
                .into(),
        ));
    }
    if !prompt::confirm("Is this the organization's root, and may the host sign below it? [yes/no] ")? {
        return Err(CliError::Local("not installed".into()));
    }
    Ok(Some(digest))
}

/// Shows the root on standard error, so that standard output has the result alone.
fn show_root(chain: &SigningChain) -> Result<(), CliError> {
    let (subject, not_after) = chain.root().map_err(CliError::local)?;
    note(
        "This certificate lets the host sign certificates of its trust domain. Whoever trusts the host's bundle \
         will trust this root:",
    );
    note(format_args!("  root     {}", escape_unprintable(&subject)));
    note(format_args!("  until    {not_after}"));
    note(format_args!("  SHA-256  {}", chain.root_sha256()));
    Ok(())
}

/// A SHA-256 digest in hexadecimal, as `openssl x509 -fingerprint -sha256` prints it, or without colons.
fn parse_digest(text: &str) -> Result<String, String> {
    let digest = text.replace(':', "").to_ascii_lowercase();
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then_some(digest).ok_or_else(|| "a SHA-256 digest has 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_openssl_prints_them() {
        let (plain, with_colons) = ("ab".repeat(32), vec!["AB"; 32].join(":"));
        assert_eq!(parse_digest(&plain).as_ref(), Ok(&plain));
        assert_eq!(parse_digest(&with_colons), Ok(plain.clone()));
        for bad in ["", &plain[1..], &plain.replace("ab", "xy")] {
            assert!(parse_digest(bad).is_err(), "{bad}");
        }
    }
}
