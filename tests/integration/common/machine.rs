//! An installed daemon and its TPM as two things, with a wire between them: what happens to the one is done to it and
//! not by the other.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hostbadge::tpm::SoftwareTpm;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::journald::Journald;
use super::proxy::{Proxy, port};
use super::{API, Host, PATIENCE, until_true};

/// The daemon's deadline for the TPM.
const DEADLINE: Duration = Duration::from_secs(1);
/// A state is to be named this long after the deadline.
const NAMED: Duration = Duration::from_secs(2);
/// What a machine with other work to do may take longer.
const SLACK: Duration = Duration::from_secs(6);

pub struct Machine {
    pub host: Host,
    pub proxy: Proxy,
    pub tpm: SoftwareTpm,
    journald: Option<Journald>,
    /// How often the daemons told systemd that they are ready, and how often somebody waited for it.
    ready: (Arc<AtomicUsize>, usize),
}

impl Machine {
    /// The usual host, on which every process of uid 0 is an agent; nothing runs yet but its TPM.
    pub fn new() -> Machine {
        Machine::of(Host::new())
    }

    /// A host's files with its own TPM.
    pub fn of(mut host: Host) -> Machine {
        let socket = host.path("notify");
        let notify = UnixDatagram::bind(&socket).unwrap();
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        // Somebody has to listen, as systemd does: the daemon's words wait in a short queue.
        std::thread::spawn(move || {
            let mut said = [0; 4096];
            while let Ok(length) = notify.recv(&mut said) {
                count.fetch_add(
                    usize::from(String::from_utf8_lossy(&said[..length]).contains("READY=1")),
                    Ordering::Relaxed,
                );
            }
        });
        host.start.env.push(("NOTIFY_SOCKET".into(), socket.to_str().unwrap().into()));
        host.agent("root", "user = 0");
        let tpm = SoftwareTpm::start(&host.path("tpm")).unwrap();
        let proxy = Proxy::to(port(&tpm));
        let mut machine = Machine { host, proxy, tpm, journald: None, ready: (told, 0) };
        machine.configure("stderr", DEADLINE);
        machine
    }

    /// Its daemon speaks to a journald of its own.
    pub fn with_journal() -> Machine {
        let mut machine = Machine::new();
        let journald = Journald::start();
        machine.configure("auto", DEADLINE);
        journald.hear(&mut machine.host);
        machine.journald = Some(journald);
        machine
    }

    /// Another deadline, from the next start on.
    pub fn deadline(&mut self, deadline: Duration) {
        let log = if self.journald.is_some() { "auto" } else { "stderr" };
        self.configure(log, deadline);
    }

    fn configure(&mut self, log: &str, deadline: Duration) {
        let (tcti, deadline) = (self.proxy.tcti(), deadline.as_secs());
        self.host.install(&format!(
            "[log]\nto = \"{log}\"\n[limits]\nrate = 1000000\nburst = 1000000\n\
             [tpm]\ntcti = \"{tcti}\"\nallow_emulator = true\ndeadline = \"{deadline}s\"\n"
        ));
    }

    // === the daemon ===

    /// Starts the daemon, whether or not it can issue.
    pub fn launch(&mut self) {
        self.ready.1 += 1;
        self.host.launch();
    }

    /// Waits until the daemon that was launched last has told systemd that it is ready.
    #[track_caller]
    pub fn until_ready(&self) {
        until_true("it is ready", || self.ready.0.load(Ordering::Relaxed) == self.ready.1);
    }

    /// Starts the daemon and waits until all is well.
    pub fn start(&mut self) {
        self.launch();
        self.until_well();
    }

    #[track_caller]
    pub fn until_well(&self) {
        let began = Instant::now();
        loop {
            let status = self.host.status();
            if status["status"] == "ok" {
                let health = json!({ "status": "ok", "tpm": "ready", "posture": "off" });
                if self.host.health() == health {
                    break;
                }
            }
            assert!(began.elapsed() < PATIENCE, "never well: {status}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(!self.host.token().is_empty());
    }

    fn state(&self) -> String {
        self.host.status()["tpm"]["state"].as_str().unwrap().to_owned()
    }

    /// Waits until the state has this name everywhere, no longer than is promised. What an administrator sees.
    #[track_caller]
    pub fn until_named(&self, state: &str) -> Value {
        let began = Instant::now();
        while self.state() != state {
            let so_far = began.elapsed();
            assert!(so_far < DEADLINE + NAMED + SLACK, "not {state} but {}", self.host.status()["tpm"]);
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let status = self.host.hostbadge(&["status", "--json"]);
        assert_eq!(status.status.code(), Some(4), "degraded");
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!((&status["tpm"]["state"], &status["status"]), (&json!(state), &json!("degraded")));
        assert!(!status["tpm"]["remedy"].as_str().unwrap().is_empty());
        let health = self.host.health();
        assert_eq!((&health["tpm"], &health["status"]), (&json!(state), &json!("degraded")));
        self.until_journaled(&format!("the TPM is {state}"));
        status
    }

    #[track_caller]
    pub fn until_journaled(&self, what: &str) {
        let Some(journald) = &self.journald else { return };
        let says = |entry: &Value| entry["MESSAGE"].as_str().is_some_and(|said| said.contains(what));
        until_true(&format!("the journal says {what:?}"), || {
            journald.entries(&["--identifier=hostbadged"]).iter().any(says)
        });
    }

    /// All that the journal has of the daemon, for a test that failed.
    fn journal(&self) -> String {
        let entries = self.journald.as_ref().map(|journald| journald.entries(&["--identifier=hostbadged"]));
        let said = |entry: &Value| format!("{}\n", entry["MESSAGE"].as_str().unwrap_or_default());
        entries.iter().flatten().map(said).collect()
    }

    /// Why no token is issued.
    #[track_caller]
    pub fn refusal(&self) -> String {
        let answer = self.host.post("/v1/token", json!({ "audience": API }));
        assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
        answer.json()["error_description"].as_str().unwrap().to_owned()
    }

    // === the TPM ===

    pub fn stall(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    pub fn kill_tpm(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// After its death, at the same ports.
    pub fn revive_tpm(&mut self) {
        until_true("swtpm is dead and lives again", || self.tpm.ensure_running().unwrap());
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.tpm.pid() as i32), signal).unwrap();
    }

    /// What a reboot does to a TPM, with nobody to start it up.
    pub fn power_cycle(&self) {
        let control = format!("127.0.0.1:{}", self.tpm.control_port());
        succeed(Command::new("swtpm_ioctl").args(["--tcp", &control, "-i"]));
    }

    /// Runs one of tpm2-tools on the TPM, beside the daemon.
    #[track_caller]
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        succeed(&mut self.command(program, arguments))
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("TPM2TOOLS_TCTI", self.proxy.tcti());
        command
    }

    /// How many transient objects, loaded sessions and saved sessions the TPM holds, as it says itself.
    pub fn held(&self) -> [usize; 3] {
        ["handles-transient", "handles-loaded-session", "handles-saved-session"].map(|kind| {
            self.tool("tpm2_getcap", &[kind]).lines().filter(|line| !line.trim().is_empty()).count()
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the journal:\n{}", self.journal());
        }
        self.proxy.release();
        self.go_on();
    }
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
