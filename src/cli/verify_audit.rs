//! `hostbadge verify audit`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use data_encoding::HEXLOWER;
use serde_json::json;

use super::common::{CommonArgs, print_json, print_verdict};
use super::error::CliError;
use super::files::read_file;
use super::output::print_line;
use super::progress::Progress;
use super::table::KeyValueTable;
use crate::config::escape_unprintable;
use crate::plural::counted;
use crate::verify::audit::{
    AuditOptions, AuditReport, Finding, KEYS_FILE, LogKeys, MAX_KEYS_SIZE, MAX_NOTE_SIZE, Severity,
    has_log_files, verify_audit,
};

/// Digits of a Name in hexadecimal: the algorithm, and a SHA-256 digest.
const NAME_LEN: usize = 68;
/// Characters of the bar that shows the progress on a terminal.
const BAR_WIDTH: u64 = 40;

#[derive(Args, Debug)]
pub(super) struct VerifyAuditArgs {
    /// The directory of the audit log, or a copy of it: /var/log/hostbadge/audit
    dir: PathBuf,

    /// The host's attestation key: its Name, as `hostbadge status` showed it on that host when it was installed, or a
    /// copy of the file checkpoint.keys that was made then, which pins the NV index too. Several after a change of the
    /// TPM. The file in the directory of a log pins nothing: who forges the log writes that file as well
    #[arg(long, value_name = "NAME|FILE", required_unless_present = "chain_only")]
    ak: Vec<String>,

    /// The Name of the NV index, as an earlier verification has printed it
    #[arg(long, value_name = "NAME")]
    nv_name: Vec<String>,

    /// A checkpoint that was seen earlier, a file with its signed note: the log has to contain it. An older copy of
    /// the whole directory is found by this alone
    #[arg(long, value_name = "FILE")]
    known: Vec<PathBuf>,

    /// The beginning of the log may be missing, although no record says that it was removed
    #[arg(long)]
    partial: bool,

    /// Verify no checkpoints, for a log of a daemon that made none. Who can write to the directory can forge such a
    /// log
    #[arg(long, conflicts_with_all = ["ak", "nv_name", "known"])]
    chain_only: bool,

    /// A warning makes the log not valid, also that the AK or the NV index is not pinned
    #[arg(long)]
    strict: bool,

    /// Write the signed note of the last checkpoint to a file, for --known. Nothing is written where the log is not
    /// valid, so that a later verification compares with the last note of a valid log
    #[arg(long, value_name = "FILE", conflicts_with = "chain_only")]
    save_note: Option<PathBuf>,
}

