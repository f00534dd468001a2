//! TPM operations beside the same commands of tpm2-tools, on the same software TPM in the same run.
//!
//! `cargo bench --bench tpm` (or `make bench`). A tool is a process that starts, connects, loads a saved
//! context and executes one command, as in a script. The TPM module loads the key below the SRK each time, in
//! a salted and encrypted session.

mod support;

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hostbadge::tpm::{Error, RsaKeyBlob, SoftwareTpm, Tpm, TpmConfig, TpmObjects};
use zeroize::Zeroizing;

use support::{Client, Host, median, percentile};

const TIMES: usize = 50;
/// How often keys are created, which takes longer.
const KEY_TIMES: usize = 5;

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let software = SoftwareTpm::start(&dir.path().join("tpm")).expect("swtpm");
    println!("commands                        ours, p50      tpm2-tools, p50   ratio");
    let ours = Ours::measure(&software);
    let tools = Tools { dir: dir.path(), tcti: software.tcti().to_string() };
    tools.prepare();
    tools.compare(
        "sign, ES256",
        ours.host_sign,
        &["tpm2_sign", "-c", "ec.ctx", "-g", "sha256", "-o", "s", "m"],
    );
    tools.compare(
        "sign, RS256",
        ours.rsa_sign,
        &["tpm2_sign", "-c", "rsa.ctx", "-g", "sha256", "-o", "s", "m"],
    );
    let quote = "tpm2_quote -c ak.ctx -l sha256:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14 -m q -s s -q abcd";
    tools.compare("quote, with PCRs read", ours.attest, &quote.split(' ').collect::<Vec<_>>());
    tools.compare("seal", ours.seal, &["tpm2_create", "-C", "srk.ctx", "-i", "kek", "-u", "x", "-r", "y"]);
    tools.compare("unseal", ours.unseal, &["tpm2_unseal", "-c", "sealed.ctx", "-o", "kek2"]);
    let certify = "tpm2_certify -c ec.ctx -C ak.ctx -g sha256 -o a -s s".split(' ').collect::<Vec<_>>();
    tools.compare("certify", ours.certify, &certify);
    tools.compare("provision: certify and more", ours.provision, &certify);
    let create =
        "tpm2_create -C srk.ctx -G rsa2048:rsassa-sha256:null -u x -r y".split(' ').collect::<Vec<_>>();
    tools.compare("make and certify RSA key", ours.make_rsa_key, &create);
    let tool = [
        tools.time(&["tpm2_sign", "-c", "ec.ctx", "-g", "sha256", "-o", "s", "m"]),
        tools.time(&["tpm2_sign", "-c", "rsa.ctx", "-g", "sha256", "-o", "s", "m"]),
    ];
    software.stop().expect("swtpm ends");
    tokens(tool, [ours.host_sign, ours.rsa_sign]);
    starts();
}

/// The median of each operation of the TPM module.
struct Ours {
    host_sign: Duration,
    rsa_sign: Duration,
    attest: Duration,
    seal: Duration,
    unseal: Duration,
    certify: Duration,
    provision: Duration,
    make_rsa_key: Duration,
}

impl Ours {
    fn measure(software: &SoftwareTpm) -> Ours {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // A new connection for each provisioning, since one connection provisions once.
        let mut provisioned: Vec<(Duration, TpmObjects)> = (0..KEY_TIMES)
            .map(|_| {
                let tpm = open(software, None);
                let provisioned = runtime.block_on(async {
                    tpm.info().await.expect("a TPM");
                    let started = Instant::now();
                    let objects = tpm.provision().await.expect("keys");
                    (started.elapsed(), objects)
                });
                assert!(tpm.shutdown());
                provisioned
            })
            .collect();
        let (_, objects) = provisioned.pop().expect("one");
        let provision = median(&provisioned.iter().map(|(took, _)| *took).collect::<Vec<_>>());
        let tpm = open(software, Some(objects));
        let ours = runtime.block_on(async {
            let mut took = Vec::new();
            let mut key = None;
            for _ in 0..KEY_TIMES {
                let started = Instant::now();
                key = Some(Arc::new(tpm.create_rsa_key().await.expect("an RSA key")));
                took.push(started.elapsed());
            }
            let key: Arc<RsaKeyBlob> = key.expect("one");
            let (sealed, _) = tpm.seal(secret(), None).await.expect("sealed");
            Ours {
                host_sign: each(|| tpm.host_sign([7; 32])).await,
                rsa_sign: each(|| tpm.rsa_sign(key.clone(), [7; 32])).await,
                attest: each(|| tpm.attest((0..15).collect(), vec![7; 32])).await,
                seal: each(|| tpm.seal(secret(), None)).await,
                unseal: each(|| tpm.unseal(sealed.clone(), None)).await,
                certify: each(|| tpm.check_certification()).await,
                provision,
                make_rsa_key: median(&took),
            }
        });
        assert!(tpm.shutdown());
        ours
    }
}

fn open(software: &SoftwareTpm, stored: Option<TpmObjects>) -> Tpm {
    let config = TpmConfig {
        tcti: software.tcti(),
        allow_emulator: true,
        deadline: Duration::from_secs(60),
        ..TpmConfig::default()
    };
    Tpm::open(config, stored).expect("the TPM's thread")
}

fn secret() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(vec![7; 32])
}

async fn each<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> Duration {
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let started = Instant::now();
        call().await.map(drop).expect("a result");
        times.push(started.elapsed());
    }
    median(&times)
}

