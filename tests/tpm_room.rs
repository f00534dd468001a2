//! The TPM room on a real (software) TPM: each test has its own, in its own directory, on its own ports.

use std::ffi::OsStr;
use std::future::Future;
use std::io::BufRead;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use hostbadge::enroll;
use hostbadge::tpm::CredentialBlob;
use hostbadge::tpm::EkKind;
use hostbadge::tpm::Error;
use hostbadge::tpm::LoadedHandles;
use hostbadge::tpm::SoftwareTpm;
use hostbadge::tpm::StateKind;
use hostbadge::tpm::Tpm;
use hostbadge::tpm::TpmConfig;
use hostbadge::tpm::TpmObjects;
use hostbadge::tpm::TpmState;
use hostbadge::verify::Ek;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use ring::digest;
use ring::signature::ECDSA_P256_SHA256_FIXED;
use ring::signature::UnparsedPublicKey;
use tempfile::TempDir;
use tokio::sync::watch;

#[test]
fn the_same_keys_after_a_restart() {
    let host = Host::new();
    let (objects, kek, point) = host.run(|tpm| async move {
        assert!(matches!(tpm.unseal_kek().await, Err(Error::NotProvisioned)));
        assert_eq!(tpm.info().await.unwrap().host_key, None);
        let objects = tpm.provision().await.unwrap();
        assert!(matches!(tpm.provision().await, Err(Error::AlreadyProvisioned)));
        let facts = tpm.info().await.unwrap();
        assert_signs(&tpm, &facts.host_key.unwrap()).await;
        (objects, tpm.unseal_kek().await.unwrap(), facts.host_key.unwrap())
    });

    let stored = through_json(&objects);
    assert_eq!(stored, objects);
    let started = Instant::now();
    let tpm = host.open(Some(stored));
    block_on(async {
        until(&mut tpm.state(), StateKind::Ready).await;
        println!("open to ready, with stored objects: {:?}", started.elapsed());
        assert_eq!(*tpm.unseal_kek().await.unwrap(), *kek);
        assert_eq!(tpm.info().await.unwrap().host_key, Some(point));
        assert_signs(&tpm, &point).await;
        assert!(matches!(tpm.provision().await, Err(Error::AlreadyProvisioned)));
        measure("host_sign", || tpm.host_sign([7; 32])).await;
        measure("unseal_kek", || tpm.unseal_kek()).await;
    });
    assert!(tpm.shutdown());
    assert!(!tpm.is_alive());
    assert!(matches!(block_on(tpm.random(1)), Err(Error::Stopped)));
}

#[test]
fn credentials_are_opened_for_our_ak_alone_and_leave_nothing_behind() {
    let host = Host::new();
    host.run(|tpm| async move {
        let none = CredentialBlob { id_object: vec![0; 68], seed: vec![0; 68] };
        assert!(matches!(
            tpm.activate_credential(EkKind::P256, none.clone()).await,
            Err(Error::NotProvisioned)
        ));
        let ak = tpm.provision().await.unwrap().ak_name().unwrap();
        let endorsement = tpm.ek_info().await.unwrap();
        assert!(endorsement.p256.certificate.is_some() && endorsement.chain.is_empty());
        let keys = [(EkKind::P256, &endorsement.p256), (EkKind::Rsa, endorsement.rsa.as_ref().unwrap())];
        let keys = keys.map(|(kind, key)| (kind, Ek::parse(&key.public).unwrap()));
        let made = |ek: &Ek, name: &[u8], secret: &[u8]| {
            let (id_object, seed) = enroll::make_credential(ek, name, secret).unwrap().decode().unwrap();
            CredentialBlob { id_object, seed }
        };
        // More often than a TPM has room for what is not flushed.
        for size in [0, 1, 31, 32] {
            for (kind, ek) in &keys {
                let secret = vec![size as u8; size];
                let opened = tpm.activate_credential(*kind, made(ek, &ak, &secret)).await.unwrap();
                assert_eq!(*opened, secret);
                let mut other = ak.clone();
                other[33] ^= 1;
                let refused = tpm.activate_credential(*kind, made(ek, &other, &secret)).await;
                assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
                let swapped = if *kind == EkKind::Rsa { EkKind::P256 } else { EkKind::Rsa };
                let refused = tpm.activate_credential(swapped, made(ek, &ak, &secret)).await;
                assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
                assert_eq!(tpm.loaded_handles().await.unwrap(), AT_REST);
            }
        }
        let refused = tpm
            .activate_credential(EkKind::Rsa, CredentialBlob { seed: vec![0xFF; 256], ..none.clone() })
            .await;
        assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
        let refused =
            tpm.activate_credential(EkKind::P256, CredentialBlob { seed: vec![0; 4000], ..none }).await;
        assert!(matches!(refused, Err(Error::RequestFailed(_))), "{refused:?}");
        assert_eq!(tpm.loaded_handles().await.unwrap(), AT_REST);
        enroll::make_credential(&keys[0].1, &ak, &[0; 33]).unwrap_err();
    });
}

