//! A host for one test: the real daemon with its own software TPM, in its own directory.
//!
//! Manufacturing a software TPM takes seconds, so each run of the tests makes one, and the first state of a
//! host with it; every [`Host`] starts as a copy. All copies have the same host ID and keys, each in its own
//! directory.

pub mod audit_log;
pub mod callers;
pub mod fake_clock;
pub mod grpc;
pub mod http;
pub mod http2;
pub mod journald;
pub mod libraries;
pub mod machine;
pub mod metrics;
pub mod name_service;
pub mod processes;
pub mod proxy;
pub mod service_manager;
pub mod shared_tpm;
pub mod status_list;
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

/// The audience that [`Host::agent`] grants.
pub const API: &str = "https://api.example.com";
/// The last line that a development host prints when it is ready.
const READY: &str = "hostbadge whoami";
/// Bounds every wait; generous, since the machine may be busy.
const WAIT_TIMEOUT: Duration = Duration::from_secs(40);

/// Polls `value` until it returns something, and panics after [`WAIT_TIMEOUT`].
#[track_caller]
pub fn until<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Polls `holds` until it is true, and panics after [`WAIT_TIMEOUT`].
#[track_caller]
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(()));
}

/// Lets time pass, where the time itself is what a test needs: a rate of one a second, or the daemon's timers.
#[expect(clippy::disallowed_methods, reason = "there is no event to wait for")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Connects to `socket` as soon as its server accepts connections. That the file exists does not mean that:
/// bind(2) makes it, and connections are refused until listen(2).
#[track_caller]
pub fn connect_when_listening(socket: &Path) -> UnixStream {
    until(&format!("{} accepts connections", socket.display()), || UnixStream::connect(socket).ok())
}

/// Panics unless root runs the tests, which create cgroups, mounts and processes of other users.
#[track_caller]
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "run this test as root: it needs other users, cgroups or mounts"
    );
}

/// The path of the daemon or of the command: those of this build, or those in `HOSTBADGE_BIN_DIR`.
pub fn program(name: &str) -> String {
    match std::env::var("HOSTBADGE_BIN_DIR") {
        Ok(dir) => format!("{dir}/{name}"),
        Err(_) if name == "hostbadged" => env!("CARGO_BIN_EXE_hostbadged").to_owned(),
        Err(_) => env!("CARGO_BIN_EXE_hostbadge").to_owned(),
    }
}

