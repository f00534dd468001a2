//! Callers with other credentials: users, groups and units.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::http::Response;
use super::processes::Running;
use super::{Host, require_root, until_true};

/// The UID and GID of `nobody`, who owns no file.
pub const NOBODY: u32 = 65534;

/// Credentials and cgroup of a caller's process. The default is root without supplementary groups.
#[derive(Clone, Default)]
pub struct Credentials {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    cgroups: Vec<PathBuf>,
}

impl Credentials {
    pub fn root() -> Credentials {
        Credentials::default()
    }

    pub fn user(uid: u32) -> Credentials {
        Credentials { uid, gid: uid, ..Credentials::default() }
    }

    pub fn group(mut self, gid: u32) -> Credentials {
        self.groups.push(gid);
        self
    }

    pub fn in_unit(mut self, unit: &Unit) -> Credentials {
        self.cgroups = unit.cgroups.clone();
        self
    }

    /// Makes `command` run with these credentials, in this cgroup.
    pub fn apply_to(&self, command: &mut Command) {
        require_root();
        let open = |dir: &PathBuf| File::options().write(true).open(dir.join("cgroup.procs")).unwrap();
        let procs: Vec<File> = self.cgroups.iter().map(open).collect();
        let Credentials { uid, gid, groups, .. } = self.clone();
        let check =
            |result: libc::c_int| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
        let apply = move || {
            for procs in &procs {
                // SAFETY: writes one byte of static memory to an open descriptor. "0" means the writing
                // process.
                let written = unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) };
                check(if written == 1 { 0 } else { -1 })?;
            }
            // SAFETY: plain system calls on memory that lives as long as the closure.
            unsafe {
                check(libc::setgroups(groups.len(), groups.as_ptr()))?;
                check(libc::setresgid(gid, gid, gid))?;
                check(libc::setresuid(uid, uid, uid))
            }
        };
        // SAFETY: between fork and exec, only async-signal-safe calls that do not allocate.
        unsafe { command.pre_exec(apply) };
    }

    /// Runs curl on the agent socket.
    #[track_caller]
    pub fn curl(&self, host: &Host, target: &str, arguments: &[&str]) -> Response {
        self.curl_at(&host.agent_socket(), target, arguments)
    }

    #[track_caller]
    pub fn curl_at(&self, socket: &Path, target: &str, arguments: &[&str]) -> Response {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--include", "--max-time", "30", "--unix-socket"]);
        command.arg(socket).args(arguments).arg(format!("http://localhost{target}"));
        self.apply_to(&mut command);
        let output = command.output().expect("curl runs");
        let parsed = Response::parse(&output.stdout, false);
        parsed.unwrap_or_else(|| panic!("curl: {}", String::from_utf8_lossy(&output.stderr))).0
    }

    /// Requests a token for [`super::API`].
    #[track_caller]
    pub fn token(&self, host: &Host) -> Response {
        self.curl(host, "/v1/token", &["-d", &format!("audience={}", super::API)])
    }

    /// A JWT-SVID for an audience; `None` if the call is refused.
    pub fn jwt_svid(&self, host: &Host, audience: &str) -> Option<String> {
        let reply = self.call_workload_api(host, "FetchJWTSVID", &text_field(1, audience));
        let start = reply.windows(3).position(|window| window == b"eyJ")?;
        let is_jwt = |byte: &&u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        Some(String::from_utf8(reply[start..].iter().take_while(is_jwt).copied().collect()).unwrap())
    }

    /// Calls a method of the Workload API by curl, and returns the body of the reply.
    #[track_caller]
    pub fn call_workload_api(&self, host: &Host, method: &str, message: &[u8]) -> Vec<u8> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut frame = vec![0];
        frame.extend((message.len() as u32).to_be_bytes());
        frame.extend(message);
        let file = host.path(&format!("request-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, frame).unwrap();
        let mut command = Command::new("curl");
        command.args(["--silent", "--http2-prior-knowledge", "--max-time", "30", "--unix-socket"]);
        command.arg(host.workload_socket()).args(["-H", "content-type: application/grpc"]);
        command.args(["-H", "te: trailers", "-H", "workload.spiffe.io: true"]);
        command.arg("--data-binary").arg(format!("@{}", file.display()));
        command.arg(format!("http://localhost/SpiffeWorkloadAPI/{method}"));
        self.apply_to(&mut command);
        let output = command.output().expect("curl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// A string field of a protobuf message.
pub fn text_field(number: u8, text: &str) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = text.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(text.as_bytes());
    field
}

/// A unit as systemd makes one: a cgroup in its hierarchy, and the link that names the invocation.
pub struct Unit {
    pub name: String,
    /// In each hierarchy.
    cgroups: Vec<PathBuf>,
    link: Option<PathBuf>,
}

impl Unit {
    pub fn new(stem: &str) -> Unit {
        require_root();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Unit::named(&format!("{stem}-{}-{number}.service", std::process::id()))
    }

    /// A unit that no other test has.
    pub fn named(name: &str) -> Unit {
        Unit::at("system.slice", name.to_owned())
    }

    /// A cgroup at this path of systemd's hierarchy, with a name that is not changed.
    pub fn at(parent: &str, name: String) -> Unit {
        require_root();
        // systemd's own hierarchy with cgroup v1 and in hybrid mode, otherwise the unified one.
        let own = fs::read_to_string("/proc/self/cgroup").unwrap().contains(":name=systemd:");
        let root = Path::new(if own { "/sys/fs/cgroup/systemd" } else { "/sys/fs/cgroup" });
        let cgroup = root.join(parent).join(&name);
        fs::create_dir_all(&cgroup).unwrap();
        Unit { name, cgroups: vec![cgroup], link: None }
    }

    /// In the unified hierarchy too, as systemd has it on hybrid hosts, so that the kernel reports when it is empty.
    pub fn in_unified_hierarchy(mut self) -> Unit {
        let unified = Path::new("/sys/fs/cgroup/unified");
        if let Some(below) = self.cgroups[0].strip_prefix("/sys/fs/cgroup/systemd").ok().map(Path::to_owned) {
            let cgroup = unified.join(below);
            fs::create_dir_all(&cgroup).unwrap();
            self.cgroups.push(cgroup);
        }
        self
    }

    /// Moves a process into this unit's cgroup.
    pub fn add_process(&self, pid: &str) {
        for cgroup in &self.cgroups {
            fs::write(cgroup.join("cgroup.procs"), pid).unwrap();
        }
    }

    /// Starts the unit, or starts it again: sets the invocation ID, 32 hexadecimal digits, as systemd does.
    pub fn set_invocation_id(&mut self, id: &str) {
        let dir = Path::new("/run/systemd/units");
        let link = dir.join(format!("invocation:{}", self.name));
        let new = dir.join(format!(".#invocation:{}", self.name));
        // Another test may remove the directory.
        until_true("the link is made", || {
            fs::create_dir_all(dir).is_ok()
                && std::os::unix::fs::symlink(id, &new).is_ok()
                && fs::rename(&new, &link).is_ok()
        });
        self.link = Some(link);
    }

    /// Stops the unit: removes the link.
    pub fn stop(&mut self) {
        fs::remove_file(self.link.take().unwrap()).unwrap();
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
            // Succeeds only if the directory is empty, which means that a test created it.
            let _ = fs::remove_dir(link.parent().unwrap());
        }
        for cgroup in &self.cgroups {
            // A cgroup is busy until the kernel has released the processes that were in it.
            let remove = || fs::remove_dir(cgroup).is_ok() || !cgroup.exists();
            if !std::thread::panicking() {
                until_true("the cgroup is removed", remove);
            } else {
                remove();
            }
            // Those above it that are empty now.
            for above in cgroup.ancestors().skip(1) {
                if fs::remove_dir(above).is_err() {
                    break;
                }
            }
        }
    }
}

/// A Python process with one connection to the daemon, which executes lines of Python that the test sends.
pub struct ScriptedClient {
    process: Running,
    output: BufReader<std::process::ChildStdout>,
}

/// `s` is the connection, `request` makes a request on it, `reply` prints a value for the test. After an exec
/// the argument is the connection's descriptor and not the socket's path.
const SCRIPT: &str = r"
import array, json, os, re, socket, sys
where = sys.argv[1]
if where.isdigit():
    s = socket.socket(fileno=int(where))
else:
    s = socket.socket(socket.AF_UNIX)
    s.connect(where)
os.set_inheritable(s.fileno(), True)
def request(line, body='', s=s):
    s.sendall(f'{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}'.encode())
    data = b''
    while b'\r\n\r\n' not in data:
        more = s.recv(65536)
        if not more: return {'closed': True}
        data += more
    head, _, rest = data.partition(b'\r\n\r\n')
    length = int(re.search(rb'content-length: (\d+)', head)[1])
    while len(rest) < length: rest += s.recv(65536)
    return {'status': int(head.split()[1]), 'body': json.loads(rest)}
def reply(value): print(json.dumps(value), flush=True)
reply('ready')
for line in iter(sys.stdin.readline, ''): exec(line)
";

/// The interpreter's path without symbolic links, as the daemon reads it from /proc.
pub fn python() -> PathBuf {
    fs::canonicalize("/usr/bin/python3").expect("python3 is installed")
}

impl ScriptedClient {
    /// Starts `python` as `who`, which connects to `socket`.
    #[track_caller]
    pub fn connect_with(socket: &Path, who: &Credentials, python: &Path) -> ScriptedClient {
        ScriptedClient::connect_by(Command::new(python), socket, who)
    }

    /// Starts `command`, which executes a Python interpreter with the arguments that are appended to its own.
    #[track_caller]
    pub fn connect_by(mut command: Command, socket: &Path, who: &Credentials) -> ScriptedClient {
        command.args(["-u", "-c", SCRIPT]).arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        who.apply_to(&mut command);
        let mut process = Running::start(command);
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut client = ScriptedClient { process, output };
        client.wait_ready();
        client
    }

    #[track_caller]
    pub fn connect(host: &Host, who: &Credentials) -> ScriptedClient {
        ScriptedClient::connect_with(&host.agent_socket(), who, &python())
    }

    #[track_caller]
    pub fn wait_ready(&mut self) {
        assert_eq!(self.read_value(), "ready");
    }

    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// Sends a line of Python to execute.
    pub fn execute(&mut self, python: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{python}").unwrap();
    }

    /// Executes another program in this process, which inherits the connection.
    pub fn exec(&mut self, program: &Path) {
        let arguments = "'-u', '-c', SCRIPT, str(s.fileno())";
        // The script has its own text only in its command line.
        self.execute("SCRIPT = open('/proc/self/cmdline').read().split('\\0')[3]");
        self.execute(&format!("os.execv({program:?}, [{program:?}, {arguments}])"));
        self.wait_ready();
    }

    /// The value of a Python expression.
    #[track_caller]
    pub fn evaluate(&mut self, expression: &str) -> Value {
        self.execute(&format!("reply({expression})"));
        self.read_value()
    }

    /// Makes a request on the client's connection; its status and body.
    #[track_caller]
    pub fn request(&mut self, line: &str, body: &str) -> (u64, Value) {
        let answer = self.evaluate(&format!("request({line:?}, {body:?})"));
        (answer["status"].as_u64().unwrap_or_else(|| panic!("{answer}")), answer["body"].clone())
    }

    #[track_caller]
    pub fn whoami(&mut self) -> (u64, Value) {
        self.request("GET /v1/whoami", "")
    }

    #[track_caller]
    pub fn read_value(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("the process printed {line:?}: {e}"))
    }

    /// Closes the process's input and waits until it exits.
    pub fn close(mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
