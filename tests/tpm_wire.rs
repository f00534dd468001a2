//! The TPM room behind a wire that listens and misbehaves: a proxy between it and a software TPM.

use std::future::Future;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use hostbadge::tpm::Error;
use hostbadge::tpm::SoftwareTpm;
use hostbadge::tpm::StateKind;
use hostbadge::tpm::Tcti;
use hostbadge::tpm::Tpm;
use hostbadge::tpm::TpmConfig;
use tempfile::TempDir;

const CC_CREATE_PRIMARY: u32 = 0x131;
const CC_LOAD: u32 = 0x157;
const CC_UNSEAL: u32 = 0x15E;
const CC_SIGN: u32 = 0x15D;
const CC_GET_CAPABILITY: u32 = 0x17A;
const CC_FLUSH_CONTEXT: u32 = 0x165;
const CC_START_AUTH_SESSION: u32 = 0x176;
const CC_NV_READ_PUBLIC: u32 = 0x169;

#[test]
fn secrets_do_not_show_on_the_wire() {
    let host = Host::new();
    let (kek, random, point) = block_on(async {
        let objects = host.tpm.provision().await.unwrap();
        let random = host.tpm.random(32).await.unwrap();
        (host.tpm.unseal_kek().await.unwrap(), random, objects.host_key_point().unwrap())
    });
    let wire = host.wire.lock().unwrap();
    let shows =
        |secret: &[u8]| wire.seen.iter().any(|frame| frame.windows(secret.len()).any(|some| some == secret));
    assert!(shows(&point[1..33]), "the proxy sees what is public");
    assert!(!shows(&kek[..16]) && !shows(&kek[16..]), "the key-encryption key was on the wire");
    assert!(!shows(&random[..16]) && !shows(&random[16..]), "the random numbers were on the wire");
}

#[test]
fn every_command_has_a_session_but_those_that_can_have_none() {
    let host = Host::new();
    block_on(async {
        host.tpm.provision().await.unwrap();
        host.tpm.unseal_kek().await.unwrap();
        host.tpm.host_sign([1; 32]).await.unwrap();
        host.tpm.facts().await.unwrap();
    });
    let wire = host.wire.lock().unwrap();
    let bare: Vec<u32> =
        wire.commands().filter(|frame| frame[..2] == [0x80, 0x01]).map(command_code).collect();
    let allowed = [CC_GET_CAPABILITY, CC_FLUSH_CONTEXT, CC_START_AUTH_SESSION, CC_NV_READ_PUBLIC];
    assert!(bare.iter().all(|code| allowed.contains(code)), "{bare:x?}");
    // A password authorization (TPM_RS_PW) in the first place is only the SRK's.
    let passwords = wire.commands().filter(|frame| {
        let area = frame.windows(4).skip(10).take(16).any(|some| some == [0x40, 0x00, 0x00, 0x09]);
        area && frame[..2] == [0x80, 0x02]
    });
    assert_eq!(passwords.map(command_code).collect::<Vec<_>>(), [CC_CREATE_PRIMARY]);
}

#[test]
fn a_refusal_for_lockout_has_a_name_and_passes() {
    let host = Host::new();
    block_on(async {
        host.tpm.provision().await.unwrap();
        host.inject(CC_SIGN, Fault::Answer(0x921), 2);
        let error = host.tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(error.to_string().contains("0x921"), "{error}");
        assert_eq!(host.tpm.state().borrow().kind, StateKind::Lockout);
        assert!(StateKind::Lockout.remedy().contains("tpm2_dictionarylockout"));
        host.until(StateKind::Ready).await;
        host.tpm.host_sign([1; 32]).await.unwrap();
    });
}

#[test]
fn broken_answers_are_mended_within_the_call() {
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
            host.inject(command, fault, 1);
            match host.tpm.unseal_kek().await {
                Ok(found) => assert_eq!(*found, *kek, "{command:x} {fault:?}"),
                Err(error) => panic!("{command:x} {fault:?}: {error}"),
            }
            assert!(host.wire.lock().unwrap().faults.is_empty(), "{command:x} {fault:?} was not met");
        }
        host.until(StateKind::Ready).await;
        let held = host.tpm.held().await.unwrap();
        assert_eq!((held.objects, held.sessions), (1, 1), "nothing leaked");
    });
}

#[test]
fn a_lasting_fault_is_reported_and_then_mended() {
    let host = Host::new();
    block_on(async {
        host.tpm.provision().await.unwrap();
        host.inject(CC_UNSEAL, Fault::Cut, 2);
        let error = host.tpm.unseal_kek().await.unwrap_err();
        assert!(matches!(error, Error::Tpm { command: "TPM2_Unseal", .. }), "{error}");
        host.tpm.unseal_kek().await.unwrap();
        // In failure mode (TPM_RC_FAILURE) a TPM is as good as absent.
        host.inject(CC_CREATE_PRIMARY, Fault::Answer(0x101), 1);
        host.inject(CC_SIGN, Fault::Answer(0x101), 1);
        let error = host.tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(matches!(error, Error::State(StateKind::Absent)), "{error}");
        host.until(StateKind::Ready).await;
        // A TPM that others fill is busy, not gone.
        host.inject(CC_CREATE_PRIMARY, Fault::Answer(0x902), 1);
        host.inject(CC_SIGN, Fault::Cut, 1);
        let error = host.tpm.host_sign([1; 32]).await.unwrap_err();
        assert!(matches!(error, Error::State(StateKind::Busy)), "{error}");
        host.until(StateKind::Ready).await;
        host.tpm.host_sign([1; 32]).await.unwrap();
    });
}

