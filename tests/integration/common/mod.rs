//! A whole host for one test: the real daemon with its own software TPM, in a directory of its own.
//!
//! Making a software TPM takes seconds, so one is made for each run of the tests, with the first state of a host; every
//! [`Host`] begins as a copy of it. All of them are hence one and the same host, in as many directories.

pub mod callers;
pub mod grpc;
pub mod http;
pub mod journald;
pub mod libraries;
pub mod machine;
pub mod processes;
pub mod proxy;
pub mod record;
pub mod shared_tpm;
pub mod template;
pub mod wire;

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use http::{Connection, Response};
use processes::Running;

/// What the usual agent of a test may ask for.
pub const API: &str = "https://api.example.com";
/// Said last by a development host that is ready.
const READY: &str = "hostbadge whoami";
/// The longest that anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// Waits, bounded, until `seen` gives something.
#[track_caller]
pub fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = seen() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Waits, bounded, until `holds`.
#[track_caller]
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}

/// Connects to `socket` as soon as its server accepts connections. That the file exists does not mean that: bind(2)
/// makes it, and connections are refused until listen(2).
#[track_caller]
pub fn connect_when_listening(socket: &Path) -> UnixStream {
    until(&format!("{} accepts connections", socket.display()), || UnixStream::connect(socket).ok())
}

/// These tests make cgroups, mounts and processes of other users.
#[track_caller]
pub fn needs_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "run this test as root: it needs other users, cgroups or mounts"
    );
}

/// A host in a directory. Dropping it stops the daemon and removes everything.
pub struct Host {
    dir: PathBuf,
    daemon: Option<Running>,
    /// Environment and wrapper of the daemon's next start.
    pub start: Start,
    _root: TempDir,
}

/// How the daemon is started.
#[derive(Default)]
pub struct Start {
    pub env: Vec<(String, String)>,
    /// A program and arguments that exec the daemon.
    pub through: Vec<String>,
    /// A configuration file, where the daemon is no development host.
    pub config: Option<PathBuf>,
}

impl Host {
    /// A host that was started once before and is stopped now, without agents.
    pub fn new() -> Host {
        Host::copied_from(template::host())
    }

    /// The same with a TPM and keys of another host.
    pub fn other() -> Host {
        Host::copied_from(template::other_host())
    }

    /// A directory in which no daemon ever was.
    pub fn blank() -> Host {
        let root = tempfile::Builder::new().prefix("hostbadge-").tempdir().unwrap();
        // Callers of other users have to get through to the sockets.
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let dir = root.path().join("host");
        fs::create_dir(&dir).unwrap();
        Host { dir, daemon: None, start: Start::default(), _root: root }
    }

    /// A host whose first start is to come, with a TPM and keys of its own: of an age that the test knows.
    pub fn never_started() -> Host {
        let host = Host::blank();
        fs::create_dir_all(host.path("etc/agents.d")).unwrap();
        host.configure("");
        host
    }

    fn copied_from(template: &Path) -> Host {
        let host = Host::never_started();
        template::copy(template, &host.dir);
        host
    }

    /// A running host on which every process of uid 0 is the agent `root`.
    pub fn started() -> Host {
        let mut host = Host::new();
        host.agent("root", "user = 0");
        host.start();
        host
    }

    /// Writes the configuration; standard error is where the daemon speaks.
    pub fn configure(&self, toml: &str) {
        let log = if toml.contains("[log]") { "" } else { "\n[log]\nto = \"stderr\"\n" };
        fs::write(self.path("etc/hostbadged.toml"), format!("{toml}\n{log}")).unwrap();
    }

    /// Makes it a host that is started as an installed daemon, with a TPM and whatever else `toml` names beside its paths.
    pub fn install(&mut self, toml: &str) {
        let path = |below: &str| self.path(below);
        let text = format!(
            "[paths]\nagents = {:?}\nstate = {:?}\naudit = {:?}\nrun = {:?}\n{toml}",
            path("etc/agents.d"),
            path("state"),
            path("audit"),
            path("run"),
        );
        let file = self.path("hostbadged.toml");
        fs::write(&file, text).unwrap();
        self.start.config = Some(file);
    }

    /// Registers an agent by its conditions, with the usual grant. It counts from the next start or reload.
    pub fn agent(&self, name: &str, conditions: &str) {
        let grant = format!(
            "[[grant]]\naudience = \"{API}\"\nscopes = [\"docs.read\", \"docs.write\"]\nttl = \"5m\"\n"
        );
        self.agents_file(name, &format!("name = \"{name}\"\n[match]\n{conditions}\n{grant}"));
    }

