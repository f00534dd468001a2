//! The NV index of audit checkpoints, on a software TPM.

use std::future::Future;
use std::path::Path;
use std::process::Command;

use data_encoding::BASE64;
use hostbadge::tpm::{AuditIndexState, Certification, Error, SoftwareTpm, Tcti, Tpm, TpmConfig, TpmObjects};
use hostbadge::verify::audit::{
    AUDIT_INDICES, Checkpoint, CheckpointLine, CheckpointReason, KeysLine, LogKeys, VerifiedCheckpoint,
    after_binding, before_binding, extended, first_value, origin,
};
use hostbadge::verify::evidence::SignedAttestation;
use tempfile::TempDir;

const HOST: &str = "abcdefghijklmnopqrstuvwxyz";

struct Host {
    _dir: TempDir,
    software: SoftwareTpm,
}

impl Host {
    fn new() -> Host {
        let dir = TempDir::new().unwrap();
        let software = SoftwareTpm::start(Path::new(dir.path())).unwrap();
        Host { _dir: dir, software }
    }

    fn open(&self, stored: Option<TpmObjects>) -> Tpm {
        let config = TpmConfig { tcti: self.software.tcti(), allow_emulator: true, ..TpmConfig::default() };
        Tpm::open(config, stored).unwrap()
    }

