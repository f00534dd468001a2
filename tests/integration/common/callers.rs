//! Callers that the daemon can tell apart: other users, groups and units.

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
use super::{Host, needs_root, until_true};

/// The user `nobody` and its group, who own nothing anywhere.
pub const NOBODY: u32 = 65534;

/// In whose name a process runs.
#[derive(Clone, Default)]
pub struct Who {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    cgroup: Option<PathBuf>,
}

impl Who {
    pub fn root() -> Who {
        Who::default()
    }

    pub fn user(uid: u32) -> Who {
        Who { uid, gid: uid, ..Who::default() }
    }

    pub fn group(mut self, gid: u32) -> Who {
        self.groups.push(gid);
        self
    }

    pub fn in_unit(mut self, unit: &Unit) -> Who {
        self.cgroup = Some(unit.cgroup.clone());
        self
    }

    /// Makes `command` run as this.
    pub fn dress(&self, command: &mut Command) {
        needs_root();
        let procs = self
            .cgroup
            .as_ref()
            .map(|dir| File::options().write(true).open(dir.join("cgroup.procs")).unwrap());
        let Who { uid, gid, groups, .. } = self.clone();
        let done =
            |result: libc::c_int| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
        let become_it = move || {
            if let Some(procs) = &procs {
                // SAFETY: writes one byte of static memory to an open descriptor; "0" is whoever writes it.
                let written = unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) };
                done(if written == 1 { 0 } else { -1 })?;
            }
            // SAFETY: plain system calls on memory that lives as long as the closure.
            unsafe {
                done(libc::setgroups(groups.len(), groups.as_ptr()))?;
                done(libc::setresgid(gid, gid, gid))?;
                done(libc::setresuid(uid, uid, uid))
            }
        };
        // SAFETY: between fork and exec, only async-signal-safe calls that do not allocate.
        unsafe { command.pre_exec(become_it) };
    }

    /// curl to the agent socket.
    #[track_caller]
    pub fn curl(&self, host: &Host, target: &str, arguments: &[&str]) -> Response {
        self.curl_at(&host.agent_socket(), target, arguments)
    }

    #[track_caller]
    pub fn curl_at(&self, socket: &Path, target: &str, arguments: &[&str]) -> Response {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--include", "--max-time", "30", "--unix-socket"]);
        command.arg(socket).args(arguments).arg(format!("http://localhost{target}"));
        self.dress(&mut command);
        let output = command.output().expect("curl runs");
        let parsed = Response::parse(&output.stdout, false);
        parsed.unwrap_or_else(|| panic!("curl: {}", String::from_utf8_lossy(&output.stderr))).0
    }

    /// A token for the usual audience, as a whole answer.
    #[track_caller]
    pub fn token(&self, host: &Host) -> Response {
        self.curl(host, "/v1/token", &["-d", &format!("audience={}", super::API)])
    }
}

/// A unit as systemd would have made it: a cgroup in its hierarchy, and the link that names the invocation.
pub struct Unit {
    pub name: String,
    cgroup: PathBuf,
    link: Option<PathBuf>,
}

impl Unit {
    pub fn new(stem: &str) -> Unit {
        needs_root();
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{stem}-{}-{number}.service", std::process::id());
        // A hierarchy of systemd's own on version 1 and hybrid hosts, the unified one elsewhere.
        let own = fs::read_to_string("/proc/self/cgroup").unwrap().contains(":name=systemd:");
        let root = Path::new(if own { "/sys/fs/cgroup/systemd" } else { "/sys/fs/cgroup" });
        let cgroup = root.join("system.slice").join(&name);
        fs::create_dir_all(&cgroup).unwrap();
        Unit { name, cgroup, link: None }
    }

    /// Moves a process here, as root alone can.
    pub fn take_in(&self, pid: &str) {
        fs::write(self.cgroup.join("cgroup.procs"), pid).unwrap();
    }

