//! Sealing to PCRs and the NV counter, on a software TPM.

use std::future::Future;
use std::path::Path;
use std::process::Command;

use hostbadge::tpm::{CounterKind, CounterValue, Error, SoftwareTpm, Tcti, Tpm, TpmConfig};
use tempfile::TempDir;
use zeroize::Zeroizing;

struct Host {
    dir: TempDir,
    software: SoftwareTpm,
}

impl Host {
    fn new() -> Host {
        let dir = TempDir::new().unwrap();
        let software = SoftwareTpm::start(Path::new(dir.path())).unwrap();
        Host { dir, software }
    }

    fn config(&self) -> TpmConfig {
        TpmConfig { tcti: self.software.tcti(), allow_emulator: true, ..TpmConfig::default() }
    }

    fn open(&self) -> Tpm {
        Tpm::open(self.config(), None).unwrap()
    }

    /// Extends a PCR as another program on the host does.
    fn extend(&self, pcr: u8) {
        self.tool("tpm2_pcrextend", &[&format!("{pcr}:sha256={}", "ab".repeat(32))]);
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let Tcti::Swtpm { host, port } = self.software.tcti() else { unreachable!() };
        let done = Command::new(program)
            .args(arguments)
            .args(["-T", &format!("swtpm:host={host},port={port}")])
            .output()
            .unwrap();
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn secret(byte: u8, length: usize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(vec![byte; length])
}

#[test]
fn sealed_data_opens_only_on_its_tpm_with_its_pcrs() {
    let host = Host::new();
    let tpm = host.open();
    block_on(async {
        tpm.provision().await.unwrap();
        let (free, none) = tpm.seal(secret(1, 128), None).await.unwrap();
        assert!(none.is_none());
        assert!(matches!(tpm.seal(secret(1, 129), None).await, Err(Error::RequestFailed(_))));
        assert!(matches!(tpm.seal(secret(1, 0), None).await, Err(Error::RequestFailed(_))));
        assert!(matches!(tpm.seal(secret(1, 9), Some(vec![7, 4])).await, Err(Error::RequestFailed(_))));

        let (bound, pcrs) = tpm.seal(secret(2, 32), Some(vec![4, 7, 16])).await.unwrap();
        assert_eq!(pcrs.as_ref().unwrap().keys().copied().collect::<Vec<_>>(), [4, 7, 16]);
        assert_eq!(*tpm.unseal(bound.clone(), pcrs.clone()).await.unwrap(), *secret(2, 32));
        // Neither an empty password nor a policy for other PCRs opens it.
        assert!(tpm.unseal(bound.clone(), None).await.is_err());
        let fewer = pcrs.clone().map(|mut pcrs| {
            pcrs.remove(&16);
            pcrs
        });
        assert!(tpm.unseal(bound.clone(), fewer).await.is_err());

        host.extend(16);
        let refused = tpm.unseal(bound.clone(), pcrs.clone()).await.unwrap_err();
        assert!(matches!(&refused, Error::PcrsChanged(list) if list == &[16]), "{refused}");
        assert!(refused.to_string().contains("16"), "{refused}");
        assert_eq!(*tpm.unseal(free, None).await.unwrap(), *secret(1, 128));
        let (again, pcrs) = tpm.seal(secret(2, 32), Some(vec![4, 7, 16])).await.unwrap();
        assert_eq!(*tpm.unseal(again, pcrs).await.unwrap(), *secret(2, 32));

        let held = tpm.loaded_handles().await.unwrap();
        assert!(held.objects <= 1 && held.sessions <= 1, "{held:?}");
    });
    assert!(tpm.shutdown());
}

/// The TPM counts failures of an index without TPMA_NV_NO_DA towards its lockout.
#[test]
fn the_authorization_is_not_tried_on_an_index_that_replaced_the_counter() {
    let host = Host::new();
    let auth = || Zeroizing::new([7; 32]);
    let tpm = host.open();
    let (objects, index) = block_on(async {
        let objects = tpm.provision().await.unwrap();
        (objects, tpm.create_counter(CounterKind::State, auth()).await.unwrap().0)
    });
    assert!(tpm.shutdown());
    let index_text = format!("{index:#x}");
    host.tool("tpm2_nvundefine", &["-C", "o", &index_text]);
    let attributes = "ownerread|ownerwrite|authread|authwrite";
    host.tool("tpm2_nvdefine", &["-C", "o", "-s", "8", "-p", "other", "-a", attributes, &index_text]);
    let zeros = host.dir.path().join("zeros");
    std::fs::write(&zeros, [0; 8]).unwrap();
    host.tool("tpm2_nvwrite", &["-C", "o", "-i", zeros.to_str().unwrap(), &index_text]);
    let tpm = Tpm::open(host.config(), Some(objects)).unwrap();
    block_on(async {
        let error = tpm.increment_counter_to(index, auth(), 1000).await.unwrap_err();
        assert!(error.to_string().contains("has no counter"), "{error}");
    });
    assert!(tpm.shutdown());
    let properties = host.tool("tpm2_getcap", &["properties-variable"]);
    assert!(properties.contains("TPM2_PT_LOCKOUT_COUNTER: 0x0\n"), "{properties}");
}

#[test]
fn a_counter_only_increases_and_needs_its_authorization() {
    let host = Host::new();
    let tpm = host.open();
    let auth = || Zeroizing::new([7; 32]);
    block_on(async {
        tpm.provision().await.unwrap();
        assert!(tpm.list_counters(CounterKind::State).await.unwrap().is_empty());
        let (index, first) = tpm.create_counter(CounterKind::State, auth()).await.unwrap();
        assert_eq!(tpm.read_counter(index).await.unwrap(), Some(first));
        for _ in 0..2 {
            assert_eq!(tpm.increment_counter_to(index, auth(), first + 1).await.unwrap(), first + 1);
        }
        tpm.increment_counter_to(index, Zeroizing::new([8; 32]), first + 2).await.unwrap_err();
        assert_eq!(tpm.read_counter(index).await.unwrap(), Some(first + 1));
        // A counter of another daemon.
        let (other, _) = tpm.create_counter(CounterKind::State, auth()).await.unwrap();
        assert_eq!(tpm.list_counters(CounterKind::State).await.unwrap(), [index, other]);

        // A new counter starts above the value of a removed one.
        tpm.remove_counter(index).await.unwrap();
        assert_eq!(tpm.read_counter(index).await.unwrap(), None);
        tpm.increment_counter_to(index, auth(), first + 2).await.unwrap_err();
        let (index, again) = tpm.create_counter(CounterKind::State, auth()).await.unwrap();
        assert!(again > first + 1, "{again} after {}", first + 1);

        // An index of another program at its handle is not read as a counter.
        tpm.remove_counter(index).await.unwrap();
        let place = format!("{index:#x}");
        host.tool("tpm2_nvdefine", &[&place, "-s", "8", "-a", "authwrite|ownerwrite|ownerread|authread"]);
        assert_eq!(tpm.read_counter(index).await.unwrap(), None);
        assert_eq!(tpm.list_counters(CounterKind::State).await.unwrap(), [other]);
        for _ in 0..6 {
            tpm.create_counter(CounterKind::State, auth()).await.unwrap();
        }
        let full = tpm.create_counter(CounterKind::State, auth()).await.unwrap_err().to_string();
        assert!(full.contains("tpm2_nvundefine"), "{full}");
        let held = tpm.loaded_handles().await.unwrap();
        assert!(held.objects <= 1 && held.sessions <= 1, "{held:?}");
    });
    assert!(tpm.shutdown());
}

#[test]
fn data_sealed_to_a_counter_opens_only_at_its_value() {
    let host = Host::new();
    let tpm = host.open();
    let auth = || Zeroizing::new([7; 32]);
    let (objects, blobs) = block_on(async {
        let objects = tpm.provision().await.unwrap();
        let (index, value) = tpm.create_counter(CounterKind::Erasure, auth()).await.unwrap();
        assert!(tpm.list_counters(CounterKind::State).await.unwrap().is_empty());
        assert_eq!(tpm.list_counters(CounterKind::Erasure).await.unwrap(), [index]);
        let [now, next] = [0, 1].map(|more| CounterValue { index, value: value + more });
        let first = tpm.seal_to_counter(secret(1, 32), now).await.unwrap();
        let second = tpm.seal_to_counter(secret(2, 128), next).await.unwrap();
        assert!(matches!(tpm.seal_to_counter(secret(1, 0), now).await, Err(Error::RequestFailed(_))));
        let other = CounterValue { index: index + 1, value };
        assert!(matches!(tpm.seal_to_counter(secret(1, 9), other).await, Err(Error::RequestFailed(_))));
        for _ in 0..2 {
            assert_eq!(*tpm.unseal_at_counter(first.clone(), now).await.unwrap(), *secret(1, 32));
        }
        let refused = |blob: &_, at| {
            let (tpm, blob) = (tpm.clone(), Clone::clone(blob));
            async move {
                let error = tpm.unseal_at_counter(blob, at).await.unwrap_err();
                assert!(matches!(error, Error::CounterMoved(moved) if moved == at), "{error}");
            }
        };
        // Neither the value to come, nor the present one for data that is sealed to another, nor another counter.
        refused(&second, next).await;
        refused(&second, now).await;
        refused(&first, other).await;
        // Neither an empty password.
        assert!(tpm.unseal(first.clone(), None).await.is_err());

        assert_eq!(tpm.increment_counter_to(index, auth(), next.value).await.unwrap(), next.value);
        assert_eq!(*tpm.unseal_at_counter(second.clone(), next).await.unwrap(), *secret(2, 128));
        refused(&first, now).await;
        refused(&first, next).await;
        let held = tpm.loaded_handles().await.unwrap();
        assert!(held.objects <= 1 && held.sessions <= 1, "{held:?}");
        (objects, (first, second, now, next))
    });
    assert!(tpm.shutdown());

    // Root can replace the index, by a counter that is above, or by memory with the value of before.
    let (first, second, now, next) = blobs;
    let (index, file) = (format!("{:#x}", now.index), host.dir.path().join("value"));
    let again = || {
        let tpm = Tpm::open(host.config(), Some(objects.clone())).unwrap();
        block_on(async {
            for (blob, at) in [(&first, now), (&first, next), (&second, next)] {
                let error = tpm.unseal_at_counter(blob.clone(), at).await.unwrap_err();
                assert!(matches!(error, Error::CounterMoved(_)), "{error}");
            }
        });
        assert!(tpm.shutdown());
    };
    host.tool("tpm2_nvundefine", &["-C", "o", &index]);
    again();
    host.tool("tpm2_nvdefine", &["-C", "o", "-s", "8", "-a", "nt=counter|ownerread|authwrite|no_da", &index]);
    host.tool("tpm2_nvincrement", &["-C", &index, &index]);
    again();
    host.tool("tpm2_nvundefine", &["-C", "o", &index]);
    host.tool("tpm2_nvdefine", &["-C", "o", "-s", "8", "-a", "ownerread|authwrite|no_da", &index]);
    for at in [now, next] {
        std::fs::write(&file, at.value.to_be_bytes()).unwrap();
        host.tool("tpm2_nvwrite", &["-C", &index, "-i", file.to_str().unwrap(), &index]);
        again();
    }
}

/// The AK signs the counter's value for the qualifying data, as `verify` reads it.
#[test]
fn the_ak_certifies_the_value_of_a_counter() {
    let host = Host::new();
    let tpm = host.open();
    block_on(async {
        let objects = tpm.provision().await.unwrap();
        let auth = || Zeroizing::new([7; 32]);
        let (index, value) = tpm.create_counter(CounterKind::Erasure, auth()).await.unwrap();
        for value in [value, value + 1] {
            tpm.increment_counter_to(index, auth(), value).await.unwrap();
            let certified = tpm.certify_counter(index, [9; 32]).await.unwrap();
            let point = objects.ak_point().unwrap();
            ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(&certified.attest, &certified.fixed_signature().unwrap())
                .unwrap();
            // TPM_GENERATED_VALUE and TPM_ST_ATTEST_NV, and at the end the value with its length.
            assert_eq!(certified.attest[..6], [0xFF, 0x54, 0x43, 0x47, 0x80, 0x14]);
            assert!(certified.attest.windows(32).any(|window| window == [9; 32]));
            let content = [&8_u16.to_be_bytes()[..], &value.to_be_bytes()].concat();
            assert!(certified.attest.ends_with(&content));
        }
        assert!(matches!(tpm.certify_counter(index + 1, [9; 32]).await, Err(Error::RequestFailed(_))));
        let held = tpm.loaded_handles().await.unwrap();
        assert!(held.objects <= 1 && held.sessions <= 1, "{held:?}");
    });
    assert!(tpm.shutdown());
}