/// Some makers put the certificates that lead to their root into the TPM, in pieces of what an index holds.
#[test]
fn a_makers_chain_is_read_across_indices() {
    let host = Host::new();
    let certificates = [[&[0x30, 0x82, 0x02, 0x00][..], &[7; 512]].concat(), vec![0x30, 0x03, 1, 2, 3]];
    let whole = certificates.concat();
    for (index, piece) in ["0x01C00100", "0x01C00101"].iter().zip(whole.chunks(400)) {
        let (file, size) = (host.file("piece"), piece.len().to_string());
        std::fs::write(&file, piece).unwrap();
        let attributes = "ownerread|ownerwrite|authread|authwrite|no_da";
        host.tool("tpm2_nvdefine", &["-C", "o", "-s", &size, "-a", attributes, index]);
        host.tool("tpm2_nvwrite", &["-C", "o", "-i", &file, index]);
    }
    host.run(|tpm| async move {
        assert_eq!(tpm.ek_info().await.unwrap().chain, certificates);
    });
}

fn through_json(objects: &TpmObjects) -> TpmObjects {
    serde_json::from_str(&serde_json::to_string(objects).unwrap()).unwrap()
}

async fn assert_signs(tpm: &Tpm, point: &[u8; 65]) {
    let message = b"what the host says";
    let digest = digest::digest(&digest::SHA256, message).as_ref().try_into().unwrap();
    let signature = tpm.host_sign(digest).await.unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(message, &signature).unwrap();
    key.verify(b"what it did not say", &signature).unwrap_err();
}