/// Prints what was found and a verdict; exit status 1 if the log is not valid.
pub(super) fn run(common: &CommonArgs, arguments: &VerifyAuditArgs) -> Result<ExitCode, CliError> {
    let trusted = TrustedKeys::read(arguments)?;
    let options = AuditOptions {
        keys: trusted.keys.clone(),
        chain_only: arguments.chain_only,
        partial: arguments.partial,
        known: arguments.known.iter().map(|file| read_note(file)).collect::<Result<_, _>>()?,
    };
    let mut progress = Progress::start();
    let report = verify_audit(&arguments.dir, &options, &mut |done, total| {
        progress.tick(|passed, has_bar| progress_text(done, total, passed, has_bar))
    })
    .map_err(CliError::local);
    progress.end();
    let report = report?;
    let warnings = trusted.warnings(arguments);
    let has_warnings = !report.findings.is_empty() || !warnings.is_empty();
    let valid = report.is_valid() && !(has_warnings && arguments.strict);
    if let (Some(file), Some(text), true) = (&arguments.save_note, &report.note, valid) {
        super::files::write_file(file, text.as_bytes(), 0o644)?;
    }
    if common.json {
        let first_bad = report.first_bad();
        print_json(&json!({
            "valid": valid,
            "first_bad": first_bad,
            "not_covered": report.not_covered(),
            "nv_names": nv_names(&options.keys),
            "ak_pinned": trusted.is_ak_pinned,
            "nv_index_pinned": trusted.is_index_pinned,
            "report": report,
        }))?;
        return Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    print_report(&report, &options)?;
    for warning in &warnings {
        print_line(format_args!("warning: {warning}"))?;
    }
    print_verdict(valid, &summary(arguments, &report, &trusted))
}

/// The keys that checkpoints are verified with, and whether they come from elsewhere than the log.
struct TrustedKeys {
    keys: Vec<LogKeys>,
    is_ak_pinned: bool,
    is_index_pinned: bool,
}

impl TrustedKeys {
    /// The keys of files, and those beside the log whose AK has one of the Names.
    fn read(arguments: &VerifyAuditArgs) -> Result<TrustedKeys, CliError> {
        let has_index_name = !arguments.nv_name.is_empty();
        let mut trusted = TrustedKeys {
            keys: Vec::new(),
            is_ak_pinned: !arguments.chain_only,
            is_index_pinned: has_index_name,
        };
        let mut are_all_from_elsewhere = !arguments.chain_only;
        for ak in &arguments.ak {
            let is_name = ak.len() == NAME_LEN && ak.bytes().all(|byte| byte.is_ascii_hexdigit());
            let file = if is_name { arguments.dir.join(KEYS_FILE) } else { PathBuf::from(ak) };
            if is_name && !file.exists() {
                return Err(CliError::Local(format!(
                    "{} does not exist, in which the keys of the log's checkpoints are; a log of a daemon that made \
                     none is verified with --chain-only",
                    file.display()
                )));
            }
            let found = LogKeys::parse_file(&read_file(&file, MAX_KEYS_SIZE)?)
                .map_err(|e| CliError::Local(format!("{}: {e}", file.display())))?;
            let is_wanted = |keys: &LogKeys| !is_name || keys.ak_name().eq_ignore_ascii_case(ak);
            let found: Vec<LogKeys> = found.into_iter().filter(is_wanted).collect();
            if found.is_empty() {
                return Err(CliError::Local(format!("{} has no keys of the AK", file.display())));
            }
            let is_of_log = is_beside_log(&file);
            trusted.is_ak_pinned &= is_name || !is_of_log;
            are_all_from_elsewhere &= !is_name && !is_of_log;
            trusted.keys.extend(found);
        }
        trusted.is_index_pinned |= are_all_from_elsewhere;
        if has_index_name {
            let named = |keys: &LogKeys| {
                let name = HEXLOWER.encode(&keys.nv_name());
                arguments.nv_name.iter().any(|pinned| pinned.eq_ignore_ascii_case(&name))
            };
            trusted.keys.retain(named);
            if trusted.keys.is_empty() {
                return Err(CliError::Local("no NV index of the AK has the Name of --nv-name".to_owned()));
            }
        }
        Ok(trusted)
    }

    /// What is not pinned, and what pins it. Without checkpoints, nothing has to be.
    fn warnings(&self, arguments: &VerifyAuditArgs) -> Vec<&'static str> {
        let ak = "the AK is not pinned: its keys were read from the directory of a log, and who can write to that can \
                  put other keys there; name its Name from another source (--ak), as hostbadge status on the host or \
                  the record of its enrollment has it";
        let index = "the NV index is not pinned: its handle was read from the directory of the log; name its Name as \
                     an earlier verification has printed it (--nv-name), or a copy of checkpoint.keys that is kept \
                     elsewhere (--ak)";
        let open = [(!self.is_ak_pinned, ak), (!self.is_index_pinned, index)];
        open.into_iter()
            .filter_map(|(is_open, text)| (is_open && !arguments.chain_only).then_some(text))
            .collect()
    }
}

/// Whether a file of keys is in a directory with files of an audit log, also where it is named by a link.
fn is_beside_log(file: &Path) -> bool {
    let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    real.parent().is_some_and(has_log_files)
}

fn read_note(file: &Path) -> Result<String, CliError> {
    String::from_utf8(read_file(file, MAX_NOTE_SIZE)?)
        .map_err(|_| CliError::Local(format!("{} is no signed note: not text", file.display())))
}

