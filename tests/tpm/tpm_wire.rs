//! The TPM module behind a proxy that records commands and injects faults.

use std::future::Future;
use std::time::Duration;

use crate::proxy::{Fault, Proxy, command_code, port};
use hostbadge::tpm::{Error, SoftwareTpm, StateKind, Tpm, TpmConfig};
use tempfile::TempDir;

const CC_CREATE_PRIMARY: u32 = 0x131;
const CC_LOAD: u32 = 0x157;
const CC_UNSEAL: u32 = 0x15E;
const CC_SIGN: u32 = 0x15D;
const CC_GET_CAPABILITY: u32 = 0x17A;
const CC_FLUSH_CONTEXT: u32 = 0x165;
const CC_START_AUTH_SESSION: u32 = 0x176;
const CC_NV_READ_PUBLIC: u32 = 0x169;
const CC_READ_PUBLIC: u32 = 0x173;

#[test]
fn secrets_are_encrypted_on_the_connection() {
    let host = Host::new();
    let (kek, random, point) = block_on(async {
        let objects = host.tpm.provision().await.unwrap();
        let random = host.tpm.random(32).await.unwrap();
        (host.tpm.unseal_kek().await.unwrap(), random, objects.host_key_point().unwrap())
    });
    let seen = host.wire.frames();
    let shows =
        |secret: &[u8]| seen.iter().any(|frame| frame.windows(secret.len()).any(|some| some == secret));
    assert!(shows(&point[1..33]), "the proxy sees what is public");
    assert!(!shows(&kek[..16]) && !shows(&kek[16..]), "the key-encryption key was sent in plain");
    assert!(!shows(&random[..16]) && !shows(&random[16..]), "the random numbers were sent in plain");
}

#[test]
fn all_commands_that_can_have_a_session_have_one() {
    let host = Host::new();
    block_on(async {
        host.tpm.provision().await.unwrap();
        host.tpm.unseal_kek().await.unwrap();
        host.tpm.host_sign([1; 32]).await.unwrap();
        host.tpm.info().await.unwrap();
    });
    let seen = host.wire.frames();
    let bare: Vec<u32> = seen
        .iter()
        .step_by(2)
        .filter(|frame| frame[..2] == [0x80, 0x01])
        .map(|frame| command_code(frame))
        .collect();
    let allowed =
        [CC_GET_CAPABILITY, CC_FLUSH_CONTEXT, CC_START_AUTH_SESSION, CC_NV_READ_PUBLIC, CC_READ_PUBLIC];
    assert!(bare.iter().all(|code| allowed.contains(code)), "{bare:x?}");
    // Only the creation of the SRK has a password authorization (TPM_RS_PW) first.
    let passwords = seen.iter().step_by(2).filter(|frame| {
        let area = frame.windows(4).skip(10).take(16).any(|some| some == [0x40, 0x00, 0x00, 0x09]);
        area && frame[..2] == [0x80, 0x02]
    });
    assert_eq!(passwords.map(|frame| command_code(frame)).collect::<Vec<_>>(), [CC_CREATE_PRIMARY]);
}

/// A second attempt would fail as well, and could be one more failure that the TPM counts.
#[test]
fn a_lockout_is_reported_at_once_and_ends() {
    let host = Host::new();
    block_on(async {
        host.tpm.provision().await.unwrap();
        host.wire.inject(CC_SIGN, Fault::Answer(0x921), 1);
        // A probe that finds the lockout ended would change the state before it is read here.
        host.wire.inject(CC_GET_CAPABILITY, Fault::Answer(0x921), 1000);
        let error = host.tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(error.to_string().contains("0x921"), "{error}");
        assert_eq!(host.tpm.state().borrow().kind, StateKind::Lockout);
        assert!(StateKind::Lockout.remedy().contains("tpm2_dictionarylockout"));
        host.wire.clear_faults();
        host.until(StateKind::Ready).await;
        host.tpm.host_sign([1; 32]).await.unwrap();
    });
}

