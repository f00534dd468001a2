//! Creates a software TPM in a directory: endorsement keys, and certificates by a CA of its own.
//!
//! swtpm_setup 0.7 certifies an RSA-2048 and an ECC P-384 EK. The host's id is derived from the ECC P-256 EK,
//! which most hardware TPMs have, so its certificate is created and stored here in the same way.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs, io};

use data_encoding::HEXLOWER;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::handles::NvIndexTpmHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::structures::{MaxNvBuffer, NvPublic};

use super::config::Tcti;
use super::connection::TpmConnection;
use super::error::{Error, command_failed};
use super::swtpm_process::{SwtpmProcess, kill_with_parent, last_log_line, with_install_hint, with_path};
use super::{ek_certificate, nv_index};

/// The finished TPM's directory. It appears by a rename, so it is complete whenever it exists.
pub(super) const TPM_DIR: &str = "tpm";

/// swtpm's state below it.
pub(super) const STATE_DIR: &str = "state";

const STAGING_DIR: &str = "tpm.unfinished";

/// Creates the TPM in `dir`. Remains of an interrupted attempt are deleted.
pub(super) fn create(dir: &Path) -> io::Result<()> {
    let staging = dir.join(STAGING_DIR);
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(with_path(&staging))?;
    }
    for name in ["", STATE_DIR, "ca", "certificates"] {
        let path = staging.join(name);
        fs::create_dir(&path).map_err(with_path(&path))?;
    }
    let localca = find_in_path("swtpm_localca")
        .ok_or(io::ErrorKind::NotFound.into())
        .map_err(with_install_hint("swtpm_localca"))?;
    let setup = format!("create_certs_tool = {}\n{SETUP_CONF}", localca.display());
    for (name, text) in [("setup.conf", setup.as_str()), ("ca.conf", CA_CONF), ("ca.options", CA_OPTIONS)] {
        let path = staging.join(name);
        fs::write(&path, text).map_err(with_path(&path))?;
    }
    run_program(&staging, "swtpm_setup", &SETUP_ARGS)?;
    certify_p256(&staging)?;
    let finished = dir.join(TPM_DIR);
    fs::rename(&staging, &finished).map_err(with_path(&finished))
}

const SETUP_ARGS: [&str; 10] = [
    "--tpm2",
    "--tpmstate",
    STATE_DIR,
    "--config",
    "setup.conf",
    "--create-ek-cert",
    "--pcr-banks",
    "sha256",
    "--logfile",
    SETUP_LOG,
];

const SETUP_LOG: &str = "setup.log";

/// All paths are relative: both programs run in the directory, which is renamed when it is finished.
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

/// Derives the P-256 EK, certifies it by the CA, and stores the certificate in the TPM as a manufacturer
/// would.
fn certify_p256(dir: &Path) -> io::Result<()> {
    let process = SwtpmProcess::start(dir, STATE_DIR)?;
    let tcti = Tcti::Swtpm { host: std::net::Ipv4Addr::LOCALHOST, port: process.port() };
    let mut connection = TpmConnection::open(&tcti).map_err(io::Error::other)?;
    let point = connection.identity().ek_point().map_err(io::Error::other)?;
    let ek_argument =
        format!("x={},y={},id=secp256r1", HEXLOWER.encode(&point[1..33]), HEXLOWER.encode(&point[33..]));
    run_program(dir, "swtpm_localca", &[["--ek", &ek_argument].as_slice(), &CERTIFY_ARGS].concat())?;
    let path = dir.join("certificates/ek.cert");
    let certificate = fs::read(&path).map_err(with_path(&path))?;
    write_certificate(&mut connection, &certificate).map_err(io::Error::other)?;
    connection.close();
    process.stop()
}

const CERTIFY_ARGS: [&str; 23] = [
    "--type",
    "ek",
    "--dir",
    "certificates",
    "--logfile",
    SETUP_LOG,
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

/// Writes the certificate to its NV index (EK Credential Profile, section 2.2.1.4), which belongs to the
/// platform, so that `TPM2_Clear` does not delete it.
fn write_certificate(connection: &mut TpmConnection, certificate: &[u8]) -> Result<(), Error> {
    let failed = command_failed("TPM2_NV_DefineSpace");
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
        .with_nv_index(NvIndexTpmHandle::new(ek_certificate::P256_EK_CERTIFICATE_INDEX).map_err(&failed)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(certificate.len())
        .build()
        .map_err(&failed)?;
    let index = connection
        .run("TPM2_NV_DefineSpace", |context| context.nv_define_space(Provision::Platform, None, public))?;
    for (i, chunk) in certificate.chunks(nv_index::NV_CHUNK_SIZE).enumerate() {
        let (data, offset) =
            (MaxNvBuffer::try_from(chunk).map_err(&failed)?, (i * nv_index::NV_CHUNK_SIZE) as u16);
        connection.run("TPM2_NV_Write", |context| context.nv_write(NvAuth::Platform, index, data, offset))?;
    }
    Ok(())
}

/// The absolute path of a program, which swtpm_setup needs for its CA program.
fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Runs a program in `dir` until it exits. On failure the error has the last line of its log.
fn run_program(dir: &Path, program: &str, arguments: &[&str]) -> io::Result<()> {
    let mut command = Command::new(program);
    kill_with_parent(&mut command);
    let status = command
        .current_dir(dir)
        .args(arguments)
        // The user's own swtpm configuration must not apply.
        .env("XDG_CONFIG_HOME", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(with_install_hint(program))?;
    if !status.success() {
        let last_line = last_log_line(&dir.join(SETUP_LOG));
        return Err(io::Error::other(format!("{program} failed ({status}){last_line}")));
    }
    Ok(())
}
