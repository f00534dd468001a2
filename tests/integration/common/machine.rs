//! An installed daemon and its TPM as separate processes with a proxy between them, so that a test can make
//! either fail without the other.

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
use super::{API, Host, WAIT_TIMEOUT, until_true};

/// The daemon's deadline for the TPM.
const DEADLINE: Duration = Duration::from_secs(1);
/// A TPM state must be reported within this time after the deadline.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Added to a bound for a busy machine.
const SLACK: Duration = Duration::from_secs(6);

pub struct Machine {
    pub host: Host,
    pub proxy: Proxy,
    pub tpm: SoftwareTpm,
    journald: Option<Journald>,
    /// How many READY=1 notifications there were.
    ready: Arc<AtomicUsize>,
    /// How many daemons were started.
    started: usize,
}

impl Machine {
    /// A copy of the template host, on which every process of UID 0 is the agent `root`. Its TPM runs, its
    /// daemon does not.
    pub fn new() -> Machine {
        Machine::with_host(Host::new())
    }

    /// As [`Machine::new`], with the files and TPM of `host`.
    pub fn with_host(mut host: Host) -> Machine {
        let socket = host.path("notify");
        let notify = UnixDatagram::bind(&socket).unwrap();
        let ready = Arc::new(AtomicUsize::new(0));
        let count = ready.clone();
        // Reads all notifications, as systemd does: the queue is short and the daemon would block.
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = notify.recv(&mut message) {
                count.fetch_add(
                    usize::from(String::from_utf8_lossy(&message[..length]).contains("READY=1")),
                    Ordering::Relaxed,
                );
            }
        });
        host.start.env.push(("NOTIFY_SOCKET".into(), socket.to_str().unwrap().into()));
        host.agent("root", "user = 0");
        let tpm = SoftwareTpm::start(&host.path("tpm")).unwrap();
        let proxy = Proxy::to(port(&tpm));
        let mut machine = Machine { host, proxy, tpm, journald: None, ready, started: 0 };
        machine.configure("stderr", DEADLINE);
        machine
    }

    /// As [`Machine::new`], with a journald that the daemon logs to.
    pub fn with_journal() -> Machine {
        let mut machine = Machine::new();
        let journald = Journald::start();
        machine.configure("auto", DEADLINE);
        journald.attach_to(&mut machine.host);
        machine.journald = Some(journald);
        machine
    }

    /// Sets the TPM deadline from the next start on.
    pub fn set_deadline(&mut self, deadline: Duration) {
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
        self.started += 1;
        self.host.launch();
    }

    /// Waits until the daemon that was launched last has sent READY=1.
    #[track_caller]
    pub fn until_ready(&self) {
        until_true("the daemon is ready", || self.ready.load(Ordering::Relaxed) == self.started);
    }

    /// Starts the daemon and waits until it is healthy.
    pub fn start(&mut self) {
        self.launch();
        self.until_healthy();
    }

    #[track_caller]
    pub fn until_healthy(&self) {
        let began = Instant::now();
        loop {
            let status = self.host.status();
            if status["status"] == "ok" {
                let health = json!({ "status": "ok", "tpm": "ready", "posture": "off" });
                if self.host.health() == health {
                    break;
                }
            }
            assert!(began.elapsed() < WAIT_TIMEOUT, "not healthy: {status}");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        assert!(!self.host.token().is_empty());
    }

    fn state(&self) -> String {
        self.host.status()["tpm"]["state"].as_str().unwrap().to_owned()
    }

    /// Waits until the TPM has this state in status, health and journal, no longer than [`REPORT_TIMEOUT`]
    /// after the deadline. Returns the status.
    #[track_caller]
    pub fn until_tpm_state(&self, state: &str) -> Value {
        let began = Instant::now();
        while self.state() != state {
            let so_far = began.elapsed();
            assert!(
                so_far < DEADLINE + REPORT_TIMEOUT + SLACK,
                "not {state} but {}",
                self.host.status()["tpm"]
            );
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
        self.until_journaled_any(&[what]);
    }

    /// Waits until the journal has an entry with one of these texts.
    #[track_caller]
    pub fn until_journaled_any(&self, texts: &[&str]) {
        let Some(journald) = &self.journald else { return };
        let matches = |entry: &Value| {
            entry["MESSAGE"].as_str().is_some_and(|message| texts.iter().any(|text| message.contains(text)))
        };
        until_true(&format!("the journal has one of {texts:?}"), || {
            journald.entries(&["--identifier=hostbadged"]).iter().any(matches)
        });
    }

    /// The messages of the daemon's entries in the journal.
    pub fn journal(&self) -> String {
        let entries = self.journald.as_ref().map(|journald| journald.entries(&["--identifier=hostbadged"]));
        let message = |entry: &Value| format!("{}\n", entry["MESSAGE"].as_str().unwrap_or_default());
        entries.iter().flatten().map(message).collect()
    }

    /// Why a token request gets 503.
    #[track_caller]
    pub fn token_error(&self) -> String {
        let answer = self.host.post("/v1/token", json!({ "audience": API }));
        assert_eq!((answer.status, answer.error().as_str()), (503, "temporarily_unavailable"));
        answer.json()["error_description"].as_str().unwrap().to_owned()
    }

    // === the TPM ===

    pub fn pause_tpm(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume_tpm(&self) {
        self.signal(Signal::SIGCONT);
    }

    pub fn kill_tpm(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Starts a killed TPM again, at the same ports.
    pub fn restart_tpm(&mut self) {
        until_true("swtpm is restarted", || self.tpm.ensure_running().unwrap());
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.tpm.pid() as i32), signal).unwrap();
    }

    /// Resets the TPM as a power cycle does, without TPM2_Startup.
    pub fn power_cycle(&self) {
        let control = format!("127.0.0.1:{}", self.tpm.control_port());
        succeed(Command::new("swtpm_ioctl").args(["--tcp", &control, "-i"]));
    }

    /// Runs one of tpm2-tools on the TPM, while the daemon uses it.
    #[track_caller]
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        succeed(&mut self.command(program, arguments))
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("TPM2TOOLS_TCTI", self.proxy.tcti());
        command
    }

    /// How many transient objects, loaded sessions and saved sessions the TPM reports.
    pub fn loaded_handles(&self) -> [usize; 3] {
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
        self.resume_tpm();
    }
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