#[test]
fn broken_responses_are_recovered_within_the_call() {
    let host = Host::new();
    block_on(async {
        host.tpm.provision().await.unwrap();
        let kek = host.tpm.unseal_kek().await.unwrap();
        let faults = [
            (CC_UNSEAL, Fault::Cut),
            (CC_LOAD, Fault::Cut),
            (CC_FLUSH_CONTEXT, Fault::Cut),
            (CC_UNSEAL, Fault::Garbage),
            (CC_LOAD, Fault::Flip),
            (CC_UNSEAL, Fault::Flip),
            (CC_LOAD, Fault::Answer(0x910)),
            (CC_LOAD, Fault::Answer(0x918)),
            (CC_UNSEAL, Fault::Answer(0x98E)),
            (CC_LOAD, Fault::Answer(0x902)),
        ];
        for (command, fault) in faults {
            host.wire.inject(command, fault, 1);
            match host.tpm.unseal_kek().await {
                Ok(found) => assert_eq!(*found, *kek, "{command:x} {fault:?}"),
                Err(error) => panic!("{command:x} {fault:?}: {error}"),
            }
            assert!(host.wire.pending_faults() == 0, "{command:x} {fault:?} was not met");
        }
        host.until(StateKind::Ready).await;
        let held = host.tpm.loaded_handles().await.unwrap();
        assert_eq!((held.objects, held.sessions), (1, 1), "no objects leaked");
    });
}

#[test]
fn a_repeated_fault_is_reported_and_then_recovered() {
    let host = Host::new();
    block_on(async {
        host.tpm.provision().await.unwrap();
        host.wire.inject(CC_UNSEAL, Fault::Cut, 2);
        let error = host.tpm.unseal_kek().await.unwrap_err();
        assert!(matches!(error, Error::CommandFailed { command: "TPM2_Unseal", .. }), "{error}");
        host.tpm.unseal_kek().await.unwrap();
        // A TPM in failure mode (TPM_RC_FAILURE) counts as absent.
        host.wire.inject(CC_CREATE_PRIMARY, Fault::Answer(0x101), 1);
        host.wire.inject(CC_SIGN, Fault::Answer(0x101), 1);
        let error = host.tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(matches!(error, Error::NotReady(StateKind::Absent)), "{error}");
        host.until(StateKind::Ready).await;
        // A TPM without memory is busy, not absent.
        host.wire.inject(CC_CREATE_PRIMARY, Fault::Answer(0x902), 1);
        host.wire.inject(CC_SIGN, Fault::Cut, 1);
        let error = host.tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(matches!(error, Error::NotReady(StateKind::Busy)), "{error}");
        host.until(StateKind::Ready).await;
        host.tpm.host_sign([1; 32]).await.unwrap();
    });
}

/// The context's drop would flush the session and the objects, and wait for a TPM that does not respond as
/// long as for the command before.
#[test]
fn an_abandoned_connection_sends_no_command() {
    let host = Host::new();
    block_on(async {
        host.tpm.provision().await.unwrap();
        for command in [CC_UNSEAL, CC_LOAD, CC_START_AUTH_SESSION] {
            // The next command starts a session.
            if command == CC_START_AUTH_SESSION {
                host.wire.inject(CC_UNSEAL, Fault::Cut, 1);
            }
            let before = host.wire.frames().len();
            host.wire.inject(command, Fault::Garbage, 1);
            // A fault while connecting is the request's result.
            let outcome = host.tpm.unseal_kek().await;
            assert!(outcome.is_ok() || command == CC_START_AUTH_SESSION, "{outcome:?}");
            host.until(StateKind::Ready).await;
            let codes: Vec<u32> =
                host.wire.frames()[before..].iter().step_by(2).map(|frame| command_code(frame)).collect();
            let at = codes.iter().position(|code| *code == command).unwrap();
            assert_eq!(codes[at + 1], CC_GET_CAPABILITY, "after {command:#x}: {codes:x?}");
        }
    });
}

/// A host whose TPM is reached through the proxy.
struct Host {
    tpm: Tpm,
    wire: Proxy,
    _software: SoftwareTpm,
    _dir: TempDir,
}

impl Host {
    fn new() -> Host {
        let dir = TempDir::new().unwrap();
        let software = SoftwareTpm::start(dir.path()).unwrap();
        let wire = Proxy::to(port(&software));
        let config = TpmConfig {
            tcti: wire.tcti().parse().unwrap(),
            allow_emulator: true,
            deadline: Duration::from_secs(10),
            probe_every: Duration::from_millis(300),
            initial_retry_delay: Duration::from_millis(100),
            ..TpmConfig::default()
        };
        let tpm = Tpm::open(config, None).unwrap();
        Host { tpm, wire, _software: software, _dir: dir }
    }

    async fn until(&self, kind: StateKind) {
        let mut state = self.tpm.state();
        let arrived = async { state.wait_for(|state| state.kind == kind).await.map(drop).unwrap() };
        tokio::time::timeout(Duration::from_secs(10), arrived).await.expect("the state");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tpm.shutdown();
    }
}

fn block_on<F: Future>(f: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(f)
}