async fn measure<F: Future<Output = Result<T, Error>>, T>(what: &str, call: impl Fn() -> F) {
    let mut times = Vec::new();
    for _ in 0..30 {
        let started = Instant::now();
        call().await.map(drop).unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    println!("{what}: median {:?}, longest {:?}", times[15], times[29]);
}

#[test]
fn facts_are_those_of_the_tpm() {
    let host = Host::new();
    let (objects, facts) = host.run(|tpm| async move {
        let objects = tpm.provision().await.unwrap();
        (objects, tpm.info().await.unwrap())
    });
    assert_eq!((facts.manufacturer.as_str(), facts.vendor.as_str()), ("IBM", "SW   TPM"));
    assert!(facts.software);
    assert_eq!(facts.firmware.split('.').count(), 4);
    assert_eq!(facts.host_id.len(), 26);
    assert_eq!(facts.ek_name, hex(&objects.ek_name));

    // The certificate in the TPM is about the EK that we derive ...
    let point = &objects.ek_public[objects.ek_public.len() - 68..];
    let point = [&[4], &point[2..34], &point[36..]].concat();
    let certificate = facts.ek_certificate.expect("an EK certificate");
    assert!(certificate.windows(65).any(|some| some == point), "the certificate is about another key");
    assert!(!certificate.windows(65).any(|some| some == facts.host_key.unwrap()));

    // ... and so do tpm2-tools, which also find the SRK from a template of their own and sign with the host key.
    let [ek, srk, unique, name, key] =
        ["ek.pub", "srk.ctx", "unique", "name", "key.ctx"].map(|name| host.file(name));
    host.tool("tpm2_createek", &["-G", "ecc256", "-c", &host.file("ek.ctx"), "-u", &ek]);
    assert_eq!(std::fs::read(ek).unwrap(), objects.ek_public);
    host.tool("tpm2_flushcontext", &["-t"]);
    // A point of 32 zeros twice, as the tool wants it: the C structure as it lies in memory.
    std::fs::write(&unique, [[32, 0].as_slice(), &[0; 128], &[32, 0], &[0; 128]].concat()).unwrap();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    let template = ["-G", "ecc256:aes128cfb", "-a", attributes, "-u", &unique, "-c", &srk];
    host.tool("tpm2_createprimary", &template);
    host.tool("tpm2_readpublic", &["-c", &srk, "-n", &name]);
    assert_eq!(hex(&std::fs::read(name).unwrap()), facts.srk_name);
    let (public, private) = (host.file("key.pub"), host.file("key.priv"));
    std::fs::write(&public, &objects.host_key.public).unwrap();
    std::fs::write(&private, &objects.host_key.private).unwrap();
    host.tool("tpm2_flushcontext", &["-t"]);
    host.tool("tpm2_load", &["-C", &srk, "-u", &public, "-r", &private, "-c", &key]);
}

#[test]
fn an_rsa_key_signs_is_certified_and_known_again() {
    let (host, other) = (Host::new(), Host::new());
    let (objects, key) = host.run(|tpm| async move {
        assert!(matches!(tpm.create_rsa_key().await, Err(Error::NotProvisioned)));
        let objects = tpm.provision().await.unwrap();
        let started = Instant::now();
        let key = Arc::new(tpm.create_rsa_key().await.unwrap());
        println!("make_rsa_key: {:?}", started.elapsed());
        let message = b"what the host says";
        let digest = digest::digest(&digest::SHA256, message).as_ref().try_into().unwrap();
        let signature = tpm.rsa_sign(key.clone(), digest).await.unwrap();
        let (n, e) = key.modulus_and_exponent();
        let public = ring::signature::RsaPublicKeyComponents { n, e };
        public.verify(&ring::signature::RSA_PKCS1_2048_8192_SHA256, message, &signature).unwrap();
        measure("rsa_sign", || tpm.rsa_sign(key.clone(), digest)).await;
        assert_eq!(tpm.loaded_handles().await.unwrap(), LoadedHandles { objects: 1, sessions: 1 });
        (objects, key)
    });
    let certification = key.certification();
    let ak = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, objects.ak_point().unwrap());
    ak.verify(&certification.attest, &certification.fixed_signature().unwrap()).unwrap();
    assert!(certification.attest.windows(34).any(|some| some == key.name().unwrap()));

    let stored = serde_json::to_string(&*key).unwrap();
    let read: Arc<hostbadge::tpm::RsaKeyBlob> = Arc::new(serde_json::from_str(&stored).unwrap());
    assert_eq!(read, key);
    let mine = host.open(Some(objects));
    block_on(async {
        until(&mut mine.state(), StateKind::Ready).await;
        mine.verify_rsa_key(read.clone()).await.unwrap();
        // A TPM that hangs in the middle leaves nothing behind, nor does a caller that goes away.
        host.signal(Signal::SIGSTOP);
        assert!(matches!(mine.rsa_sign(read.clone(), [7; 32]).await, Err(Error::DeadlineExceeded(_))));
        host.signal(Signal::SIGCONT);
        until(&mut mine.state(), StateKind::Ready).await;
        for wait in 0..8 {
            let given_up = mine.rsa_sign(read.clone(), [7; 32]);
            let _ = tokio::time::timeout(Duration::from_millis(wait), given_up).await;
        }
        mine.rsa_sign(read, [7; 32]).await.unwrap();
        assert_eq!(mine.loaded_handles().await.unwrap(), LoadedHandles { objects: 1, sessions: 1 });
    });
    assert!(mine.shutdown());
    other.run(|tpm| async move {
        tpm.provision().await.unwrap();
        let refused = tpm.verify_rsa_key(key.clone()).await.unwrap_err();
        assert!(refused.to_string().contains("the AK's signature over the RSA key is wrong"), "{refused}");
        assert!(matches!(tpm.rsa_sign(key, [7; 32]).await, Err(Error::InvalidObjects(_))));
        assert_eq!(tpm.loaded_handles().await.unwrap(), LoadedHandles { objects: 1, sessions: 1 });
    });
}

#[test]
fn the_certification_names_the_host_key() {
    let host = Host::new();
    let objects = host.run(|tpm| async move { tpm.provision().await.unwrap() });
    let TpmObjects { certification, .. } = &objects;
    let ak = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, objects.ak_point().unwrap());
    ak.verify(&certification.attest, &certification.fixed_signature().unwrap()).unwrap();
    // TPMS_ATTEST: TPM_GENERATED, TPM_ST_ATTEST_CERTIFY, ..., and at its end the Name and qualified Name.
    assert_eq!(certification.attest[..6], [0xFF, 0x54, 0x43, 0x47, 0x80, 0x17]);
    let name = objects.host_key_name().unwrap();
    assert!(certification.attest.windows(34).any(|some| some == name));
    assert_eq!(name[2..], *digest::digest(&digest::SHA256, &objects.host_key.public[2..]).as_ref());
}

#[test]
fn another_tpm_is_replaced() {
    let (host, other) = (Host::new(), Host::new());
    let objects = host.run(|tpm| async move { tpm.provision().await.unwrap() });
    let tpm = other.open(Some(objects.clone()));
    block_on(async {
        until(&mut tpm.state(), StateKind::Replaced).await;
        assert_refuses_keys(&tpm, StateKind::Replaced).await;
        assert_ne!(tpm.info().await.unwrap().ek_name, hex(&objects.ek_name));
    });
    assert!(tpm.shutdown());
}

