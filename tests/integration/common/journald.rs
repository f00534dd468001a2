//! A real journald for one test: an instance in its own journal namespace, as systemd runs them for
//! LogNamespace=.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::processes::Running;
use super::{Host, until_true};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
/// Mounts the namespace's sockets over the host's, and executes a program that sees them.
const INSIDE: &str = "mkdir -p /run/systemd/journal && \
    mount --bind \"/run/systemd/journal.$0\" /run/systemd/journal && exec \"$@\"";

pub struct Journald {
    namespace: String,
    process: Running,
}

impl Journald {
    pub fn start() -> Journald {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("hostbadge-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(JOURNALD);
        command.arg(&namespace).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Running::start(command);
        let journald = Journald { namespace, process };
        let socket = journald.run_dir().join("socket");
        let client = UnixDatagram::unbound().unwrap();
        until_true("journald receives entries", || client.connect(&socket).is_ok());
        journald
    }

    /// Makes the host's daemon log to this journald from its next start on.
    pub fn attach_to(&self, host: &mut Host) {
        let words = ["unshare", "--mount", "sh", "-c", INSIDE, &self.namespace];
        host.start.wrapper = words.map(str::to_owned).into();
    }

    pub fn pause(&self) {
        kill(self.process.pid(), Signal::SIGSTOP).unwrap();
    }

    pub fn resume(&self) {
        kill(self.process.pid(), Signal::SIGCONT).unwrap();
    }

    /// The entries that journalctl finds by `matches`, oldest first.
    pub fn entries(&self, matches: &[&str]) -> Vec<Value> {
        let mut command = Command::new("journalctl");
        command.arg(format!("--namespace={}", self.namespace)).args(["--output=json", "--all", "--no-pager"]);
        let output = command.args(matches).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn run_dir(&self) -> PathBuf {
        PathBuf::from(format!("/run/systemd/journal.{}", self.namespace))
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = kill(self.process.pid(), Signal::SIGKILL);
        let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let journal = format!("log/journal/{}.{}", machine.trim(), self.namespace);
        for dir in [format!("/run/{journal}"), format!("/var/{journal}")] {
            let _ = fs::remove_dir_all(dir);
        }
        let _ = fs::remove_dir_all(self.run_dir());
    }
}