/// Copies a program to be executed, and appends `tail`. Another process writes the copy: a child that this one forks
/// meanwhile for another test would inherit the open file, and the program could not be executed (ETXTBSY) as long
/// as that child has it.
pub fn copy_program(from: impl AsRef<Path>, to: &Path, tail: &str) {
    let status = Command::new("sh")
        .args(["-c", r#"cp -- "$0" "$1" && printf %s "$2" >>"$1" && chmod 755 "$1""#])
        .args([from.as_ref(), to, Path::new(tail)])
        .status()
        .unwrap();
    assert!(status.success(), "{} cannot be copied", to.display());
}

/// A host in a temporary directory. Drop kills the daemon and removes the directory.
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
    /// A program and its arguments, which executes the daemon that follows them.
    pub wrapper: Vec<String>,
    /// The configuration file of an installed daemon; `None` for a development host.
    pub config: Option<PathBuf>,
}

impl Host {
    /// A stopped host that was started once before, without agents.
    pub fn new() -> Host {
        Host::copied_from(template::host())
    }

    /// As [`Host::new`], with the TPM and keys of another host.
    pub fn other() -> Host {
        Host::copied_from(template::other_host())
    }

    /// A host that was never started, for tests that depend on the age of its keys: the first start makes its
    /// TPM and keys.
    pub fn never_started() -> Host {
        let root = tempfile::Builder::new().prefix("hostbadge-").tempdir().unwrap();
        // Processes of other users connect to the sockets in it.
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let dir = root.path().join("host");
        fs::create_dir(&dir).unwrap();
        let host = Host { dir, daemon: None, start: Start::default(), _root: root };
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

    /// Writes the configuration, and sends the log to standard error unless `toml` has a section `[log]`.
    pub fn configure(&self, toml: &str) {
        let log = if toml.contains("[log]") { "" } else { "\n[log]\nto = \"stderr\"\n" };
        fs::write(self.path("etc/hostbadged.toml"), format!("{toml}\n{log}")).unwrap();
    }

    /// Starts the daemon as an installed one from now on: with `--config`, whose file has the host's paths
    /// and `toml`.
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

    /// Registers an agent by its selectors, with a grant for [`API`], from the next start or reload on.
    pub fn agent(&self, name: &str, conditions: &str) {
        let grant = format!(
            "[[grant]]\naudience = \"{API}\"\nscopes = [\"docs.read\", \"docs.write\"]\nttl = \"5m\"\n"
        );
        self.agents_file(name, &format!("name = \"{name}\"\n[match]\n{conditions}\n{grant}"));
    }

    /// Writes `text` to `agents.d/STEM.toml`.
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

    // === the daemon ===

    /// Starts the daemon and waits until it prints that it is ready.
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

    /// Polls `holds`, and panics as soon as the daemon has exited.
    #[track_caller]
    fn until_daemon(&mut self, what: &str, holds: impl Fn(&Host) -> bool) {
        until_true(&format!("the daemon {what}"), || {
            let exited = self.daemon.as_mut().expect("the daemon was started").exited();
            assert!(exited.is_none(), "the daemon exited before it {what}: {}", exited.unwrap());
            holds(self)
        });
    }

    fn spawn(&mut self) {
        let command = self.command();
        self.daemon = Some(Running::start(command));
    }

    /// The command line of this host's daemon.
    pub fn command(&self) -> Command {
        let daemon = program("hostbadged");
        let mut words = self.start.wrapper.iter().chain([&daemon]);
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

    /// Sends SIGTERM and waits for the exit.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_for_exit()
    }

    /// Sends SIGKILL and waits for the exit: a crash.
    pub fn crash(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_for_exit();
    }

    /// Waits until the daemon exits.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        until("the daemon exits", || daemon.exited())
    }

    /// Sends SIGHUP and waits until the audit log has the reload.
    pub fn reload(&self) {
        let done = || self.audit_text().matches("\"agents-re").count();
        let before = done();
        self.signal(Signal::SIGHUP);
        until_true("the agents are reloaded", || done() > before);
    }

    /// Everything that the daemon wrote to its standard streams.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_file_name("log")
    }

    pub fn audit_text(&self) -> String {
        audit_log::text(&self.path("audit"))
    }

    // === the command ===

    /// Runs `hostbadge` with this host's sockets.
    pub fn hostbadge(&self, words: &[&str]) -> Output {
        self.client_command(words).output().unwrap()
    }

    /// The same with this standard input.
    pub fn hostbadge_with(&self, words: &[&str], input: &str) -> Output {
        processes::output_with(&mut self.client_command(words), input.as_bytes())
    }

    fn client_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program("hostbadge"));
        command.args(words).env("HOSTBADGE_ADMIN_SOCKET", self.admin_socket());
        command.env("HOSTBADGE_SOCKET", self.agent_socket());
        command
    }

    // === the software TPM ===

    pub fn swtpm(&self) -> Pid {
        let file = self.path("tpm/swtpm.pid");
        Pid::from_raw(until("swtpm writes its PID file", || {
            fs::read_to_string(&file).ok()?.trim().parse().ok()
        }))
    }

    // === requests ===

    /// A new connection of the test process to the agent socket.
    pub fn connect(&self) -> Connection {
        Connection::open(&self.agent_socket())
    }

    pub fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }

    pub fn post(&self, target: &str, body: Value) -> Response {
        self.connect().post(target, &body)
    }

    /// A token for [`API`]. Panics with the response if it is denied.
    #[track_caller]
    pub fn token(&self) -> String {
        let answer = self.post("/v1/token", serde_json::json!({ "audience": API }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    pub fn introspect(&self, token: &str) -> Value {
        self.post("/v1/introspect", serde_json::json!({ "token": token })).json()
    }

    pub fn admin(&self) -> Connection {
        Connection::open(&self.admin_socket())
    }

    /// `GET /v1/status` on the admin socket.
    pub fn status(&self) -> Value {
        self.admin().get("/v1/status").json()
    }

    pub fn health(&self) -> Value {
        self.get("/v1/health").json()
    }

    /// The audit log's records; panics if their chain is broken.
    #[track_caller]
    pub fn audit(&self) -> Vec<Value> {
        audit_log::chained_lines(&self.path("audit"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's output:\n{}", self.log());
        }
    }
}

/// The response to a reload without the warning that counts lints.
pub fn without_lints(mut reloaded: Value) -> Value {
    let is_lint = |one: &Value| one["what"].as_str().is_some_and(|what| what.starts_with("lints: "));
    if let Some(warnings) = reloaded.get_mut("warnings").and_then(Value::as_array_mut) {
        warnings.retain(|one| !is_lint(one));
        if warnings.is_empty() {
            reloaded.as_object_mut().unwrap().remove("warnings");
        }
    }
    reloaded
}

/// Appends `text` to an existing file.
pub fn append(path: &Path, text: &[u8]) {
    use std::io::Write;
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text).unwrap();
}