#[test]
fn a_cleared_tpm_is_told_from_another() {
    let host = Host::new();
    let objects = host.run(|tpm| async move { tpm.provision().await.unwrap() });
    host.tool("tpm2_clear", &["-c", "p"]);
    let tpm = host.open(Some(objects.clone()));
    block_on(async {
        until(&mut tpm.state(), StateKind::Cleared).await;
        assert_refuses_keys(&tpm, StateKind::Cleared).await;
        let facts = tpm.info().await.unwrap();
        assert_eq!(facts.ek_name, hex(&objects.ek_name));
        assert_ne!(facts.srk_name, hex(&objects.srk_name));
        assert!(facts.ek_certificate.is_some(), "clearing leaves the certificate alone");
    });
    assert!(tpm.shutdown());
    // With no stored objects the TPM is as good as new.
    host.run(|tpm| async move { tpm.provision().await.map(drop).unwrap() });
}

async fn assert_refuses_keys(tpm: &Tpm, kind: StateKind) {
    let refused = |error: Error| assert!(matches!(error, Error::NotReady(found) if found == kind), "{error}");
    refused(tpm.unseal_kek().await.unwrap_err());
    refused(tpm.host_sign([0; 32]).await.unwrap_err());
    refused(tpm.provision().await.unwrap_err());
    assert_eq!(tpm.info().await.unwrap().host_key, None);
}

#[test]
fn a_stalled_tpm_is_busy_and_comes_back() {
    let host = Host::new();
    let tpm = host.open(None);
    block_on(async {
        let objects = tpm.provision().await.unwrap();
        let history = History::of(&tpm);
        host.signal(Signal::SIGSTOP);
        let asked = Instant::now();
        let error = tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(matches!(error, Error::DeadlineExceeded(_)), "{error}");
        assert!(asked.elapsed() < DEADLINE * 2, "{:?}", asked.elapsed());
        assert_eq!(tpm.state().borrow().kind, StateKind::Busy);
        let beats = tpm.heartbeat();
        assert!(
            matches!(tpm.random(8).await, Err(Error::DeadlineExceeded(_))),
            "a second caller is not kept either"
        );
        assert_eq!(tpm.heartbeat(), beats, "a stuck thread has no heartbeat");
        assert!(tpm.is_alive());

        host.signal(Signal::SIGCONT);
        until(&mut tpm.state(), StateKind::Ready).await;
        assert_signs(&tpm, &objects.host_key_point().unwrap()).await;
        assert!(tpm.heartbeat() > beats);
        history.assert_passed(&[StateKind::Busy, StateKind::Ready]).await;
        assert_eq!(tpm.loaded_handles().await.unwrap(), AT_REST);
    });
    assert!(tpm.shutdown());
}

#[test]
fn a_tpm_that_is_stalled_from_the_start_comes_back() {
    let host = Host::new();
    host.signal(Signal::SIGSTOP);
    let opened = Instant::now();
    let tpm = host.open(None);
    assert!(opened.elapsed() < DEADLINE / 2, "open does not wait");
    block_on(async {
        assert_eq!(tpm.state().borrow().kind, StateKind::Starting);
        until(&mut tpm.state(), StateKind::Busy).await;
        assert!(opened.elapsed() >= DEADLINE);
        host.signal(Signal::SIGCONT);
        until(&mut tpm.state(), StateKind::Ready).await;
        tpm.provision().await.unwrap();
    });
    assert!(tpm.shutdown());
}

#[test]
fn shutdown_does_not_wait_for_a_stalled_tpm() {
    let host = Host::new();
    let tpm = host.open(None);
    block_on(until(&mut tpm.state(), StateKind::Ready));
    host.signal(Signal::SIGSTOP);
    block_on(async { tpm.random(1).await.unwrap_err() });
    let asked = Instant::now();
    assert!(!tpm.shutdown());
    assert!(asked.elapsed() < DEADLINE * 2);
    host.signal(Signal::SIGCONT);
    assert!(tpm.shutdown(), "it ends as soon as it can");
}