/// tpm2-tools, run in a directory with their files.
struct Tools<'a> {
    dir: &'a Path,
    tcti: String,
}

impl Tools<'_> {
    /// Creates keys of the same types as the module's, and saves their contexts.
    fn prepare(&self) {
        std::fs::write(self.dir.join("m"), [7; 700]).expect("a file");
        std::fs::write(self.dir.join("kek"), [7; 32]).expect("a file");
        self.run(&"tpm2_createprimary -C o -G ecc256:aes128cfb -c srk.ctx".split(' ').collect::<Vec<_>>());
        let signs = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign";
        let restricted = format!("{signs}|restricted");
        for (name, kind, attributes) in [
            ("ec", "ecc256:ecdsa-sha256:null", signs),
            ("rsa", "rsa2048:rsassa-sha256:null", signs),
            ("ak", "ecc256:ecdsa-sha256:null", &restricted),
        ] {
            self.run(&["tpm2_create", "-C", "srk.ctx", "-G", kind, "-a", attributes, "-u", "u", "-r", "r"]);
            self.load(name);
        }
        self.run(&["tpm2_create", "-C", "srk.ctx", "-i", "kek", "-u", "u", "-r", "r"]);
        self.load("sealed");
    }

    fn load(&self, name: &str) {
        self.run(&["tpm2_load", "-C", "srk.ctx", "-u", "u", "-r", "r", "-c", &format!("{name}.ctx")]);
    }

    fn compare(&self, what: &str, ours: Duration, command: &[&str]) {
        let theirs = self.time(command);
        println!(
            "{what:<28} {:10.1} ms {:14.1} ms {:9.2}   {}",
            millis(ours),
            millis(theirs),
            ratio(ours, theirs),
            command[0]
        );
    }

    fn time(&self, command: &[&str]) -> Duration {
        let times: Vec<Duration> = (0..TIMES / 2).map(|_| self.run(command)).collect();
        median(&times)
    }

    /// The time of a command. Flushing its transient objects is not included.
    fn run(&self, words: &[&str]) -> Duration {
        let started = Instant::now();
        self.succeed(words);
        let took = started.elapsed();
        self.succeed(&["tpm2_flushcontext", "-t"]);
        took
    }

    fn succeed(&self, words: &[&str]) {
        let output = Command::new(words[0])
            .args(&words[1..])
            .current_dir(self.dir)
            .env("TPM2TOOLS_TCTI", &self.tcti)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}", words[0]));
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Token requests over the agent socket, one after the other, beside the tool's and the module's signatures.
fn tokens(tool: [Duration; 2], module: [Duration; 2]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    register(dir.path());
    let host = Host::start(dir.path());
    println!("tokens, serial                        p50            p99    TPM module   tpm2_sign");
    for (at, (name, audience)) in
        [("ES256", "https://hard"), ("RS256", "https://rsa")].into_iter().enumerate()
    {
        let body = format!("{{\"audience\":\"{audience}\"}}");
        let mut client = Client::connect(host.socket());
        let times: Vec<Duration> = (0..TIMES * 2)
            .map(|_| {
                let started = Instant::now();
                client.ask("POST", "/v1/token", &body);
                started.elapsed()
            })
            .collect();
        let p50 = median(&times);
        println!(
            "token by the TPM, {name:<10} {:10.1} ms {:11.1} ms {:13.2} {:11.2}",
            millis(p50),
            millis(percentile(&times, 99)),
            ratio(p50, module[at]),
            ratio(p50, tool[at])
        );
    }
}

/// Registers an agent with grants for keys of the TPM, before the first start, which creates the RSA key.
fn register(dir: &Path) {
    let agents = dir.join("etc/agents.d");
    std::fs::create_dir_all(&agents).expect("a directory");
    let mut file = std::fs::File::create(agents.join("example.toml")).expect("a file");
    write!(
        file,
        "name = \"example\"\n[match]\nuser = {}\n\
         [[grant]]\naudience = \"https://api.example.com\"\n\
         [[grant]]\naudience = \"https://hard\"\nassurance = \"tpm\"\n\
         [[grant]]\naudience = \"https://rsa\"\nalg = \"RS256\"\n",
        nix::unistd::geteuid()
    )
    .expect("written");
    drop(file);
    // The next start loads the key.
    let host = Host::start(dir);
    let key = dir.join("state/rsa.json");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !key.exists() {
        assert!(Instant::now() < deadline, "no RSA key");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    drop(host);
}

/// The time of a start with 0, 1 and 100 retired keys, with the start of the software TPM.
fn starts() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut host = Some(Host::start(dir.path()));
    let mut retired = 0;
    let mut first = None;
    println!("start to ready                        p50");
    for wanted in [0, 1, 100] {
        let running = host.take().unwrap_or_else(|| Host::start(dir.path()));
        let mut admin = Client::connect(&dir.path().join("run/admin.sock"));
        while retired < wanted {
            admin.ask("POST", "/v1/keys/rotate", "{\"now\":true}");
            retired += 1;
        }
        drop(running);
        let ready: Vec<Duration> = (0..KEY_TIMES).map(|_| Host::start(dir.path()).ready_after()).collect();
        let p50 = median(&ready);
        let first = *first.get_or_insert(p50);
        println!(
            "{wanted:3} retired keys             {:10.1} ms {:9.2} of the first",
            millis(p50),
            ratio(p50, first)
        );
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}