    /// Gives the unit an invocation of 32 digits.
    pub fn invoked_as(&mut self, id: &str) {
        let dir = Path::new("/run/systemd/units");
        fs::create_dir_all(dir).unwrap();
        let link = dir.join(format!("invocation:{}", self.name));
        std::os::unix::fs::symlink(id, &link).unwrap();
        self.link = Some(link);
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let _ = fs::remove_file(link);
            // Only where it is empty, hence only where a test made it.
            let _ = fs::remove_dir(link.parent().unwrap());
        }
        // The kernel takes a moment to forget the processes that were in it.
        let gone = || fs::remove_dir(&self.cgroup).is_ok() || !self.cgroup.exists();
        if !std::thread::panicking() {
            until_true("the cgroup is empty", gone);
        } else {
            gone();
        }
        let _ = fs::remove_dir(self.cgroup.parent().unwrap());
    }
}

/// A Python process with one connection to the daemon, which does what the test tells it line by line.
pub struct Puppet {
    process: Running,
    answers: BufReader<std::process::ChildStdout>,
}

/// `s` is the connection, `ask` makes a request on it, `tell` answers the test. After an exec the connection comes as
/// a descriptor's number.
const SCRIPT: &str = r"
import array, json, os, re, socket, sys
where = sys.argv[1]
if where.isdigit():
    s = socket.socket(fileno=int(where))
else:
    s = socket.socket(socket.AF_UNIX)
    s.connect(where)
os.set_inheritable(s.fileno(), True)
def ask(line, body='', s=s):
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
def tell(value): print(json.dumps(value), flush=True)
tell('ready')
for line in iter(sys.stdin.readline, ''): exec(line)
";

/// The real file of the interpreter, which is what the daemon sees.
pub fn python() -> PathBuf {
    let found = Path::new("/usr/bin/python3");
    fs::canonicalize(found).expect("python3 is installed")
}

impl Puppet {
    /// Connects to `socket` as `who`, running the Python interpreter at `python`.
    #[track_caller]
    pub fn at(socket: &Path, who: &Who, python: &Path) -> Puppet {
        let mut command = Command::new(python);
        command.args(["-u", "-c", SCRIPT]).arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        who.dress(&mut command);
        let mut process = Running::start(command);
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut puppet = Puppet { process, answers };
        puppet.heard_ready();
        puppet
    }

    #[track_caller]
    pub fn of(host: &Host, who: &Who) -> Puppet {
        Puppet::at(&host.agent_socket(), who, &python())
    }

    #[track_caller]
    pub fn heard_ready(&mut self) {
        assert_eq!(self.hear(), "ready");
    }

    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// Has one line of Python done.
    pub fn order(&mut self, python: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{python}").unwrap();
    }

    /// Puts another program in this process's place, which keeps the connection.
    pub fn exec(&mut self, program: &Path) {
        let arguments = "'-u', '-c', SCRIPT, str(s.fileno())";
        // The script is known to itself only by what it was started with.
        self.order("SCRIPT = open('/proc/self/cmdline').read().split('\\0')[3]");
        self.order(&format!("os.execv({program:?}, [{program:?}, {arguments}])"));
        self.heard_ready();
    }

    /// The value of a Python expression.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        self.order(&format!("tell({expression})"));
        self.hear()
    }

    /// A request on the puppet's connection: status and body.
    #[track_caller]
    pub fn ask(&mut self, line: &str, body: &str) -> (u64, Value) {
        let answer = self.value(&format!("ask({line:?}, {body:?})"));
        (answer["status"].as_u64().unwrap_or_else(|| panic!("{answer}")), answer["body"].clone())
    }

    #[track_caller]
    pub fn whoami(&mut self) -> (u64, Value) {
        self.ask("GET /v1/whoami", "")
    }

    #[track_caller]
    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("the puppet said {line:?}: {e}"))
    }

    /// Waits until the process has ended.
    pub fn end(mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
