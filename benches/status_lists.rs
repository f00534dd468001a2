//! Status lists with a million tokens: their size, the time to sign one, and what they cost in memory and at the
//! daemon's start.
//!
//! `cargo bench --bench status_lists` (or `make bench`). Writes the tokens into the database of a stopped daemon in
//! release mode, and calls the daemon over its sockets.

mod support;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use hostbadge::store::{StatusChange, StatusDatabase, StatusListRow, StatusSubjectRow, StatusTokenRow};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use support::{Client, Host, Journald, median, micros, percentile};

const TOKEN: &str = r#"{"audience":"https://api.example.com"}"#;
const TOKENS: u32 = 1_000_000;
/// Indices of the list.
const CAPACITY: u32 = 1 << 20;
/// Subjects that share the tokens, as of so many runs of units.
const SUBJECTS: u32 = 1_000;
const REVOKED: u32 = 100_000;
const CONNECTIONS: u32 = 64;
const ROUNDS: usize = 20;

fn main() {
    let _journald = Journald::ensure();
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(Host::start(dir.path()));
    let text = format!(
        "name = \"example\"\n[match]\nuser = {}\n[[grant]]\naudience = \"https://api.example.com\"\n\
         status_list = true\n",
        nix::unistd::geteuid()
    );
    std::fs::write(dir.path().join("etc/agents.d/example.toml"), text).expect("a file");
    let host = Host::start(dir.path());
    let (few, ready) = (host.resident(), host.ready_after());
    let claims = claims(&host);
    drop(host);
    let started = Instant::now();
    fill(dir.path(), &claims);
    println!("database of {TOKENS} tokens written in {:.1} s", started.elapsed().as_secs_f64());

    let host = Host::start_without_token(dir.path());
    println!(
        "start to ready              {:8.1} ms   without them {:.1} ms",
        micros(host.ready_after()) / 1e3,
        micros(ready) / 1e3
    );
    let started = Instant::now();
    let mut client = Client::connect(host.socket());
    while client.exchange("POST", "/v1/token", TOKEN).0 != 200 {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    println!("  the database is read after {:.1} ms more", micros(started.elapsed()) / 1e3);
    println!("memory for them             {:8.1} MB", host.resident().saturating_sub(few) as f64 / 1e6);
    let path = list_path(&claims);
    report_signing(&host, dir.path(), &path, "none revoked");
    revoke_many(dir.path());
    report_signing(&host, dir.path(), &path, "100,000 revoked");
}

/// The claims of a token.
fn claims(host: &Host) -> Value {
    let mut client = Client::connect(host.socket());
    let (status, body) = client.exchange("POST", "/v1/token", TOKEN);
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_slice(body).expect("JSON");
    let token = answer["access_token"].as_str().expect("a token");
    let part = |at: usize| {
        let part = token.split('.').nth(at).expect("a JWT");
        let bytes = BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64url");
        serde_json::from_slice::<Value>(&bytes).expect("JSON")
    };
    let mut claims = part(1);
    claims["kid"] = part(0)["kid"].clone();
    claims
}

fn list_path(claims: &Value) -> String {
    let uri = claims["status"]["status_list"]["uri"].as_str().expect("a status");
    uri.strip_prefix(claims["iss"].as_str().expect("an issuer")).expect("a list of the issuer").to_owned()
}

/// Fills the list of the token with a million tokens, as a daemon leaves it that has stopped.
fn fill(dir: &Path, claims: &Value) {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let number: u32 =
        list_path(claims).rsplit('/').next().and_then(|text| text.parse().ok()).expect("a number");
    let subject = |id: u32| StatusSubjectRow {
        id: id.into(),
        spiffe_id: text(&claims["sub"]),
        audiences: text(&claims["aud"]),
        kid: text(&claims["kid"]),
        invocation: Some(format!("{id:032x}")),
        epoch: claims["hostbadge"]["epoch"].as_u64().expect("an epoch"),
        match_tag: u32::from_str_radix(claims["hostbadge"]["match"].as_str().expect("a tag"), 16)
            .expect("a tag"),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
    let token = |n: u32| StatusTokenRow {
        list: number,
        // A permutation of the indices.
        index: n.wrapping_mul(0x9e37_79b1) % CAPACITY,
        key: digest(&SHA256, jti(n).as_bytes()).as_ref()[..16].try_into().expect("16 bytes"),
        expires: now + 3_500,
        subject: (n % SUBJECTS).into(),
    };
    let path = dir.join("state/status-lists.db");
    std::fs::remove_file(&path).expect("the database of the stopped daemon");
    let change = StatusChange {
        lists: vec![StatusListRow { number, tenant: None, capacity: CAPACITY, closed_at: None }],
        subjects: (0..SUBJECTS).map(subject).collect(),
        tokens: (0..TOKENS).map(token).collect(),
        forget: None,
        is_complete: true,
    };
    StatusDatabase::open_or_create(&path).expect("a database").store(&change).expect("a stored change");
}

fn jti(n: u32) -> String {
    format!("jti-{n}")
}

/// Revokes single tokens, and asks for the list after each.
fn report_signing(host: &Host, dir: &Path, path: &str, what: &str) {
    let mut control = Client::connect(&dir.join("run/admin.sock"));
    let mut client = Client::connect(host.socket());
    let mut size = ask(&mut client, path);
    let cpu = host.cpu();
    let mut times = Vec::new();
    for n in 0..ROUNDS {
        control.ask("POST", "/v1/revocations/revoke", &format!("{{\"jti\":\"other-{what}-{n}\"}}"));
        let started = Instant::now();
        size = ask(&mut client, path);
        times.push(started.elapsed());
    }
    let cpu = (host.cpu() - cpu) / ROUNDS as u32;
    println!("\n{TOKENS} tokens, {what}");
    println!(
        "  size                      {:8.1} KB   one bit for each index is {} KB",
        size as f64 / 1e3,
        CAPACITY / 8000
    );
    println!("  CPU to sign it            {:8.1} ms", micros(cpu) / 1e3);
    println!(
        "  revoked to served         {:8.1} ms   p99 {:.1} ms (aim: 1000 ms)",
        micros(median(&times)) / 1e3,
        micros(percentile(&times, 99)) / 1e3
    );
    let started = Instant::now();
    ask(&mut client, path);
    println!("  served again              {:8.2} ms", micros(started.elapsed()) / 1e3);
}

/// The size of the list.
fn ask(client: &mut Client, path: &str) -> usize {
    let (status, body) = client.exchange("GET", path, "");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(body));
    body.len()
}

fn revoke_many(dir: &Path) {
    let admin = dir.join("run/admin.sock");
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let admin = &admin;
            scope.spawn(move || {
                let mut control = Client::connect(admin);
                for n in (connection..REVOKED).step_by(CONNECTIONS as usize) {
                    let body = format!("{{\"jti\":\"{}\"}}", jti(n * (TOKENS / REVOKED)));
                    control.ask("POST", "/v1/revocations/revoke", &body);
                }
            });
        }
    });
}
