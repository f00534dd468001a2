//! A small log with checkpoints by keys in software, for tests.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use super::super::evidence::SignedAttestation;
use super::checkpoint::{
    Checkpoint, CheckpointReason, after_binding, before_binding, extended, first_value, origin,
};
use super::entries::{CheckpointLine, Entry, TreeState};
use super::files::{checkpoints_file, log_file_name};
use super::keys::{AUDIT_INDICES, KeysLine, LogKeys, audit_index_name};
use super::merkle::{Frontier, Hash, leaf_hash};
use crate::clock::Timestamp;
use crate::digest::sha256;

pub(super) const HOST: &str = "abcdefghijklmnopqrstuvwxyz";
/// 2027-01-15T08:00:00Z
pub(super) const START: u64 = 1_800_000_000;

/// A TPM's keys, NV index and clock.
pub(super) struct SampleTpm {
    ak: EcdsaKeyPair,
    ak_pkcs8: Vec<u8>,
    host_pkcs8: Vec<u8>,
    ak_public: Vec<u8>,
    host_key: EcdsaKeyPair,
    pub(super) nv_index: u32,
    pub(super) value: Hash,
    pub(super) millis: u64,
    pub(super) resets: u32,
    pub(super) line: KeysLine,
}

impl SampleTpm {
    pub(super) fn new() -> SampleTpm {
        let (ak_pkcs8, host_pkcs8) = (pkcs8(), pkcs8());
        let (ak, host_key) = (from_pkcs8(&ak_pkcs8), from_pkcs8(&host_pkcs8));
        let (ak_public, host_public) = (public_area(&ak, 0x0005_0472), public_area(&host_key, 0x0004_0472));
        let certify = [2_u16.to_be_bytes().as_slice(), &tpm2b(&name(&host_public)), &tpm2b(&[])].concat();
        let mut tpm = SampleTpm {
            line: KeysLine::new(HOST, &ak_public, &host_public, empty(), AUDIT_INDICES.start),
            ak,
            ak_pkcs8,
            host_pkcs8,
            ak_public,
            host_key,
            nv_index: AUDIT_INDICES.start,
            value: first_value(),
            millis: 1000,
            resets: 7,
        };
        let certification = tpm.attest(0x8017, &[], &certify[2..]);
        tpm.line = KeysLine::new(HOST, &tpm.ak_public, &host_public, certification, AUDIT_INDICES.start);
        tpm
    }

    /// Goes on with another index of the same TPM.
    pub(super) fn use_index(&mut self, nv_index: u32) {
        self.nv_index = nv_index;
        let mut line = serde_json::to_value(&self.line).unwrap();
        line["nv_index"] = nv_index.into();
        self.line = serde_json::from_value(line).unwrap();
    }

    pub(super) fn keys(&self) -> LogKeys {
        LogKeys::check(&self.line).unwrap()
    }

    /// Certifies, extends, certifies.
    pub(super) fn checkpoint(&mut self, checkpoint: &Checkpoint) -> CheckpointLine {
        let digest = checkpoint.digest();
        let before = self.certify(&before_binding(&digest));
        self.value = extended(&self.value, &digest);
        let after = self.certify(&after_binding(&digest));
        CheckpointLine::new(self.note(checkpoint), self.keys().ak_name(), self.nv_index, before, after)
    }

    pub(super) fn note(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.to_text();
        let signature = self.host_key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        self.keys().note_key(&checkpoint.origin).note(&text, signature.as_ref().try_into().unwrap())
    }

    pub(super) fn certify(&mut self, binding: &Hash) -> SignedAttestation {
        self.millis += 10;
        let name = audit_index_name(self.nv_index, true);
        let content = [tpm2b(&name), 0_u16.to_be_bytes().to_vec(), tpm2b(&self.value)].concat();
        self.attest(0x8014, binding, &content)
    }

    /// A certification of a key in place of the NV index.
    pub(super) fn other_certification(&self, binding: &Hash) -> SignedAttestation {
        self.attest(0x8017, binding, &[tpm2b(&[1; 34]), tpm2b(&[])].concat())
    }

    /// The same keys, and a state of its own.
    pub(super) fn duplicate(&self) -> SampleTpm {
        SampleTpm {
            ak: from_pkcs8(&self.ak_pkcs8),
            host_key: from_pkcs8(&self.host_pkcs8),
            ak_pkcs8: self.ak_pkcs8.clone(),
            host_pkcs8: self.host_pkcs8.clone(),
            ak_public: self.ak_public.clone(),
            line: self.line.clone(),
            ..*self
        }
    }