    /// Writes `agents.d/STEM.toml` word for word.
    pub fn agents_file(&self, stem: &str, text: &str) -> PathBuf {
        let path = self.path(&format!("etc/agents.d/{stem}.toml"));
        fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    pub fn agent_socket(&self) -> PathBuf {
        self.path("run/agent.sock")
    }

    pub fn workload_socket(&self) -> PathBuf {
        self.path("run/workload.sock")
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.path("run/admin.sock")
    }

    // === the daemon's life ===

    /// Starts the daemon and waits until it says that it is ready.
    pub fn start(&mut self) {
        let before = self.log().len();
        self.spawn();
        self.until_daemon("is ready", |host| host.log()[before..].contains(READY));
    }

    /// Starts the daemon and waits until its sockets accept connections, whether or not it can issue.
    #[track_caller]
    pub fn launch(&mut self) {
        self.spawn();
        for socket in [self.agent_socket(), self.workload_socket(), self.admin_socket()] {
            self.until_daemon("listens", |_| UnixStream::connect(&socket).is_ok());
        }
    }

    /// Waits until the daemon is so far, and fails as soon as it has ended.
    #[track_caller]
    fn until_daemon(&mut self, what: &str, holds: impl Fn(&Host) -> bool) {
        until_true(&format!("the daemon {what}"), || {
            let ended = self.daemon.as_mut().expect("the daemon was started").exited();
            assert!(ended.is_none(), "the daemon ended before it {what}: {}", ended.unwrap());
            holds(self)
        });
    }

    fn spawn(&mut self) {
        let command = self.command();
        self.daemon = Some(Running::start(command));
    }

    /// The command line of this host's daemon.
    pub fn command(&self) -> Command {
        let daemon = env!("CARGO_BIN_EXE_hostbadged").to_owned();
        let mut words = self.start.through.iter().chain([&daemon]);
        let mut command = Command::new(words.next().unwrap());
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        command.args(words).envs(self.start.env.iter().cloned());
        match &self.start.config {
            Some(file) => command.arg("--config").arg(file),
            None => command.arg("--dev").arg(&self.dir),
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    pub fn pid(&self) -> Pid {
        self.daemon.as_ref().expect("the daemon runs").pid()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// SIGTERM, and how the daemon ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// SIGKILL: what a crash is to the rest of the world.
    pub fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended();
    }

    /// How the daemon ends by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        until("the daemon ends", || daemon.exited())
    }

    /// SIGHUP, and the wait for it to be done.
    pub fn hang_up(&self) {
        let done = || self.audit_text().matches("\"agents-re").count();
        let before = done();
        self.signal(Signal::SIGHUP);
        until_true("the agents are reloaded", || done() > before);
    }

    /// All that the daemon said on its standard streams.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_file_name("log")
    }

    fn audit_text(&self) -> String {
        record::text(&self.path("audit"))
    }

    // === the command ===

    /// Runs `hostbadge` against this host, to its end.
    pub fn hostbadge(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_hostbadge"))
            .args(words)
            .env("HOSTBADGE_ADMIN_SOCKET", self.admin_socket())
            .env("HOSTBADGE_SOCKET", self.agent_socket())
            .output()
            .unwrap()
    }

    // === the software TPM ===

    pub fn swtpm(&self) -> Pid {
        let file = self.path("tpm/swtpm.pid");
        Pid::from_raw(until("swtpm says its pid", || fs::read_to_string(&file).ok()?.trim().parse().ok()))
    }

    // === requests ===

    /// A new connection to the agent socket, by the test's own process.
    pub fn connect(&self) -> Connection {
        Connection::open(&self.agent_socket())
    }

    pub fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }

    pub fn post(&self, target: &str, body: Value) -> Response {
        self.connect().post(target, &body)
    }

    /// A token for the usual audience, or a panic with the refusal.
    #[track_caller]
    pub fn token(&self) -> String {
        let answer = self.post("/v1/token", serde_json::json!({ "audience": API }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// Asks what a token is worth.
    pub fn introspect(&self, token: &str) -> Value {
        self.post("/v1/introspect", serde_json::json!({ "token": token })).json()
    }

    pub fn admin(&self) -> Connection {
        Connection::open(&self.admin_socket())
    }

    /// What an administrator sees.
    pub fn status(&self) -> Value {
        self.admin().get("/v1/status").json()
    }

    pub fn health(&self) -> Value {
        self.get("/v1/health").json()
    }

    /// The record's lines, their chain checked.
    #[track_caller]
    pub fn audit(&self) -> Vec<Value> {
        record::chained_lines(&self.path("audit"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the daemon said:\n{}", self.log());
        }
    }
}

/// Opens a file for appending and writes `text` to its end.
pub fn append(path: &Path, text: &[u8]) {
    use std::io::Write;
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text).unwrap();
}
