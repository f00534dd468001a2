//! What a service manager does for `LoadCredential=`: a client that imitates it, and a real systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::callers::Credentials;
use super::{Host, require_root, until_true};

/// Binds an abstract address, connects, and prints what it reads until the end of the stream.
const CLIENT: &str = "
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
address = bytes.fromhex(sys.argv[2])
if address:
    s.bind(address)
s.connect(sys.argv[1])
while True:
    piece = s.recv(65536)
    if not piece:
        break
    os.write(1, piece)
";

/// What the daemon sends to a service manager that shall not start the unit: more than systemd accepts.
pub const MAX_CREDENTIAL_LEN: usize = 1024 * 1024;

impl Host {
    pub fn credentials_socket(&self) -> PathBuf {
        self.path("run/credentials.sock")
    }

    /// Loads a credential as a service manager with these credentials would.
    #[track_caller]
    pub fn load(&self, process: &Credentials, unit: &str, credential: &str) -> Vec<u8> {
        let random = rand_hex();
        self.load_from(process, format!("\0{random}/unit/{unit}/{credential}").as_bytes())
    }

    /// Connects from `address`, whose first byte is 0 for an abstract one; unnamed if it is empty.
    #[track_caller]
    pub fn load_from(&self, process: &Credentials, address: &[u8]) -> Vec<u8> {
        let mut command = Command::new("python3");
        command
            .args(["-c", CLIENT])
            .arg(self.credentials_socket())
            .arg(data_encoding::HEXLOWER.encode(address));
        process.apply_to(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

fn rand_hex() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{:x}{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A real systemd, as a user's service manager. It runs in a slice of its own in the root of systemd's
/// hierarchy of cgroups, so that the daemon sees its units as those of the system's service manager.
pub struct Systemd {
    dir: PathBuf,
    slice: String,
}

impl Systemd {
    /// `None` where systemd is not installed.
    pub fn in_dir(dir: &Path) -> Option<Systemd> {
        require_root();
        if !Path::new("/usr/lib/systemd/systemd").exists() {
            eprintln!("not run: systemd is not installed");
            return None;
        }
        for below in ["config/systemd/user", "run"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        Some(Systemd { dir: dir.to_owned(), slice: format!("hostbadge-{}.slice", std::process::id()) })
    }

    /// Runs `unit` once, with these lines of the section `[Service]`. Returns the result, and how the program
    /// ended (`$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS` of systemd.exec(5)), and what it wrote.
    #[track_caller]
    pub fn run(&self, unit: &str, service: &str) -> (String, String) {
        let path = |below: &str| self.dir.join(below);
        let _ = (fs::remove_file(path("result")), fs::remove_file(path("out")));
        let text = format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nStandardOutput=file:{}\n{service}\n\
             ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS >{}; kill -TERM $PPID'\n",
            path("out").display(),
            path("result").display()
        );
        fs::write(path("config/systemd/user").join(unit), text).unwrap();
        // In hybrid mode systemd is in two hierarchies. In the root of one, it would move all processes.
        let slices: Vec<PathBuf> = hierarchies().iter().map(|root| root.join(&self.slice)).collect();
        for slice in &slices {
            fs::create_dir_all(slice).unwrap();
        }
        // systemd runs where the directory /run/systemd/system exists. It mounts the directory of a unit's
        // credentials in another mount namespace and relies on the propagation of mounts.
        let script = "unit=$1; shift; for slice; do echo $$ >\"$slice/cgroup.procs\" || exit; done
            grep -qE '^(0:|[0-9]+:name=systemd):/$' /proc/self/cgroup && exit 1
            mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && mount --make-rshared / \
            && exec timeout 60 /usr/lib/systemd/systemd --user --unit=\"$unit\"";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh", unit])
            .args(&slices)
            .env("XDG_RUNTIME_DIR", path("run"))
            .env("XDG_CONFIG_HOME", path("config"))
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .output()
            .unwrap();
        let result = fs::read_to_string(path("result"));
        let result = result.unwrap_or_else(|e| panic!("{e}: {output:?}"));
        (result.trim().to_owned(), fs::read_to_string(path("out")).unwrap_or_default())
    }
}

/// The hierarchies of cgroups in which systemd has its units: one, or both in hybrid mode.
fn hierarchies() -> Vec<PathBuf> {
    let own = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let found: Vec<PathBuf> = own.into_iter().filter(|dir| dir.join("cgroup.procs").exists()).collect();
    if found.is_empty() { vec!["/sys/fs/cgroup".into()] } else { found }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // systemd makes its cgroups in the hierarchies of controllers too.
        let below = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for dir in below.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
            remove_cgroups(&dir.join(&self.slice));
        }
    }
}

/// Removes a cgroup and those below it, if it exists.
fn remove_cgroups(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroups(&entry.path());
    }
    // A cgroup is busy until the kernel has released its processes.
    let remove = || fs::remove_dir(dir).is_ok() || !dir.exists();
    if !std::thread::panicking() {
        until_true("the cgroup is removed", remove);
    } else {
        remove();
    }
}