    fn attest(&self, kind: u16, extra: &[u8], attested: &[u8]) -> SignedAttestation {
        let mut bytes = 0xFF54_4347_u32.to_be_bytes().to_vec();
        bytes.extend(kind.to_be_bytes());
        bytes.extend(tpm2b(&name(&self.ak_public)));
        bytes.extend(tpm2b(extra));
        bytes.extend(self.millis.to_be_bytes());
        bytes.extend(self.resets.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.push(1);
        bytes.extend(5_u64.to_be_bytes());
        bytes.extend(attested);
        let fixed = self.ak.sign(&SystemRandom::new(), &bytes).unwrap();
        let (r, s) = fixed.as_ref().split_at(32);
        let signature = [vec![0, 0x18, 0, 0x0B], tpm2b(r), tpm2b(s)].concat();
        SignedAttestation { attest: BASE64.encode(&bytes), signature: BASE64.encode(&signature) }
    }
}

fn empty() -> SignedAttestation {
    SignedAttestation { attest: String::new(), signature: String::new() }
}

fn pkcs8() -> Vec<u8> {
    let random = SystemRandom::new();
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap().as_ref().to_vec()
}

fn from_pkcs8(pkcs8: &[u8]) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new()).unwrap()
}

fn tpm2b(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A TPM2B_PUBLIC of a P-256 key with ECDSA and SHA-256.
fn public_area(key: &EcdsaKeyPair, attributes: u32) -> Vec<u8> {
    let point = key.public_key().as_ref();
    let mut area = Vec::new();
    for number in [0x0023_u16, 0x000B] {
        area.extend(number.to_be_bytes());
    }
    area.extend(attributes.to_be_bytes());
    for number in [0_u16, 0x0010, 0x0018, 0x000B, 0x0003, 0x0010] {
        area.extend(number.to_be_bytes());
    }
    area.extend(tpm2b(&point[1..33]));
    area.extend(tpm2b(&point[33..]));
    tpm2b(&area)
}

fn name(public: &[u8]) -> Vec<u8> {
    [&[0, 0x0B], sha256(&public[2..]).as_slice()].concat()
}

/// A log that is being written.
pub(super) struct SampleLog {
    pub(super) dir: tempfile::TempDir,
    pub(super) tpm: SampleTpm,
    pub(super) state: TreeState,
    pub(super) path: PathBuf,
    pub(super) now: u64,
    /// What its checkpoints say of themselves.
    pub(super) reason: CheckpointReason,
    pub(super) every_seconds: u64,
}

impl SampleLog {
    pub(super) fn new() -> SampleLog {
        let dir = tempfile::tempdir().unwrap();
        let state = TreeState {
            log_id: [9; 16],
            begins_after: 0,
            seq: 0,
            head: [0; 32],
            frontier: Frontier::default(),
        };
        let path = dir.path().join(log_file_name(1));
        let (tpm, reason) = (SampleTpm::new(), CheckpointReason::Time);
        let mut log = SampleLog { dir, tpm, state, path, now: START, reason, every_seconds: 3600 };
        log.begin_file();
        log
    }

    /// As a log of a daemon that has no checkpoints.
    pub(super) fn without_tree() -> SampleLog {
        let log = SampleLog::new();
        fs::remove_file(log.entries()).unwrap();
        log
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn entries(&self) -> PathBuf {
        checkpoints_file(&self.path)
    }

    /// Begins the next file.
    pub(super) fn begin_file(&mut self) {
        self.path = self.dir.path().join(log_file_name(self.state.seq + 1));
        File::create(&self.path).unwrap();
        self.append_entry(&Entry::Tree(self.state.clone()));
    }

    pub(super) fn append_entry(&self, entry: &Entry) {
        append(&self.entries(), &format!("{}\n", entry.to_line()));
    }

    /// Writes records, one a second.
    pub(super) fn write(&mut self, count: u64) {
        for _ in 0..count {
            self.now += 1;
            self.write_event("token-issued", self.now);
        }
    }

    pub(super) fn write_event(&mut self, event: &str, time: u64) {
        let line = format!(
            "{{\"v\":1,\"seq\":{},\"prev\":\"{}\",\"time\":\"{}\",\"event\":\"{event}\",\"detail\":\"{}\"}}",
            self.state.seq + 1,
            HEXLOWER.encode(&self.state.head),
            Timestamp::from_secs(time),
            self.state.seq,
        );
        append(&self.path, &format!("{line}\n"));
        self.state.seq += 1;
        self.state.head = sha256(line.as_bytes());
        self.state.frontier.push(leaf_hash(&self.state.head));
    }

    pub(super) fn content(&self) -> Checkpoint {
        Checkpoint {
            origin: origin(HOST, &self.state.log_id),
            size: self.state.frontier.size(),
            root: self.state.frontier.root(),
            begins_after: self.state.begins_after,
            seq: self.state.seq,
            head: self.state.head,
            time: Timestamp::from_secs(self.now),
            reason: self.reason,
            every_records: 100,
            every_seconds: self.every_seconds,
        }
    }

    /// Makes a checkpoint of the records so far, and returns its note.
    pub(super) fn checkpoint(&mut self) -> String {
        self.tpm.millis += 1000;
        let content = self.content();
        let line = self.tpm.checkpoint(&content);
        let note = line.note.clone();
        self.append_entry(&Entry::Checkpoint(Box::new(line)));
        note
    }
}

/// A gzip file with this content.
pub(super) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut sum = super::gzip::Crc32::default();
    sum.add(content);
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    bytes.extend(miniz_oxide::deflate::compress_to_vec(content, 6));
    bytes.extend(sum.value().to_le_bytes());
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes
}

pub(super) fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