#[test]
fn a_reset_is_noticed_and_mended() {
    let host = Host::new();
    let tpm = host.open(None);
    block_on(async {
        let objects = tpm.provision().await.unwrap();
        let kek = tpm.unseal_kek().await.unwrap();
        for _ in 0..2 {
            let history = History::of(&tpm);
            host.power_cycle();
            assert_eq!(*tpm.unseal_kek().await.unwrap(), *kek, "the caller does not notice");
            assert_signs(&tpm, &objects.host_key_point().unwrap()).await;
            history.assert_passed(&[StateKind::Reset, StateKind::Ready]).await;
            assert_eq!(tpm.loaded_handles().await.unwrap(), AT_REST);
        }
        // With nobody calling, the idle probe notices.
        let history = History::of(&tpm);
        host.power_cycle();
        history.wait_for(StateKind::Reset).await;
        until(&mut tpm.state(), StateKind::Ready).await;
    });
    assert!(tpm.shutdown());
}

#[test]
fn a_dead_tpm_is_absent_until_it_lives_again() {
    let mut host = Host::new();
    let tpm = host.open(None);
    block_on(async {
        let objects = tpm.provision().await.unwrap();
        host.signal(Signal::SIGKILL);
        let error = tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(matches!(error, Error::NotReady(StateKind::Absent) | Error::CommandFailed { .. }), "{error}");
        until(&mut tpm.state(), StateKind::Absent).await;
        let error = tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(matches!(error, Error::NotReady(StateKind::Absent)), "{error}");
        assert!(error.to_string().contains("the TPM is absent: "), "{error}");
        let beats = tpm.heartbeat();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let turns = tpm.heartbeat() - beats;
        assert!((1..=20).contains(&turns), "{turns} turns in 1.2 s: neither dead nor a busy loop");

        assert!(host.software.ensure_running().unwrap());
        assert!(!host.software.ensure_running().unwrap());
        until(&mut tpm.state(), StateKind::Ready).await;
        assert_signs(&tpm, &objects.host_key_point().unwrap()).await;
    });
    assert!(tpm.shutdown());
}

#[test]
fn shutdown_is_prompt_when_there_is_no_tpm() {
    let config = TpmConfig {
        tcti: "swtpm:host=127.0.0.1,port=19".parse().unwrap(),
        allow_emulator: true,
        initial_retry_delay: Duration::from_secs(60),
        ..TpmConfig::default()
    };
    let tpm = Tpm::open(config, None).unwrap();
    block_on(until(&mut tpm.state(), StateKind::Absent));
    let asked = Instant::now();
    assert!(tpm.shutdown());
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());

    let missing = TpmConfig { tcti: "device:/nonexistent/tpmrm0".parse().unwrap(), ..TpmConfig::default() };
    let tpm = Tpm::open(missing, None).unwrap();
    block_on(until(&mut tpm.state(), StateKind::Absent));
    let detail = tpm.state().borrow().to_string();
    assert!(detail.contains("/nonexistent/tpmrm0: No such file"), "{detail}");
    drop(tpm);
}

#[test]
fn a_full_queue_refuses_at_once() {
    let host = Host::new();
    let tpm = Tpm::open(TpmConfig { queue_capacity: 2, ..host.config() }, None).unwrap();
    block_on(async {
        until(&mut tpm.state(), StateKind::Ready).await;
        host.signal(Signal::SIGSTOP);
        let calls = (0..8).map(|_| {
            let tpm = tpm.clone();
            tokio::spawn(async move {
                let asked = Instant::now();
                (tpm.random(1).await, asked.elapsed())
            })
        });
        let mut full = 0;
        for call in calls.collect::<Vec<_>>() {
            let (outcome, elapsed) = call.await.unwrap();
            match outcome {
                Err(Error::QueueFull) if elapsed < DEADLINE / 2 => full += 1,
                Err(Error::DeadlineExceeded(_)) => {}
                other => panic!("{other:?} after {elapsed:?}"),
            }
        }
        assert!((5..=6).contains(&full), "{full} refused; 2 wait and at most 1 is in the TPM");
        host.signal(Signal::SIGCONT);
        until(&mut tpm.state(), StateKind::Ready).await;
        // The calls that were given up leave the queue after the one that was stuck.
        while matches!(tpm.random(1).await, Err(Error::QueueFull)) {}
        tpm.random(1).await.unwrap();
    });
    assert!(tpm.shutdown());
}

#[test]
fn nothing_is_left_in_the_tpm() {
    nothing_is_left_after(1_000);
}

#[test]
#[ignore = "takes minutes; make leaks runs it"]
fn nothing_is_left_in_the_tpm_after_ten_thousand_operations() {
    nothing_is_left_after(10_000);
}

