//! `[audit] compress`: a log with compressed files gives what it gave before, also after the daemon was killed between
//! two steps, and a removal by `[audit] keep` that the TPM certifies.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::common::audit_log::files;
use crate::common::{Host, program, until_true};

const TIME: &str = "2026-01-02T03:04:05.678901Z";
/// After the records of the test, and before those of the daemon.
const UNTIL: [&str; 2] = ["--until", "2026-01-03T00:00:00Z"];
const DAY: Duration = Duration::from_secs(86_400);

/// Writes three files of 400 records each in the documented format. Two of them were last written two days ago; the
/// daemon continues the third.
fn write_log(dir: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(dir).unwrap();
    let (mut seq, mut last) = (0, "0".repeat(64));
    let mut paths = Vec::new();
    for at in 0..3 {
        let path = dir.join(format!("{:020}.jsonl", seq + 1));
        let mut file = File::create(&path).unwrap();
        for _ in 0..400 {
            seq += 1;
            let line = format!(
                "{{\"v\":1,\"seq\":{seq},\"prev\":\"{last}\",\"time\":\"{TIME}\",\"event\":\"agents-reloaded\",\
                 \"agent\":\"agent-{}\",\"detail\":\"{}\"}}",
                seq % 3,
                "text ".repeat(seq % 40)
            );
            last = HEXLOWER.encode(digest(&SHA256, line.as_bytes()).as_ref());
            writeln!(file, "{line}").unwrap();
        }
        if at < 2 {
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_046)).unwrap();
        }
        file.sync_all().unwrap();
        paths.push(path);
    }
    paths
}

fn packed(plain: &Path) -> PathBuf {
    plain.with_extension("jsonl.gz")
}

