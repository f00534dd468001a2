//! The cost of a sub-agent's request beside that of an agent, and of a delegation, on this machine in this run.
//!
//! `cargo bench --bench sub_agents` (or `make bench`), as root on a host with the unified hierarchy of cgroups. Starts a
//! daemon in release mode and calls it over its socket. This process moves between cgroups: it is the agent in one, and the
//! sub-agent in another.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use support::{Client, Host, Journald, measure, median, micros, ratio};

/// Repetitions of what makes a file.
const DELEGATIONS: usize = 100;

fn main() {
    let Some(cgroup) = Cgroup::create() else {
        println!("this needs root and a unified hierarchy of cgroups; nothing was measured");
        return;
    };
    let _journald = Journald::ensure();
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(Host::start_without_token(dir.path()));
    let text = "name = \"example\"\n[match]\nuser = 0\n[delegate]\nmax = 256\n[[grant]]\naudience = \
                \"https://api.example.com\"\n";
    fs::write(dir.path().join("etc/agents.d/example.toml"), text).expect("a file");
    let host = Host::start_without_token(dir.path());
    cgroup.enter("main");
    // The invocation of the agent is that of its cgroup, and ends when no process is left there.
    let _kept = Kept(Command::new("sleep").arg("3600").spawn().expect("sleep"));
    let path = cgroup.make("sub");
    Client::connect(host.socket()).ask("POST", "/v1/delegate", &request("sub", &path));

    let token = ("POST", "/v1/token");
    let body = r#"{"audience":"https://api.example.com"}"#;
    let whoami = ("GET", "/v1/whoami");
    let of_agent = [measure(&host, "agent: whoami", whoami, ""), measure(&host, "agent: token", token, body)];
    cgroup.enter("sub");
    let of_sub =
        [measure(&host, "sub-agent: whoami", whoami, ""), measure(&host, "sub-agent: token", token, body)];
    cgroup.enter("main");
    for ((name, agent), sub) in ["whoami", "token"].into_iter().zip(of_agent).zip(of_sub) {
        println!("{name}: a sub-agent's is {:.2} of an agent's (aim: at most 1.10)", ratio(sub, agent));
    }

    let mut client = Client::connect(host.socket());
    let times: Vec<Duration> = (0..DELEGATIONS)
        .map(|n| {
            let name = format!("n{n}");
            let body = request(&name, &cgroup.make(&name));
            let started = Instant::now();
            client.ask("POST", "/v1/delegate", &body);
            started.elapsed()
        })
        .collect();
    println!("a delegation, stored on disk: {:.0} us (median of {DELEGATIONS})", micros(median(&times)));
    let many = measure(&host, "agent: token, 101 delegations", token, body);
    println!("token beside {DELEGATIONS} more delegations: {:.2} of before", ratio(many, of_agent[1]));
}

fn request(name: &str, cgroup: &str) -> String {
    format!("{{\"name\":\"{name}\",\"cgroup\":\"{cgroup}\",\"ttl\":\"1h\"}}")
}

/// A process that ends with this value.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cgroups of this benchmark, in systemd's hierarchy too on hybrid hosts.
struct Cgroup {
    roots: Vec<PathBuf>,
    name: String,
}

impl Cgroup {
    fn create() -> Option<Cgroup> {
        let mounts =
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(PathBuf::from);
        let roots: Vec<PathBuf> =
            mounts.into_iter().filter(|mount| mount.join("cgroup.procs").exists()).collect();
        let name = format!("hostbadge-bench-{}", std::process::id());
        let cgroup = Cgroup { roots, name };
        let is_made =
            !cgroup.roots.is_empty() && cgroup.dirs("main").all(|dir| fs::create_dir_all(dir).is_ok());
        is_made.then_some(cgroup)
    }

    fn dirs(&self, below: &str) -> impl Iterator<Item = PathBuf> {
        let below = Path::new(&self.name).join(below);
        self.roots.clone().into_iter().map(move |root| root.join(&below))
    }

    /// Makes a cgroup; its path in the hierarchy.
    fn make(&self, below: &str) -> String {
        self.dirs(below).for_each(|dir| fs::create_dir_all(dir).expect("a cgroup"));
        format!("/{}/{below}", self.name)
    }

    /// Moves this process into a cgroup.
    fn enter(&self, below: &str) {
        let pid = std::process::id().to_string();
        self.dirs(below).for_each(|dir| fs::write(dir.join("cgroup.procs"), &pid).expect("a move"));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let pid = std::process::id().to_string();
        for root in &self.roots {
            let _ = fs::write(root.join("cgroup.procs"), &pid);
            let top = root.join(&self.name);
            for entry in fs::read_dir(&top).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            let _ = fs::remove_dir(top);
        }
    }
}