fn nothing_is_left_after(operations: usize) {
    let host = Host::new();
    host.run(|tpm| async move {
        let objects = tpm.provision().await.unwrap();
        for i in 0..operations {
            match i % 5 {
                0 => drop(tpm.host_sign([i as u8; 32]).await.unwrap()),
                1 => drop(tpm.unseal_kek().await.unwrap()),
                2 => drop(tpm.attest(vec![0, 7], vec![i as u8; 32]).await.unwrap()),
                3 => assert_eq!(tpm.random(i % 200).await.unwrap().len(), i % 200),
                _ => drop(tpm.info().await.unwrap()),
            }
            if i % 500 == 0 {
                assert_eq!(tpm.loaded_handles().await.unwrap(), AT_REST, "after {i}");
            }
        }
        assert_eq!(tpm.loaded_handles().await.unwrap(), AT_REST);
        assert!(matches!(tpm.random(1025).await, Err(Error::RequestFailed(_))));
        assert_eq!(objects.host_key_point().unwrap(), tpm.info().await.unwrap().host_key.unwrap());
    });
    for kind in ["handles-transient", "handles-loaded-session", "handles-saved-session"] {
        assert_eq!(host.tool("tpm2_getcap", &[kind]).trim(), "", "{kind}");
    }
}

#[test]
fn damaged_objects_are_refused_in_words() {
    let host = Host::new();
    let objects = host.run(|tpm| async move { tpm.provision().await.unwrap() });

    // What shows without a TPM is refused before one is asked.
    let swapped =
        TpmObjects { ak: objects.host_key.clone(), host_key: objects.ak.clone(), ..objects.clone() };
    let mut forged = objects.clone();
    *forged.certification.attest.last_mut().unwrap() ^= 1;
    let mut other_point = objects.clone();
    *other_point.host_key.public.last_mut().unwrap() ^= 1;
    let mut longer = objects.clone();
    longer.kek.public.push(0);
    let mut huge = objects.clone();
    huge.kek.private = vec![0xFF; 70_000];
    let mut empty = objects.clone();
    empty.kek.private.clear();
    let mut other_ek = objects.clone();
    other_ek.ek_name[5] ^= 1;
    for broken in [swapped, forged, other_point, longer, huge, empty, other_ek] {
        let error = Tpm::open(host.config(), Some(broken)).map(drop).unwrap_err().to_string();
        assert!(error.starts_with("the stored TPM objects are not usable: "), "{error}");
    }

    // What only the TPM can tell: a flipped bit in a private area, or one that belongs to another object.
    let mut flipped = objects.clone();
    let middle = flipped.kek.private.len() / 2;
    flipped.kek.private[middle] ^= 1;
    flipped.host_key.private = objects.ak.private.clone();
    let tpm = host.open(Some(flipped));
    block_on(async {
        until(&mut tpm.state(), StateKind::Ready).await;
        for error in [tpm.unseal_kek().await.map(drop), tpm.host_sign([1; 32]).await.map(drop)] {
            assert!(matches!(error, Err(Error::InvalidObjects(_))), "{error:?}");
        }
        assert_eq!(tpm.loaded_handles().await.unwrap(), AT_REST);
    });
    assert!(tpm.shutdown());
}

#[test]
fn the_stored_form_is_checked() {
    let host = Host::new();
    let objects = host.run(|tpm| async move { tpm.provision().await.unwrap() });
    let good = serde_json::to_value(&objects).unwrap();
    let broken = |path: &str, value: serde_json::Value| {
        let mut json = good.clone();
        *json.pointer_mut(path).unwrap() = value;
        serde_json::from_value::<TpmObjects>(json).unwrap_err().to_string()
    };
    assert!(broken("/version", 2.into()).contains("they are of format 2"));
    assert!(broken("/srk_name", "!!".into()).contains("srk_name is not base64"));
    assert!(broken("/kek", serde_json::Value::Null).contains("kek is missing"));
    assert!(broken("/kek/private", "A".repeat(9000).into()).contains("kek is too long"));
    assert!(broken("/ak/public", "AAA=".into()).contains("the AK:"));
    let newer = serde_json::json!({"version": 7, "something": []});
    let error = serde_json::from_value::<TpmObjects>(newer).unwrap_err().to_string();
    assert!(error.contains("they are of format 7"), "{error}");
    let shown = format!("{objects:?}");
    assert!(!shown.contains(&format!("{:?}", objects.kek.private)), "no contents in Debug: {shown}");
}

#[test]
fn an_owner_password_has_a_name() {
    let host = Host::new();
    host.tool("tpm2_changeauth", &["-c", "owner", "secret"]);
    let tpm = host.open(None);
    block_on(async {
        until(&mut tpm.state(), StateKind::OwnerAuth).await;
        let error = tpm.random(1).await.unwrap_err();
        assert!(matches!(error, Error::NotReady(StateKind::OwnerAuth)), "{error}");
        assert!(error.to_string().contains("tpm2_changeauth"), "{error}");
    });
    assert!(tpm.shutdown());
    host.tool("tpm2_changeauth", &["-c", "owner", "-p", "secret"]);
    host.run(|_| async {});
}