/// A host whose TPM is reached through the proxy.
struct Host {
    tpm: Tpm,
    wire: Arc<Mutex<Wire>>,
    _software: SoftwareTpm,
    _dir: TempDir,
}

impl Host {
    fn new() -> Host {
        let dir = TempDir::new().unwrap();
        let software = SoftwareTpm::start(dir.path()).unwrap();
        let Tcti::Swtpm { port, .. } = software.tcti() else { unreachable!() };
        let (data, control) = neighbours();
        let tcti = format!("swtpm:host=127.0.0.1,port={}", data.local_addr().unwrap().port());
        let wire = Arc::new(Mutex::new(Wire::default()));
        let watched = wire.clone();
        thread::spawn(move || {
            // One client after another, as swtpm itself does it.
            for client in data.incoming() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { break };
                let _ = relay(client.unwrap(), server, &watched);
            }
        });
        thread::spawn(move || {
            for client in control.incoming() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port + 1)) else { break };
                copy_both_ways(client.unwrap(), server);
            }
        });
        let config = TpmConfig {
            tcti: tcti.parse().unwrap(),
            allow_emulator: true,
            deadline: Duration::from_secs(10),
            probe_every: Duration::from_millis(300),
            retry_every: Duration::from_millis(100),
            ..TpmConfig::default()
        };
        let tpm = Tpm::open(config, None).unwrap();
        Host { tpm, wire, _software: software, _dir: dir }
    }

    fn inject(&self, command: u32, fault: Fault, times: usize) {
        self.wire.lock().unwrap().faults.extend(vec![(command, fault); times]);
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

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The TPM is not asked; the answer is this response code.
    Answer(u32),
    /// Half of the answer, and then the connection is closed.
    Cut,
    /// An answer of the right size whose contents mean nothing.
    Garbage,
    /// One bit of the answer's last byte is wrong, so that its HMAC or contents are.
    Flip,
}

#[derive(Default)]
struct Wire {
    /// Commands and answers, in turn.
    seen: Vec<Vec<u8>>,
    faults: Vec<(u32, Fault)>,
}

impl Wire {
    fn commands(&self) -> impl Iterator<Item = &[u8]> {
        self.seen.iter().step_by(2).map(Vec::as_slice)
    }

    fn take_fault(&mut self, command: u32) -> Option<Fault> {
        let i = self.faults.iter().position(|(code, _)| *code == command)?;
        Some(self.faults.remove(i).1)
    }
}

fn relay(mut client: TcpStream, mut server: TcpStream, wire: &Mutex<Wire>) -> io::Result<()> {
    loop {
        let command = read_frame(&mut client)?;
        let fault = wire.lock().unwrap().take_fault(command_code(&command));
        if let Some(Fault::Answer(code)) = fault {
            client.write_all(&[[0x80, 1, 0, 0, 0, 10].as_slice(), &code.to_be_bytes()].concat())?;
            continue;
        }
        server.write_all(&command)?;
        let mut answer = read_frame(&mut server)?;
        wire.lock().unwrap().seen.extend([command, answer.clone()]);
        match fault {
            Some(Fault::Cut) => {
                client.write_all(&answer[..answer.len() / 2])?;
                return client.shutdown(Shutdown::Both);
            }
            Some(Fault::Garbage) => answer[10..].fill(0xFF),
            Some(Fault::Flip) => *answer.last_mut().unwrap() ^= 1,
            _ => {}
        }
        client.write_all(&answer)?;
    }
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 10];
    stream.read_exact(&mut frame)?;
    let size = u32::from_be_bytes(frame[2..6].try_into().unwrap()) as usize;
    frame.resize(size, 0);
    stream.read_exact(&mut frame[10..])?;
    Ok(frame)
}

fn command_code(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[6..10].try_into().unwrap())
}

fn copy_both_ways(client: TcpStream, server: TcpStream) {
    let pairs = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
    for (mut from, mut to) in pairs {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Two listeners side by side, away from the ports of the software TPMs.
fn neighbours() -> (TcpListener, TcpListener) {
    let first = 12_000 + (std::process::id() as u16 % 1000) * 2;
    (first..20_000)
        .step_by(2)
        .find_map(|port| {
            TcpListener::bind(("127.0.0.1", port)).ok().zip(TcpListener::bind(("127.0.0.1", port + 1)).ok())
        })
        .expect("two free ports")
}

fn block_on<F: Future>(f: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(f)
}