    fn tool(&self, program: &str, arguments: &[&str]) {
        let Tcti::Swtpm { host, port } = self.software.tcti() else { unreachable!() };
        let done = Command::new(program)
            .args(arguments)
            .args(["-T", &format!("swtpm:host={host},port={port}")])
            .output()
            .unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn signed(certified: &Certification) -> SignedAttestation {
    SignedAttestation {
        attest: BASE64.encode(&certified.attest),
        signature: BASE64.encode(&certified.signature),
    }
}

fn content(seq: u64) -> Checkpoint {
    Checkpoint {
        origin: origin(HOST, &[9; 16]),
        size: seq,
        root: [1; 32],
        begins_after: 0,
        seq,
        head: [2; 32],
        time: hostbadge::clock::Timestamp::from_secs(1_800_000_000),
        reason: CheckpointReason::Time,
        every_records: 100,
        every_seconds: 60,
    }
}

async fn create(tpm: &Tpm) -> u32 {
    let index = tpm.free_audit_index().await.unwrap();
    tpm.create_audit_index(index).await.unwrap();
    index
}

fn keys(objects: &TpmObjects, index: u32) -> LogKeys {
    let certification = signed(&objects.certification);
    let line = KeysLine::new(HOST, &objects.ak.public, &objects.host_key.public, certification, index);
    LogKeys::check(&line).unwrap()
}

async fn checkpoint(tpm: &Tpm, keys: &LogKeys, index: u32, seq: u64) -> (CheckpointLine, VerifiedCheckpoint) {
    let content = content(seq);
    let (text, digest) = (content.to_text(), content.digest());
    let signature = tpm.host_sign(digest).await.unwrap();
    let note = keys.note_key(&content.origin).note(&text, &signature);
    let before = tpm.certify_audit_index(index, before_binding(&digest)).await.unwrap();
    let AuditIndexState::Value(value) = tpm.audit_index_state(index).await.unwrap() else {
        panic!("no value")
    };
    let after = tpm.extend_audit_index(index, value, digest).await.unwrap();
    // A second time, as after a lost response, changes nothing.
    assert_eq!(tpm.extend_audit_index(index, value, digest).await.unwrap(), after);
    assert_eq!(after, extended(&value, &digest));
    let certified = tpm.certify_audit_index(index, after_binding(&digest)).await.unwrap();
    let line = CheckpointLine::new(note, keys.ak_name(), index, signed(&before), signed(&certified));
    let verified = line.verify(keys, &[9; 16]).unwrap();
    (line, verified)
}

#[test]
fn what_the_tpm_certifies_of_its_index_is_a_valid_checkpoint() {
    let host = Host::new();
    let tpm = host.open(None);
    let (objects, index, value) = block_on(async {
        let objects = tpm.provision().await.unwrap();
        assert_eq!(tpm.objects().await.unwrap(), objects);
        let index = create(&tpm).await;
        assert_eq!(index, AUDIT_INDICES.start);
        assert_eq!(tpm.audit_index_state(index).await.unwrap(), AuditIndexState::Value(first_value()));
        let keys = keys(&objects, index);
        let (_, first) = checkpoint(&tpm, &keys, index, 1).await;
        let (line, second) = checkpoint(&tpm, &keys, index, 2).await;
        assert_eq!((first.before, second.before), (first_value(), first.after));
        assert!(first.clock_before.millis <= first.clock_after.millis);
        assert!(first.clock_after.millis <= second.clock_before.millis);
        assert_eq!(first.clock_before.resets, second.clock_after.resets);
        // Another handle has another Name.
        let other = create(&tpm).await;
        assert_eq!(other, index + 1);
        let error = line.verify(&self::keys(&objects, other), &[9; 16]).unwrap_err().to_string();
        assert!(error.contains("its Name is not the pinned one"), "{error}");
        assert!(line.verify(&keys, &[8; 16]).is_err(), "another log");
        let wrong = tpm.extend_audit_index(index, [1; 32], [2; 32]).await;
        assert!(matches!(wrong, Err(Error::RequestFailed(_))), "{wrong:?}");
        let held = tpm.loaded_handles().await.unwrap();
        assert!(held.objects <= 1 && held.sessions <= 1, "{held:?}");
        (objects, index, second.after)
    });
    assert!(tpm.shutdown());
    // The value survives a restart.
    let tpm = host.open(Some(objects));
    block_on(async {
        assert_eq!(tpm.audit_index_state(index).await.unwrap(), AuditIndexState::Value(value));
    });
    assert!(tpm.shutdown());
}

#[test]
fn an_index_that_was_deleted_or_defined_otherwise_is_told_and_never_extended() {
    let host = Host::new();
    let tpm = host.open(None);
    let (objects, index) = block_on(async {
        let objects = tpm.provision().await.unwrap();
        (objects, create(&tpm).await)
    });
    assert!(tpm.shutdown());
    let handle = format!("{index:#x}");
    let expect = |state: AuditIndexState| {
        let tpm = host.open(Some(objects.clone()));
        block_on(async {
            assert_eq!(tpm.audit_index_state(index).await.unwrap(), state);
            let refused = tpm.certify_audit_index(index, [1; 32]).await;
            assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
            let refused = tpm.extend_audit_index(index, first_value(), [1; 32]).await;
            assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
        });
        assert!(tpm.shutdown());
    };
    host.tool("tpm2_nvundefine", &["-C", "o", &handle]);
    expect(AuditIndexState::Absent);
    for (size, attributes, state) in [
        ("32", "nt=extend|ownerread|ownerwrite|no_da", AuditIndexState::Unwritten),
        ("32", "nt=extend|ownerread|ownerwrite|authread|no_da", AuditIndexState::Foreign),
        ("32", "ownerread|ownerwrite|no_da", AuditIndexState::Foreign),
    ] {
        host.tool("tpm2_nvdefine", &["-C", "o", "-s", size, "-a", attributes, &handle]);
        expect(state);
        host.tool("tpm2_nvundefine", &["-C", "o", &handle]);
    }
    // All handles are taken: by an index that another program defined, too.
    let tpm = host.open(Some(objects.clone()));
    block_on(async {
        for _ in AUDIT_INDICES {
            create(&tpm).await;
        }
        let refused = tpm.free_audit_index().await;
        assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
        assert!(refused.unwrap_err().to_string().contains("tpm2_nvundefine -C o INDEX"));
    });
    assert!(tpm.shutdown());
}

/// A crash between the definition of an index and its first extension, or after both.
#[test]
fn an_interrupted_creation_is_completed_and_an_index_that_is_used_is_not_taken() {
    let host = Host::new();
    let tpm = host.open(None);
    let (objects, index) = block_on(async {
        let objects = tpm.provision().await.unwrap();
        (objects, tpm.free_audit_index().await.unwrap())
    });
    assert!(tpm.shutdown());
    let handle = format!("{index:#x}");
    let define = |attributes: &str| {
        host.tool("tpm2_nvdefine", &["-C", "o", "-s", "32", "-a", attributes, &handle]);
    };
    define("nt=extend|ownerread|ownerwrite|no_da");
    let tpm = host.open(Some(objects.clone()));
    block_on(async {
        for _ in 0..2 {
            tpm.create_audit_index(index).await.unwrap();
            let state = tpm.audit_index_state(index).await.unwrap();
            assert_eq!(state, AuditIndexState::Value(first_value()));
        }
        let after = tpm.extend_audit_index(index, first_value(), [1; 32]).await.unwrap();
        let refused = tpm.create_audit_index(index).await;
        assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
        assert_eq!(tpm.audit_index_state(index).await.unwrap(), AuditIndexState::Value(after));
    });
    assert!(tpm.shutdown());
    host.tool("tpm2_nvundefine", &["-C", "o", &handle]);
    define("nt=extend|ownerread|ownerwrite|authread|no_da");
    let tpm = host.open(Some(objects));
    block_on(async {
        let refused = tpm.create_audit_index(index).await;
        assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
        assert_eq!(tpm.audit_index_state(index).await.unwrap(), AuditIndexState::Foreign);
    });
    assert!(tpm.shutdown());
}
