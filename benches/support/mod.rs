//! A daemon to measure, and an HTTP client with little overhead.

// Each benchmark uses a part of this.
#![allow(dead_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hostbadge::audit::{Audit, Journal};
use hostbadge::clock::Clock;
use hostbadge::config::{AuditSection, LogTarget};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

/// Requests of one measurement.
const MEASURED_REQUESTS: usize = 20_000;
const JOURNALD: &str = "/lib/systemd/systemd-journald";
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// A journald, started here if none runs.
pub struct Journald(Option<Child>);

impl Journald {
    pub fn ensure() -> Journald {
        if UnixStream::connect("/run/systemd/journal/stdout").is_ok() || !Path::new(JOURNALD).exists() {
            return Journald(None);
        }
        // As systemd sets it at boot. With the kernel's default of ten, journald and its clients would wait
        // for each other.
        let _ = std::fs::write("/proc/sys/net/unix/max_dgram_qlen", "512");
        let child = Command::new(JOURNALD).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok();
        let deadline = Instant::now() + Duration::from_secs(5);
        while UnixStream::connect("/run/systemd/journal/stdout").is_err() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Journald(child)
    }

    pub fn running(&self) -> bool {
        UnixDatagram::unbound().and_then(|client| client.connect(JOURNAL_SOCKET)).is_ok()
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A development host without effective rate limits.
pub struct Host {
    daemon: Child,
    socket: PathBuf,
    ready: Duration,
}

impl Host {
    pub fn start(dir: &Path) -> Host {
        let host = Host::start_without_token(dir);
        Client::connect(&host.socket).ask("POST", "/v1/token", r#"{"audience":"https://api.example.com"}"#);
        host
    }

    /// As [`Host::start`], without asking for a token.
    pub fn start_without_token(dir: &Path) -> Host {
        Host::start_with(dir, "")
    }

    /// As [`Host::start_without_token`], with further tables in the configuration.
    pub fn start_with(dir: &Path, tables: &str) -> Host {
        let etc = dir.join("etc");
        std::fs::create_dir_all(&etc).expect("a directory");
        let config = "[limits]\nrate = 10000000\nburst = 10000000\ntpm_rate = 10000000\ntpm_burst = 10000000\n\
            public_rate = 10000000\npublic_burst = 10000000\n[log]\nto = \"auto\"\n";
        std::fs::write(etc.join("hostbadged.toml"), format!("{config}{tables}")).expect("a file");
        let started = Instant::now();
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_hostbadged"))
            .arg("--dev")
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("hostbadged");
        let mut line = String::new();
        // The daemon prints a banner once it is ready.
        let stdout = daemon.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let ready = started.elapsed();
        let socket = dir.join("run/agent.sock");
        Host { daemon, socket, ready }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn ready_after(&self) -> Duration {
        self.ready
    }

    /// User and system time of the daemon so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.daemon.id())).expect("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        // USER_HZ is 100 on every Linux that Rust runs on.
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.daemon.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

/// An audit log in this directory, whose callers write their records; the entries of its journal are discarded, with all
/// that this process writes to standard error.
pub fn inline_audit(dir: &Path) -> Audit {
    let discard = File::options().write(true).open("/dev/null").expect("a device");
    nix::unistd::dup2_stderr(discard).expect("a descriptor");
    let journal = Journal::start(LogTarget::Stderr, Clock::System).expect("a journal");
    let audit = Audit::open(dir, AuditSection::default(), journal, Clock::System).expect("a log");
    audit.with_inline_writes()
}

/// One kept-alive connection.
pub struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Client {
    pub fn connect(socket: &Path) -> Client {
        Client {
            stream: UnixStream::connect(socket).expect("the socket"),
            request: Vec::new(),
            reply: vec![0; 262_144],
        }
    }

    /// Waits by poll(2), as curl, Node, Go and Python do. A blocked read(2) would also be woken when the
    /// daemon reads the request, and that costs time of the daemon.
    fn wait(&self) {
        let mut polled = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut polled, PollTimeout::from(10_000u16)).expect("poll");
        assert!(ready > 0, "no answer within 10 s");
    }

    /// Sends a request and reads the response; a denied token or certificate ends the benchmark.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) {
        let (status, answer) = self.exchange(method, path, body);
        assert!(status == 200 || path == "/v1/none", "{path}: {status} {}", String::from_utf8_lossy(answer));
    }

    /// Sends a request, and returns the status and the body of the response.
    pub fn exchange(&mut self, method: &str, path: &str, body: &str) -> (u16, &[u8]) {
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nhost: l\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("a buffer");
        self.stream.write_all(&self.request).expect("sent");
        let mut length = 0;
        loop {
            self.wait();
            let read = self.stream.read(&mut self.reply[length..]).expect("a reply");
            assert!(read > 0, "the daemon hung up");
            length += read;
            let text = &self.reply[..length];
            let Some(head) = text.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
            let lower = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
            let body = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let body: usize = body.and_then(|n| n.trim().parse().ok()).expect("a length");
            if length >= head + 4 + body {
                let status =
                    lower.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
                return (status, &self.reply[head + 4..head + 4 + body]);
            }
        }
    }
}

/// The median.
pub fn median(times: &[Duration]) -> Duration {
    percentile(times, 50)
}

pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * percent / 100]
}

/// The processor time of a P-256 signature, as the median of batches. Other processes of the machine do not
/// count, as they do not in the daemon's processor time, with which it is compared.
pub fn raw_signature() -> Duration {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
        .expect("a key");
    let text = [7; 700];
    let batches: Vec<Duration> = (0..50)
        .map(|_| {
            let started = thread_cpu();
            for _ in 0..200 {
                std::hint::black_box(key.sign(&random, &text).expect("a signature"));
            }
            (thread_cpu() - started) / 200
        })
        .collect();
    median(&batches)
}

/// Processor time of this thread so far.
pub fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock").into()
}

pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

pub fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

/// Prints the times of a request over one connection, and returns the daemon's processor time for each.
pub fn measure(host: &Host, name: &str, (method, path): (&str, &str), body: &str) -> Duration {
    let mut client = Client::connect(host.socket());
    for _ in 0..200 {
        client.ask(method, path, body);
    }
    let before = host.cpu();
    let times: Vec<Duration> = (0..MEASURED_REQUESTS)
        .map(|_| {
            let started = Instant::now();
            client.ask(method, path, body);
            started.elapsed()
        })
        .collect();
    let used = (host.cpu() - before) / MEASURED_REQUESTS as u32;
    println!(
        "{name:<28}{:8.1} us   p99 {:.1} us   daemon's CPU {:.1} us",
        micros(median(&times)),
        micros(percentile(&times, 99)),
        micros(used)
    );
    used
}
