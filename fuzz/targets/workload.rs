//! The workload socket as a whole: a connection that says whatever comes, to a server as the daemon has it, on a host whose
//! TPM has not answered yet. However a caller behaves, its connection ends once it has nothing more to say.
//!
//! The first byte says whether the preface and the settings go before the rest, and how it is cut on its way.
#![no_main]

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hostbadge::agents::Agents;
use hostbadge::api::{Api, Crowd, Lanes, Server, Workload};
use hostbadge::audit::{Audit, Journal};
use hostbadge::clock::Clock;
use hostbadge::config::LogTarget;
use hostbadge::federation::Federation;
use hostbadge::issue::{ByTpm, Enrollment, Issuer, Places, Turns};
use hostbadge::pki::Authority;
use hostbadge::policy::{Limiter, Rate};
use hostbadge::posture::{BootLog, ImaList, Mode, Watched};
use hostbadge::service::Road;
use hostbadge::tpm::State;
use libfuzzer_sys::fuzz_target;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The preface and empty SETTINGS.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PATIENCE: Duration = Duration::from_secs(5);

/// The one server, which is left to the end of the program.
fn socket() -> &'static Path {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("hostbadge-fuzz-{}", std::process::id()));
        let agents = dir.join("agents.d");
        std::fs::create_dir_all(&agents).unwrap();
        let agent = "name = \"fuzz\"\n[match]\nuser = \"root\"\n[[grant]]\naudience = \"a\"\n";
        std::fs::write(agents.join("fuzz.toml"), agent).unwrap();
        let path = dir.join("workload.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || serve(&dir, listener));
        path
    })
}

fn serve(dir: &Path, listener: UnixListener) {
    let clock = Clock::System;
    let journal = Journal::start(LogTarget::Stderr, clock.clone()).unwrap();
    let audit = Audit::open(dir, journal, clock.clone()).unwrap();
    let unlimited = || Rate { per_second: 1_000_000, burst: 1_000_000 };
    let tpm = watch::channel(None).1;
    let road = Road {
        agents: Agents::open(&dir.join("agents.d"), 40, clock.clone()),
        federation: Federation::open(&dir.join("federation")),
        limiter: Arc::new(Limiter::new(unlimited(), unlimited(), unlimited())),
        issuer: Issuer::default(),
        audit: audit.for_lanes(),
        clock,
        tpm: watch::channel(State::starting()).1,
        trouble: watch::channel(None).1,
        handle: tpm.clone(),
        by_tpm: ByTpm { turns: Turns::default(), tpm, rsa_waits: watch::channel(None).1 },
        places: Places::default(),
        boot_log: BootLog::in_dir(dir),
        enrollment: Enrollment::open(dir),
        ima: ImaList::in_dir(dir),
        posture: Watched::new(Mode::Off, Duration::from_secs(60)),
        authority: Authority::new(Duration::from_secs(3600)),
    };
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let lanes = Arc::new(Lanes::start(1, &stop).unwrap());
        let api = Api::Workload(Workload::new(road).unwrap());
        Server::new(listener, api, Crowd::new(64, 64), Some(lanes), stop.clone()).unwrap().run().await;
    });
}

/// Says all of it, or as much as is heard, and waits for the end of the connection.
fn say(pieces: &[&[u8]]) {
    let mut stream = UnixStream::connect(socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    for piece in pieces {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = [0; 4096];
    loop {
        match stream.read(&mut heard) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
            // libFuzzer's clock.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => panic!("the connection does not end: {e}"),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let hello = if how & 1 == 0 { HELLO } else { &[] };
    let cut = rest.len() * usize::from(how >> 1) / 128;
    say(&[hello, &rest[..cut], &rest[cut..]]);
});