#[test]
fn a_lockout_does_not_stop_the_room() {
    let host = Host::new();
    let objects = host.run(|tpm| async move { tpm.provision().await.unwrap() });
    let guarded = host.file("guarded.ctx");
    host.tool("tpm2_createprimary", &["-C", "o", "-G", "ecc256", "-p", "right", "-c", &guarded]);
    host.tool("tpm2_flushcontext", &["-t"]);
    let shows_lockout =
        || host.tool("tpm2_getcap", &["properties-variable"]).contains("inLockout:                 1");
    assert!(!shows_lockout());
    for _ in 0..8 {
        let wrong =
            ["-C", guarded.as_str(), "-G", "ecc256", "-P", "wrong", "-u", "/dev/null", "-r", "/dev/null"];
        assert!(!host.command("tpm2_create", &wrong).output().unwrap().status.success());
        host.tool("tpm2_flushcontext", &["-t"]);
    }
    assert!(shows_lockout());
    let tpm = host.open(Some(objects.clone()));
    block_on(async {
        until(&mut tpm.state(), StateKind::Lockout).await;
        tpm.unseal_kek().await.unwrap();
        assert_signs(&tpm, &objects.host_key_point().unwrap()).await;
        assert_eq!(tpm.state().borrow().kind, StateKind::Lockout);
    });
    assert!(tpm.shutdown());
}

