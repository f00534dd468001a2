//! `hostbadge nonce`.

use std::process::ExitCode;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;

/// Bytes of a nonce. A daemon takes 8 to 64.
const NONCE_LEN: usize = 32;

pub(super) fn run(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| CliError::Local("the system's random number generator failed".into()))?;
    let nonce = BASE64URL_NOPAD.encode(&nonce);
    if common.json {
        return print_json(&json!({ "nonce": nonce }));
    }
    print_line(nonce)?;
    Ok(ExitCode::SUCCESS)
}
