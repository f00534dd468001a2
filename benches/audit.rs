//! The audit log: the speed of `hostbadge verify audit` beside `sha256sum` on the same files, and what a checkpoint
//! costs on a software TPM.
//!
//! `cargo bench --bench audit` (or `make bench`). Writes a log of 512 MiB in the documented format into a temporary
//! directory, with checkpoints by a software TPM.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use data_encoding::{BASE64, HEXLOWER};
use hostbadge::clock::Timestamp;
use hostbadge::tpm::{AuditIndexState, Certification, SoftwareTpm, Tpm, TpmConfig};
use hostbadge::verify::audit::merkle::{Frontier, leaf_hash};
use hostbadge::verify::audit::{
    AuditOptions, Checkpoint, CheckpointLine, CheckpointReason, Entry, KeysLine, LogKeys, TreeState,
    after_binding, before_binding, checkpoints_file, log_file_name, origin, verify_audit,
};
use hostbadge::verify::evidence::SignedAttestation;
use ring::digest::{SHA256, digest};

const FILES: u64 = 8;
const FILE_SIZE: u64 = 64 << 20;
/// As by default.
const CHECKPOINT_RECORDS: u64 = 100_000;
const ROUNDS: usize = 5;
const HOST: &str = "abcdefghijklmnopqrstuvwxyz";
/// The verification may take twice the time of `sha256sum`.
const LIMIT: f64 = 2.0;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log_dir = dir.path().join("audit");
    fs::create_dir(&log_dir).expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut signer = runtime.block_on(Signer::new(dir.path()));
    let mut log = Log::new(&log_dir);
    for _ in 0..FILES {
        log.write_file(|state| runtime.block_on(signer.checkpoint(state)));
    }
    let mut times = signer.times.clone();
    times.sort();
    println!(
        "checkpoint on swtpm         {:8.1} ms   median of {} (sign, certify, extend, certify)",
        times[times.len() / 2].as_secs_f64() * 1e3,
        times.len()
    );

    let bytes: u64 = log.files.iter().map(|file| fs::metadata(file).expect("a file").len()).sum();
    let options = AuditOptions { keys: vec![signer.keys.clone()], ..AuditOptions::default() };
    // In turn, so that both have the files in the page cache, and the same processor.
    let (mut sums, mut verifications) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let status = Command::new("sha256sum").args(&log.files).stdout(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "sha256sum");
        sums.push(started.elapsed());
        let started = Instant::now();
        let report = verify_audit(&log_dir, &options, &mut |_, _| {}).expect("a report");
        verifications.push(started.elapsed());
        assert!(report.is_valid(), "{:?}", report.findings);
        assert_eq!(report.checkpoints, signer.times.len() as u64);
    }
    let (sum, verification) = (best(&sums), best(&verifications));
    let rate = |time: Duration| bytes as f64 / (1 << 20) as f64 / time.as_secs_f64();
    let ratio = verification.as_secs_f64() / sum.as_secs_f64();
    println!("sha256sum                   {:8.0} MiB/s", rate(sum));
    println!(
        "verify audit                {:8.0} MiB/s   {:.0} records/s; {ratio:.2} times the time of sha256sum, limit \
         {LIMIT:.1}",
        rate(verification),
        log.state.seq as f64 / verification.as_secs_f64()
    );
    assert!(ratio <= LIMIT, "the verification is slower than its limit");
}

fn best(times: &[Duration]) -> Duration {
    times.iter().copied().min().unwrap_or_default()
}

/// A software TPM that certifies checkpoints.
struct Signer {
    _software: SoftwareTpm,
    tpm: Tpm,
    keys: LogKeys,
    index: u32,
    times: Vec<Duration>,
}

impl Signer {
    async fn new(dir: &Path) -> Signer {
        let software = SoftwareTpm::start(&dir.join("tpm")).expect("swtpm");
        let config = TpmConfig { tcti: software.tcti(), allow_emulator: true, ..TpmConfig::default() };
        let tpm = Tpm::open(config, None).expect("a TPM");
        let objects = tpm.provision().await.expect("keys");
        let index = tpm.free_audit_index().await.expect("a free NV index");
        tpm.create_audit_index(index).await.expect("an NV index");
        let certification = signed(&objects.certification);
        let line = KeysLine::new(HOST, &objects.ak.public, &objects.host_key.public, certification, index);
        let keys = LogKeys::check(&line).expect("keys");
        Signer { _software: software, tpm, keys, index, times: Vec::new() }
    }