#[test]
fn a_software_tpm_keeps_to_its_directory_and_its_ports() {
    let mut host = Host::new();
    let before = host.run(|tpm| async move { tpm.info().await.unwrap() });
    let error = SoftwareTpm::start(&host.state_dir()).map(drop).unwrap_err();
    assert!(error.to_string().contains("another daemon uses this software TPM"), "{error}");

    // Somebody takes a port while it is dead: it says so, and comes back when the port is free.
    for port in [host.software.control_port(), host.software.control_port() - 1] {
        host.signal(Signal::SIGKILL);
        let taken = loop {
            if let Ok(taken) = std::net::TcpListener::bind(("127.0.0.1", port)) {
                break taken;
            }
        };
        // The port is free a moment before the process is gone.
        let error = loop {
            match host.software.ensure_running() {
                Ok(started) => assert!(!started),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("swtpm exited at once") && error.contains("swtpm.log"), "{error}");
        drop(taken);
        assert!(host.software.ensure_running().unwrap());
    }

    // Stopped and started again, it is the same TPM, whatever a half-done setup left lying about.
    let Host { software, dir } = host;
    software.stop().unwrap();
    let state_dir = dir.path().join(STATE_DIR);
    std::fs::create_dir_all(state_dir.join("tpm.unfinished/ca")).unwrap();
    let host = Host { software: SoftwareTpm::start(&state_dir).unwrap(), dir };
    assert_eq!(host.run(|tpm| async move { tpm.info().await.unwrap() }), before);

    // Without its finished state it is made anew, over what is lying about.
    let Host { software, dir } = host;
    software.stop().unwrap();
    std::fs::remove_dir_all(state_dir.join("tpm")).unwrap();
    let host = Host { software: SoftwareTpm::start(&state_dir).unwrap(), dir };
    assert_ne!(host.run(|tpm| async move { tpm.info().await.unwrap() }).host_id, before.host_id);
    assert!(!state_dir.join("tpm.unfinished").exists());
}

#[test]
fn a_software_tpm_dies_with_a_killed_daemon() {
    let dir = TempDir::new().unwrap();
    let mut daemon = inheriting_nothing(std::env::current_exe().unwrap())
        .args(["--exact", "plays_the_daemon", "--ignored", "--nocapture"])
        .env("SOFTWARE_TPM_DIR", dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(daemon.stdout.take().unwrap()).lines();
    let pid = lines
        .find_map(|line| line.unwrap().split_once("swtpm runs as ").map(|(_, pid)| pid.to_owned()))
        .unwrap();
    let process = std::path::Path::new("/proc").join(pid.trim());
    assert!(std::fs::read_to_string(process.join("comm")).unwrap().starts_with("swtpm"));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let began = Instant::now();
    while std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(began.elapsed() < Duration::from_secs(5), "swtpm outlived the daemon");
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "a part of a_software_tpm_dies_with_a_killed_daemon"]
fn plays_the_daemon() {
    let Some(dir) = std::env::var_os("SOFTWARE_TPM_DIR") else { return };
    // Started on a thread that ends at once, which must not take swtpm with it.
    let software = std::thread::spawn(move || SoftwareTpm::start(dir.as_ref()).unwrap()).join().unwrap();
    let mut idle = std::net::TcpStream::connect(("127.0.0.1", software.control_port())).unwrap();
    println!("swtpm runs as {}", software.pid());
    let _ = std::io::Read::read(&mut idle, &mut [0]);
}

/// What the room holds while nobody calls: the SRK and one session.
const AT_REST: LoadedHandles = LoadedHandles { objects: 1, sessions: 1 };

const DEADLINE: Duration = Duration::from_millis(800);

/// A name that swtpm's option syntax would trip over.
const STATE_DIR: &str = "tpm, one";

/// A machine with a TPM.
struct Host {
    software: SoftwareTpm,
    dir: TempDir,
}

impl Host {
    fn new() -> Host {
        let dir = TempDir::new().unwrap();
        let software = SoftwareTpm::start(&dir.path().join(STATE_DIR)).unwrap();
        Host { software, dir }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join(STATE_DIR)
    }

    fn config(&self) -> TpmConfig {
        TpmConfig {
            tcti: self.software.tcti(),
            allow_emulator: true,
            deadline: DEADLINE,
            probe_every: Duration::from_millis(300),
            initial_retry_delay: Duration::from_millis(200),
            ..TpmConfig::default()
        }
    }

    fn open(&self, stored: Option<TpmObjects>) -> Tpm {
        Tpm::open(self.config(), stored).unwrap()
    }

    /// Opens the TPM with generous deadlines, does something with it, and closes it: swtpm serves one client only.
    fn run<F: Future>(&self, f: impl FnOnce(Tpm) -> F) -> F::Output {
        let config = TpmConfig { deadline: Duration::from_secs(20), ..self.config() };
        let tpm = Tpm::open(config, None).unwrap();
        let output = block_on(async {
            until(&mut tpm.state(), StateKind::Ready).await;
            f(tpm.clone()).await
        });
        assert!(tpm.shutdown());
        output
    }

    fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.software.pid() as i32), signal).unwrap();
    }

    fn power_cycle(&self) {
        let control = format!("127.0.0.1:{}", self.software.control_port());
        succeed(inheriting_nothing("swtpm_ioctl").args(["--tcp", &control, "-i"]));
    }

    /// Runs one of tpm2-tools on this TPM, which must have no other client.
    fn tool(&self, program: &str, arguments: &[&str]) -> String {
        succeed(&mut self.command(program, arguments))
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = inheriting_nothing(program);
        command.args(arguments).env("TPM2TOOLS_TCTI", self.software.tcti().to_string());
        command
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

/// A command that gets none of this process's files: libtss2's sockets are not close-on-exec, and a child that held
/// another test's connection to its TPM open would stall that.
fn inheriting_nothing(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let in_child = || {
        // SAFETY: a system call on numbers only; nothing is closed before exec.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    // SAFETY: between fork and exec; one plain system call, no allocation.
    unsafe { command.pre_exec(in_child) };
    command
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every state that was shown since it began to look.
struct History(Arc<Mutex<Vec<StateKind>>>);

impl History {
    fn of(tpm: &Tpm) -> History {
        let (seen, mut state) = (Arc::new(Mutex::new(Vec::new())), tpm.state());
        state.mark_unchanged();
        let list = seen.clone();
        tokio::spawn(async move {
            while state.changed().await.is_ok() {
                let kind = state.borrow_and_update().kind;
                list.lock().unwrap().push(kind);
            }
        });
        History(seen)
    }

    /// The states were these and no others. Whoever listens hears of the last one a moment after us.
    async fn assert_passed(&self, states: &[StateKind]) {
        if let Some(last) = states.last() {
            self.wait_for(*last).await;
        }
        assert_eq!(*self.0.lock().unwrap(), states);
    }

    async fn wait_for(&self, kind: StateKind) {
        let began = Instant::now();
        while !self.0.lock().unwrap().contains(&kind) {
            assert!(began.elapsed() < Duration::from_secs(10), "never {kind}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn until(state: &mut watch::Receiver<TpmState>, kind: StateKind) {
    let arrived = async { state.wait_for(|state| state.kind == kind).await.map(drop).unwrap() };
    if tokio::time::timeout(Duration::from_secs(15), arrived).await.is_err() {
        panic!("not {kind} but {}", *state.borrow());
    }
}

fn block_on<F: Future>(f: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(f)
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
