//! Makes a software TPM: endorsement keys, certificates by a CA of its own, all inside one directory.
//!
//! swtpm_setup 0.7 certifies an RSA-2048 and an ECC P-384 EK. The host's id rests on the ECC P-256 EK, as most
//! hardware has it, so that one's certificate is made and stored here in the same way.

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use data_encoding::HEXLOWER;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::handles::NvIndexTpmHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::resource_handles::Provision;
use tss_esapi::structures::MaxNvBuffer;
use tss_esapi::structures::NvPublic;

use super::config::Tcti;
use super::connection::Connection;
use super::endorsement;
use super::error::Error;
use super::error::tpm;
use super::software::Running;
use super::software::about;
use super::software::last_line;
use super::software::missing;
use super::software::tie_to_us;

/// The finished TPM's directory, and the TPM's own state in it. It appears whole or not at all.
pub(super) const FINISHED: &str = "tpm";
pub(super) const STATE: &str = "state";

const UNFINISHED: &str = "tpm.unfinished";

/// Makes the TPM in `dir`. What an earlier, interrupted attempt left behind is thrown away.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    let unfinished = dir.join(UNFINISHED);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(about(&unfinished))?;
    }
    for part in ["", STATE, "ca", "certificates"] {
        let part = unfinished.join(part);
        fs::create_dir(&part).map_err(about(&part))?;
    }
    let ca = find("swtpm_localca").ok_or(io::ErrorKind::NotFound.into()).map_err(missing("swtpm_localca"))?;
    let setup = format!("create_certs_tool = {}\n{SETUP_CONF}", ca.display());
    for (name, text) in [("setup.conf", setup.as_str()), ("ca.conf", CA_CONF), ("ca.options", CA_OPTIONS)] {
        let path = unfinished.join(name);
        fs::write(&path, text).map_err(about(&path))?;
    }
    run(&unfinished, "swtpm_setup", &SETUP)?;
    certify_p256(&unfinished)?;
    let finished = dir.join(FINISHED);
    fs::rename(&unfinished, &finished).map_err(about(&finished))
}

const SETUP: [&str; 10] = [
    "--tpm2",
    "--tpmstate",
    STATE,
    "--config",
    "setup.conf",
    "--create-ek-cert",
    "--pcr-banks",
    "sha256",
    "--logfile",
    LOG,
];

const LOG: &str = "setup.log";

/// Relative paths all: both programs are run inside the directory, which moves when it is finished.
const SETUP_CONF: &str = "\
create_certs_tool_config = ca.conf
create_certs_tool_options = ca.options
";

const CA_CONF: &str = "\
statedir = ca
signingkey = ca/signkey.pem
issuercert = ca/issuercert.pem
certserial = ca/certserial
";

const CA_OPTIONS: &str = "\
--platform-manufacturer hostbadge
--platform-version 1
--platform-model development
";

/// Derives the P-256 EK, has the CA certify it, and stores the certificate in the TPM as a manufacturer would.
fn certify_p256(dir: &Path) -> io::Result<()> {
    let running = Running::start(dir, STATE)?;
    let tcti = Tcti::Swtpm { host: std::net::Ipv4Addr::LOCALHOST, port: running.port };
    let mut connection = Connection::open(&tcti).map_err(io::Error::other)?;
    let point = connection.identity().ek_point().map_err(io::Error::other)?;
    let ek = format!("x={},y={},id=secp256r1", HEXLOWER.encode(&point[1..33]), HEXLOWER.encode(&point[33..]));
    run(dir, "swtpm_localca", &[["--ek", &ek].as_slice(), &CERTIFY].concat())?;
    let path = dir.join("certificates/ek.cert");
    let certificate = fs::read(&path).map_err(about(&path))?;
    store(&mut connection, &certificate).map_err(io::Error::other)?;
    connection.close();
    running.stop()
}

const CERTIFY: [&str; 23] = [
    "--type",
    "ek",
    "--dir",
    "certificates",
    "--logfile",
    LOG,
    "--configfile",
    "ca.conf",
    "--optsfile",
    "ca.options",
    "--tpm2",
    "--tpm-spec-family",
    "2.0",
    "--tpm-spec-level",
    "0",
    "--tpm-spec-revision",
    "164",
    "--tpm-manufacturer",
    "id:00001014",
    "--tpm-model",
    "swtpm",
    "--tpm-version",
    "id:20191023",
];

/// Writes the certificate to its NV index (EK Credential Profile, section 2.2.1.4), which belongs to the platform, so
/// that `TPM2_Clear` leaves it alone.
fn store(connection: &mut Connection, certificate: &[u8]) -> Result<(), Error> {
    let failed = tpm("TPM2_NV_DefineSpace");
    let attributes = NvIndexAttributesBuilder::new()
        .with_pp_write(true)
        .with_pp_read(true)
        .with_owner_read(true)
        .with_auth_read(true)
        .with_no_da(true)
        .with_platform_create(true)
        .build()
        .map_err(&failed)?;
    let public = NvPublic::builder()
        .with_nv_index(NvIndexTpmHandle::new(endorsement::P256_CERTIFICATE).map_err(&failed)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(certificate.len())
        .build()
        .map_err(&failed)?;
    let index = connection
        .run("TPM2_NV_DefineSpace", |context| context.nv_define_space(Provision::Platform, None, public))?;
    for (i, chunk) in certificate.chunks(endorsement::NV_CHUNK).enumerate() {
        let (data, offset) =
            (MaxNvBuffer::try_from(chunk).map_err(&failed)?, (i * endorsement::NV_CHUNK) as u16);
        connection.run("TPM2_NV_Write", |context| context.nv_write(NvAuth::Platform, index, data, offset))?;
    }
    Ok(())
}

/// swtpm_setup wants the CA program by its whole path.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Runs a program to its end inside `dir`. It writes to the log, the last line of which becomes the error.
fn run(dir: &Path, program: &str, arguments: &[&str]) -> io::Result<()> {
    let mut command = Command::new(program);
    tie_to_us(&mut command);
    let status = command
        .current_dir(dir)
        .args(arguments)
        // Its home and its configuration are none of ours.
        .env("XDG_CONFIG_HOME", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(missing(program))?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{program} failed ({status}){}", last_line(&dir.join(LOG))))),
    }
}