    async fn checkpoint(&mut self, state: &TreeState) -> CheckpointLine {
        let started = Instant::now();
        let content = Checkpoint {
            origin: origin(HOST, &state.log_id),
            size: state.frontier.size(),
            root: state.frontier.root(),
            begins_after: state.begins_after,
            seq: state.seq,
            head: state.head,
            time: Timestamp::from_secs(1_800_000_000),
            reason: CheckpointReason::Records,
            every_records: CHECKPOINT_RECORDS,
            every_seconds: 3600,
        };
        let digest = content.digest();
        let signature = self.tpm.host_sign(digest).await.expect("a signature");
        let note = self.keys.note_key(&content.origin).note(&content.to_text(), &signature);
        let state = self.tpm.audit_index_state(self.index).await.expect("a state");
        let AuditIndexState::Value(value) = state else { panic!("the NV index has no value") };
        let before = self.tpm.certify_audit_index(self.index, before_binding(&digest)).await;
        let extended = self.tpm.extend_audit_index(self.index, value, digest).await;
        let after = self.tpm.certify_audit_index(self.index, after_binding(&digest)).await;
        extended.expect("an extension");
        self.times.push(started.elapsed());
        let (before, after) = (signed(&before.expect("before")), signed(&after.expect("after")));
        CheckpointLine::new(note, self.keys.ak_name(), self.index, before, after)
    }
}

fn signed(certified: &Certification) -> SignedAttestation {
    SignedAttestation {
        attest: BASE64.encode(&certified.attest),
        signature: BASE64.encode(&certified.signature),
    }
}

/// The log that is written.
struct Log {
    dir: PathBuf,
    state: TreeState,
    files: Vec<PathBuf>,
}

impl Log {
    fn new(dir: &Path) -> Log {
        let state = TreeState {
            log_id: [7; 16],
            begins_after: 0,
            seq: 0,
            head: [0; 32],
            frontier: Frontier::default(),
        };
        Log { dir: dir.to_owned(), state, files: Vec::new() }
    }

    /// Writes a file of records like those of tokens, with checkpoints.
    fn write_file(&mut self, mut checkpoint: impl FnMut(&TreeState) -> CheckpointLine) {
        let path = self.dir.join(log_file_name(self.state.seq + 1));
        let mut entries = File::create(checkpoints_file(&path)).expect("a file");
        let mut file = BufWriter::new(File::create(&path).expect("a file"));
        writeln!(entries, "{}", Entry::Tree(self.state.clone()).to_line()).expect("an entry");
        let mut written = 0;
        while written < FILE_SIZE {
            let line = self.line();
            writeln!(file, "{line}").expect("a record");
            written += line.len() as u64 + 1;
            self.state.seq += 1;
            self.state.head.copy_from_slice(digest(&SHA256, line.as_bytes()).as_ref());
            self.state.frontier.push(leaf_hash(&self.state.head));
            if self.state.seq.is_multiple_of(CHECKPOINT_RECORDS) {
                let line = Entry::Checkpoint(Box::new(checkpoint(&self.state)));
                writeln!(entries, "{}", line.to_line()).expect("a checkpoint");
            }
        }
        file.into_inner().expect("a file");
        self.files.push(path);
    }

    fn line(&self) -> String {
        let seq = self.state.seq + 1;
        format!(
            "{{\"v\":1,\"seq\":{seq},\"prev\":\"{}\",\"time\":\"{}\",\"event\":\"token-issued\",\"agent\":\"researcher\",\
             \"audience\":\"https://api.example.com\",\"scope\":\"docs.read docs.write\",\"jti\":\"{:022}\",\
             \"kid\":\"4ZkN0n1aT3f9XQm1pQmX2zq7Hn9oX7VQq2Tn5o5fYxM\",\"exp\":1800000300,\"posture\":\"accepted\",\
             \"peer\":{{\"pid\":4242,\"uid\":1000,\"gid\":1000,\"unit\":\"researcher.service\",\
             \"invocation\":\"0123456789abcdef0123456789abcdef\",\"exe\":\"/usr/local/bin/researcher\",\
             \"exe_sha256\":\"{}\",\"pinned\":true}}}}",
            HEXLOWER.encode(&self.state.head),
            Timestamp::from_secs(1_800_000_000 + seq / 100),
            seq,
            "9f".repeat(32),
        )
    }
}
