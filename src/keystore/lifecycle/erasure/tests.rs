//! With a real software TPM: what each crash leaves opens, and what was erased does not.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::tpm::{SoftwareTpm, Tpm, TpmConfig, TpmObjects};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

struct Host {
    dir: TempDir,
    software: SoftwareTpm,
    objects: TpmObjects,
    tpm: Tpm,
}

impl Host {
    async fn new() -> Host {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let software = SoftwareTpm::start(&dir.path().join("tpm")).unwrap();
        let tpm = open_tpm(&software, None);
        let objects = tpm.provision().await.unwrap();
        let host = Host { dir, software, objects, tpm };
        drop(host.open(true).await);
        host
    }

    fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("state")
    }

    async fn open(&self, newly_provisioned: bool) -> Keystore {
        let (state, kek) = (self.state(), &self.objects.kek);
        Keystore::open(&self.tpm, &state, kek, &[], newly_provisioned, &Clock::manual(NOW)).await.unwrap().0
    }

    /// After a crash: the keystore in memory is gone.
    async fn reopened(&self, crashed: Keystore) -> Keystore {
        drop(crashed);
        self.open(false).await
    }
}

fn open_tpm(software: &SoftwareTpm, objects: Option<TpmObjects>) -> Tpm {
    let config = TpmConfig { tcti: software.tcti(), allow_emulator: true, ..TpmConfig::default() };
    Tpm::open(config, objects).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn agents_keys_open_after_each_crash_and_erased_ones_never() {
    let host = Host::new().await;
    let keystore = host.open(false).await;
    assert!(keystore.agent_keks().await.unwrap().get("a").is_none());
    assert_eq!(keystore.destroy_agent_kek("a").await.unwrap(), None);
    assert!(!host.state().join(erasure_file::FILE_NAME).exists());
    assert!(host.tpm.list_counters(CounterKind::Erasure).await.unwrap().is_empty());

    let a = keystore.ensure_agent_kek("a").await.unwrap().get("a").unwrap().clone();
    let keks = keystore.ensure_agent_kek("b").await.unwrap();
    let b = keks.get("b").unwrap().clone();
    assert_eq!(keks.get("a"), Some(&a));
    assert_eq!(keystore.ensure_agent_kek("b").await.unwrap().get("b"), Some(&b));
    let keystore = host.reopened(keystore).await;
    assert_eq!(keystore.agent_keks().await.unwrap().get("a"), Some(&a));
    keystore.ensure_agent_kek("c").await.unwrap();
    let backup = host.dir.path().join("backup");
    copy(&host.state(), &backup);
    let index = keystore.erasures.lock().await.as_ref().unwrap().counter();
    let before = host.tpm.read_counter(index).await.unwrap().unwrap();

    // A crash before anything is written, and one before the counter moves: the next use completes it.
    let keystore = host.reopened(keystore).await;
    assert!(keystore.prepare_erasure(&mut *keystore.erasures.lock().await, "a").await.unwrap());
    assert_eq!(host.tpm.read_counter(index).await.unwrap(), Some(before));
    let keystore = host.reopened(keystore).await;
    let keks = keystore.agent_keks().await.unwrap();
    assert_eq!((keks.get("a"), keks.get("b")), (None, Some(&b)));
    assert_eq!(host.tpm.read_counter(index).await.unwrap(), Some(before + 1));
    let [erasure] = &keystore.erasures_of("a").await[..] else { panic!() };
    assert_eq!((erasure.before, erasure.after, erasure.counter), (before, before + 1, index));
    assert_eq!(keystore.destroy_agent_kek("a").await.unwrap(), None);

    // A crash after the counter moved, or a response that was late.
    {
        let mut slot = keystore.erasures.lock().await;
        assert!(keystore.prepare_erasure(&mut slot, "c").await.unwrap());
        let auth = keystore.open_current(slot.as_ref().unwrap()).await.unwrap().auth;
        host.tpm.increment_counter_to(index, auth, before + 2).await.unwrap();
    }
    let keystore = host.reopened(keystore).await;
    let keks = keystore.agent_keks().await.unwrap();
    assert_eq!((keks.get("c"), keks.get("b")), (None, Some(&b)));
    assert_eq!(keystore.erasures.lock().await.as_ref().unwrap().next_count(), None);

    // Without a crash. The name can be used again, with another key.
    let again = keystore.ensure_agent_kek("a").await.unwrap().get("a").unwrap().clone();
    assert_ne!(again, a);
    let erasure = keystore.destroy_agent_kek("a").await.unwrap().unwrap();
    assert_eq!((erasure.before, erasure.after), (before + 2, before + 3));
    assert_eq!(keystore.erasures_of("a").await.len(), 2);
    assert_eq!(host.reopened(keystore).await.agent_keks().await.unwrap().get("b"), Some(&b));

    // A backup opens nothing, also where the administrator accepts it.
    copy(&backup, &host.state());
    super::super::accept_current_state(&host.tpm, &host.state(), &host.objects.kek).await.unwrap();
    let keystore = host.open(false).await;
    let lost = keystore.agent_keks().await.err().unwrap();
    assert!(matches!(lost, Error::AgentKeksLost(AgentKeksLoss::Counter)), "{lost}");
    assert_eq!(keystore.destroy_agent_kek("b").await.unwrap(), None);
    // New keys can be made, and take no further NV index.
    let new = keystore.ensure_agent_kek("b").await.unwrap();
    assert!(new.get("a").is_none() && new.get("b").is_some_and(|kek| *kek != b));
    assert_eq!(host.tpm.list_counters(CounterKind::Erasure).await.unwrap(), [index]);
    assert_eq!(host.reopened(keystore).await.agent_keks().await.unwrap().get("b"), new.get("b"));
}

/// The state directory is moved to another TPM, whose counter at the same NV index may be another system's.
#[tokio::test]
async fn another_tpm_opens_no_agents_key_and_loses_none_of_another_system() {
    let (host, other) = (Host::new().await, Host::new().await);
    for one in [&host, &other] {
        one.open(false).await.ensure_agent_kek("a").await.unwrap();
    }
    let file = erasure_file::FILE_NAME;
    fs::copy(host.state().join(file), other.state().join(file)).unwrap();
    super::super::accept_current_state(&other.tpm, &other.state(), &other.objects.kek).await.unwrap();
    let keystore = other.open(false).await;
    let lost = keystore.agent_keks().await.err().unwrap();
    assert!(matches!(lost, Error::AgentKeksLost(AgentKeksLoss::OtherTpm)), "{lost}");
    keystore.ensure_agent_kek("b").await.unwrap();
    assert_eq!(other.tpm.list_counters(CounterKind::Erasure).await.unwrap().len(), 2);
}

/// A TPM that does not respond leaves everything as it was, and a repetition completes the erasure.
#[tokio::test]
async fn an_erasure_without_the_tpm_fails_and_can_be_repeated() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let host = Host::new().await;
    let keystore = host.open(false).await;
    keystore.ensure_agent_kek("a").await.unwrap();
    let pid = Pid::from_raw(host.software.pid() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    let error = keystore.destroy_agent_kek("a").await.unwrap_err();
    assert!(matches!(error, Error::Tpm(_)), "{error}");
    kill(pid, Signal::SIGCONT).unwrap();
    for _ in 0..100 {
        if keystore.agent_keks().await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(keystore.destroy_agent_kek("a").await.unwrap().is_some());
    assert!(keystore.agent_keks().await.unwrap().get("a").is_none());
}
