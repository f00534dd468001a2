//! `hostbadge audit prove`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::read_file;
use super::output::{note, print_bytes};
use crate::verify::audit::merkle::Hash;
use crate::verify::audit::{
    CheckpointLine, KEYS_FILE, LogKeys, MAX_KEYS_SIZE, MAX_NOTE_SIZE, prove_consistency, prove_record,
};

#[derive(Args, Debug)]
pub(super) struct ProveArgs {
    /// The number of the record
    #[arg(value_name = "SEQ", required_unless_present = "since")]
    seq: Option<u64>,

    /// Prove in place of a record that the log continues an earlier checkpoint, whose signed note is in this file
    #[arg(long, value_name = "FILE", conflicts_with = "seq")]
    since: Option<PathBuf>,

    /// The directory of the audit log, or a copy of it
    #[arg(long, value_name = "DIR", default_value = "/var/log/hostbadge/audit")]
    dir: PathBuf,
}

/// Prints a proof: as c2sp.org/tlog-proof with the record as its extra data, or with --json with all parts.
pub(super) fn run(common: &CommonArgs, arguments: &ProveArgs) -> Result<ExitCode, CliError> {
    match (arguments.seq, &arguments.since) {
        (Some(seq), _) => prove_one(common, arguments, seq),
        (None, Some(file)) => prove_since(common, arguments, file),
        (None, None) => Err(CliError::Local("name a record".to_owned())),
    }
}

fn prove_one(common: &CommonArgs, arguments: &ProveArgs, seq: u64) -> Result<ExitCode, CliError> {
    let proof = prove_record(&arguments.dir, seq).map_err(CliError::local)?;
    let key = note_key(arguments, &proof.checkpoint);
    if common.json {
        return print_json(&json!({
            "record": proof.record,
            "index": proof.index,
            "proof": hashes(&proof.hashes),
            "checkpoint": checkpoint(&proof.checkpoint),
            "note_key": key,
        }));
    }
    note_signer(key.as_deref());
    print_bytes(proof.to_tlog_proof().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn prove_since(common: &CommonArgs, arguments: &ProveArgs, file: &Path) -> Result<ExitCode, CliError> {
    let text = String::from_utf8(read_file(file, MAX_NOTE_SIZE)?)
        .map_err(|_| CliError::Local(format!("{} is no signed note: not text", file.display())))?;
    let proof = prove_consistency(&arguments.dir, &text).map_err(CliError::local)?;
    let key = note_key(arguments, &proof.checkpoint);
    if common.json {
        return print_json(&json!({
            "old_size": proof.old_size,
            "proof": hashes(&proof.hashes),
            "checkpoint": checkpoint(&proof.checkpoint),
            "note_key": key,
        }));
    }
    note_signer(key.as_deref());
    let lines: String = hashes(&proof.hashes).iter().map(|hash| format!("{hash}\n")).collect();
    print_bytes(format!("old {}\n{lines}\n{}", proof.old_size, proof.checkpoint.note).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The key that a verifier of signed notes takes, by the file of keys beside the log; `None` without such a file.
fn note_key(arguments: &ProveArgs, line: &CheckpointLine) -> Option<String> {
    let text = read_file(&arguments.dir.join(KEYS_FILE), MAX_KEYS_SIZE).ok()?;
    let keys = LogKeys::parse_file(&text).ok()?;
    let keys = keys.iter().find(|keys| keys.ak_name() == line.ak)?;
    Some(keys.note_key(&line.unverified().ok()?.origin).to_text())
}

fn note_signer(key: Option<&str>) {
    if let Some(key) = key {
        note(format_args!("hostbadge: the checkpoint is signed by {key}"));
    }
}

fn hashes(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| BASE64.encode(hash)).collect()
}

fn checkpoint(line: &CheckpointLine) -> Value {
    json!({
        "note": line.note,
        "ak": line.ak,
        "nv_index": line.nv_index,
        "before": line.before,
        "after": line.after,
    })
}