fn hostbadge(words: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(program("hostbadge"));
    command.args(words).args(["--admin-socket", "/nonexistent", "--dir"]).arg(dir);
    command.output().unwrap()
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the commands say of the records of the test.
fn read(dir: &Path) -> Vec<String> {
    let query = |words: &[&str]| {
        text(hostbadge(&[&["audit", "query", "--json", "-n", "1000"], UNTIL.as_slice(), words].concat(), dir))
    };
    let of_agent = ["--agent", "agent-1"];
    vec![query(&[]), query(&of_agent), query(&[&of_agent[..], &["--no-index"]].concat())]
}

/// The records 391 to 410, of two files, by `GET /v1/audit`.
fn page(host: &Host) -> Vec<Value> {
    let page = host.admin().get("/v1/audit?after=390&limit=20").json();
    page["records"].as_array().unwrap().clone()
}

fn verify(host: &Host, options: &[&str]) -> Value {
    let (dir, keys) = (host.path("audit"), host.path("audit/checkpoint.keys"));
    let (dir, keys) = (dir.to_str().unwrap(), keys.to_str().unwrap());
    let output = host.hostbadge(&[&["verify", "audit", dir, "--ak", keys, "--json"], options].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    report
}

#[test]
fn complete_files_are_compressed_and_read_as_before_also_after_a_crash() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let dir = host.path("audit");
    let made = write_log(&dir);
    let plain: Vec<Vec<u8>> = made.iter().map(|path| fs::read(path).unwrap()).collect();
    host.configure("[audit]\ncheckpoint_every = \"1s\"\n");
    host.start();
    host.token();
    let before = read(&dir);
    assert_eq!(before[0].lines().count(), 1000);
    let page_before = page(&host);
    assert_eq!(page_before.len(), 20);
    let exported = |host: &Host| {
        text(host.hostbadge(&[&["audit", "export", "--format", "ocsf"], UNTIL.as_slice()].concat()))
    };
    let exported_before = exported(&host);
    host.stop();
    assert!(made.iter().all(|path| path.exists()), "nothing is compressed by default");
    let report_before = verify(&host, &["--partial"]);

    host.configure("[audit]\ncompress = true\ncheckpoint_every = \"1s\"\n");
    host.start();
    host.token();
    let is_compressed = |path: &PathBuf| !path.exists() && packed(path).exists();
    until_true("the complete files are compressed", || made[..2].iter().all(is_compressed));
    assert!(made[2].exists() && !packed(&made[2]).exists());
    for (path, plain) in made[..2].iter().zip(&plain) {
        let output = Command::new("zcat").arg(packed(path)).output().unwrap();
        assert!(output.status.success() && output.stdout == *plain);
    }
    assert_eq!(
        (read(&dir), page(&host), exported(&host)),
        (before.clone(), page_before.clone(), exported_before)
    );
    let tail = host.hostbadge(&[&["audit", "tail", "--json", "-n", "1000"], UNTIL.as_slice()].concat());
    assert_eq!(text(tail), before[0]);

    // Killed while it compressed one file, and before it removed another.
    host.crash();
    let unfinished = made[0].with_extension("gz-new");
    fs::write(&unfinished, "part").unwrap();
    fs::write(&made[1], &plain[1]).unwrap();
    File::options().append(true).open(&made[1]).unwrap().set_modified(SystemTime::UNIX_EPOCH + DAY).unwrap();
    assert_eq!(read(&dir), before);
    host.start();
    until_true("the next start completes it", || is_compressed(&made[1]));
    assert!(!unfinished.exists());
    assert_eq!((read(&dir), page(&host)), (before, page_before));
    host.token();
    host.stop();
    let report = verify(&host, &["--partial"]);
    assert_eq!(report["not_covered"], 0);
    assert_eq!(report["report"]["first_record"], 1);
    assert!(report["report"]["records"].as_u64() > report_before["report"]["records"].as_u64());
    assert!(report["report"]["bytes"].as_u64() < report_before["report"]["bytes"].as_u64());
    assert_eq!(report["report"]["findings"], report_before["report"]["findings"]);
    // The second start found the end of the log, and the tree, without the compressed files.
    let newest = fs::read_to_string(files(&dir).pop().unwrap()).unwrap();
    for event in ["audit-torn", "audit-gap", "audit-tree-restarted", "audit-file-replaced"] {
        assert!(!newest.contains(&format!("\"event\":\"{event}\"")), "{event}");
    }
}

#[test]
fn the_tpm_certifies_the_record_of_a_removal_and_the_verification_names_the_checkpoint() {
    let mut host = Host::new();
    host.agent("root", "user = 0");
    let dir = host.path("audit");
    let made = write_log(&dir);
    host.configure("[audit]\ncompress = true\ncheckpoint_every = \"1s\"\n");
    host.start();
    until_true("the complete files are compressed", || {
        made[..2].iter().all(|path| !path.exists() && packed(path).exists())
    });
    host.stop();
    host.configure("[audit]\nkeep = { age = \"1d\" }\ncheckpoint_every = \"1s\"\n");
    host.start();
    until_true("the compressed files are removed", || made[..2].iter().all(|path| !packed(path).exists()));
    let removal = || {
        let text = host.audit_text();
        let line = text.lines().find(|line| line.contains("\"event\":\"audit-files-removed\""))?;
        serde_json::from_str::<Value>(line).ok()
    };
    let removal = removal().unwrap();
    let seq = removal["seq"].as_u64().unwrap();
    assert!(
        removal["detail"].as_str().unwrap().contains("with the records 1 to 800 are removed"),
        "{removal}"
    );
    until_true("a checkpoint covers the record", || {
        host.status()["audit"]["checkpoint"]["covered_to"].as_u64().is_some_and(|covered| covered >= seq)
    });
    host.stop();
    let report = verify(&host, &[]);
    assert_eq!(report["report"]["first_record"], 801);
    assert_eq!(report["report"]["removal_record"], seq);
    let certified = report["report"]["removal_certified_by"].as_u64().unwrap();
    assert!(certified >= seq);
    let finding = &report["report"]["findings"][0];
    assert_eq!(finding["kind"], "beginning-missing");
    let expected =
        format!("as record {seq} says, and the checkpoint of record {certified} certifies that record");
    assert!(finding["message"].as_str().unwrap().ends_with(&expected), "{finding}");

    // Without the checkpoints from that one on, nobody has certified the removal.
    for file in files(&dir) {
        let path = file.with_extension("checkpoints");
        let is_kept = |line: &&str| {
            let entry: Value = serde_json::from_str(line).unwrap();
            let note = entry["note"].as_str().unwrap_or_default();
            let covered = note.lines().find_map(|line| line.strip_prefix("seq ")?.parse::<u64>().ok());
            covered.is_none_or(|covered| covered < seq)
        };
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.lines().filter(is_kept).map(|line| format!("{line}\n")).collect::<String>())
            .unwrap();
    }
    let dir = dir.to_str().unwrap();
    let keys = host.path("audit/checkpoint.keys");
    let output = host.hostbadge(&["verify", "audit", dir, "--ak", keys.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kinds: Vec<&Value> =
        report["report"]["findings"].as_array().unwrap().iter().map(|finding| &finding["kind"]).collect();
    assert!(kinds.iter().any(|kind| *kind == "removal-not-certified"), "{report}");
}