fn nv_names(keys: &[LogKeys]) -> Vec<String> {
    keys.iter().map(|keys| HEXLOWER.encode(&keys.nv_name())).collect()
}

fn print_report(report: &AuditReport, options: &AuditOptions) -> Result<(), CliError> {
    let mut table = KeyValueTable::default();
    table.add("files", format!("{}, {} MiB", report.files, report.bytes >> 20));
    let range = match (report.first_record, report.last_record) {
        (Some(first), Some(last)) => format!(", numbers {first} to {last}"),
        _ => String::new(),
    };
    table.add("records", format!("{}{range}", report.records));
    match (report.covered_to, &report.checkpointed_at) {
        (Some(covered), Some(at)) => {
            table.add(
                "checkpoints",
                format!("{}, the last one of record {covered}, {at}", report.checkpoints),
            );
        }
        _ => table.add("checkpoints", "none: the records are covered by their chain alone"),
    }
    if let (Some(tree_from), Some(first)) = (report.tree_from, report.first_record)
        && tree_from > first
    {
        let text = format!(
            "records before {tree_from} are covered by the chain up to the checkpoints, and cannot be proven alone"
        );
        table.add("tree", text);
    }
    for name in nv_names(&options.keys) {
        table.add("NV index", format!("Name {name}"));
    }
    table.print()?;
    for finding in &report.findings {
        print_line(escape_unprintable(&format_finding(finding)))?;
    }
    if report.more_findings > 0 {
        print_line(format_args!("{} are left out", counted(report.more_findings, "further finding")))?;
    }
    Ok(())
}

fn format_finding(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Bad => "BAD",
        Severity::Warning => "warning",
    };
    format!("{severity}: {}{}", place(finding), finding.message)
}

/// File and line, to be followed by the message.
fn place(finding: &Finding) -> String {
    match (finding.file.as_str(), finding.line) {
        ("", _) => String::new(),
        (file, 0) => format!("{file}: "),
        (file, line) => format!("{file}:{line}: "),
    }
}

fn summary(arguments: &VerifyAuditArgs, report: &AuditReport, trusted: &TrustedKeys) -> String {
    if let Some(bad) = report.first_bad() {
        return format!("{}{}", place(bad), bad.message);
    }
    let warnings = report.findings.len() + trusted.warnings(arguments).len();
    if arguments.strict && warnings > 0 {
        return format!("there are warnings: {warnings}");
    }
    if arguments.chain_only {
        return "the chain of the records holds; no TPM was asked, so that who can write to the directory can forge it"
            .to_owned();
    }
    let open: Vec<&str> = [
        (!trusted.is_ak_pinned, "the AK (--ak)"),
        (!trusted.is_index_pinned, "the NV index (--nv-name)"),
        (arguments.known.is_empty(), "an earlier checkpoint (--known)"),
    ]
    .into_iter()
    .filter_map(|(is_open, name)| is_open.then_some(name))
    .collect();
    let not_covered = match report.not_covered() {
        0 => String::new(),
        n => format!(", except for the last {}", counted(n, "record")),
    };
    let open = if open.is_empty() { String::new() } else { format!("; not compared: {}", open.join(", ")) };
    match trusted.is_ak_pinned {
        true => format!("the TPM certified these records{not_covered}{open}"),
        // A forger's own key would do.
        false => format!("the AK that the log itself names certified these records{not_covered}{open}"),
    }
}

/// How far the verification is, in bytes; on a terminal with a bar.
fn progress_text(done: u64, total: u64, passed: Duration, has_bar: bool) -> String {
    let rate = done as f64 / (1 << 20) as f64 / passed.as_secs_f64();
    let text = format!("{} of {} MiB are verified, {rate:.0} MiB/s", done >> 20, total >> 20);
    if !has_bar {
        return text;
    }
    let filled = (done * BAR_WIDTH).checked_div(total).unwrap_or_default().min(BAR_WIDTH);
    let bar = "#".repeat(filled as usize) + &".".repeat((BAR_WIDTH - filled) as usize);
    format!("[{bar}] {text}")
}
