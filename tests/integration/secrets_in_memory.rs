//! Secrets that the daemon has answered, or received, are in none of its memory afterwards.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use data_encoding::BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::common::callers::{Credentials, NOBODY, Unit};
use crate::common::grpc::{
    Empty, Grpc, JwtRequest, JwtResponse, MESSAGE_TIMEOUT, WitRequest, WitResponse, X509Response,
};
use crate::common::http::{Response, request};
use crate::common::{API, Host, until};

/// A secret in the forms in which the daemon may keep it.
struct Secret {
    what: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn text(what: &'static str, text: &str) -> Secret {
        Secret { what, forms: vec![text.as_bytes().to_vec()] }
    }

    /// A P-256 key as PKCS#8 in DER: as it is, in base64, and its scalar.
    fn key(what: &'static str, der: &[u8]) -> Secret {
        // ECPrivateKey (RFC 5915) begins with version 1 and an octet string of 32 bytes.
        let head = [0x02, 0x01, 0x01, 0x04, 0x20];
        let start = der.windows(5).position(|window| window == head).expect("an ECPrivateKey") + 5;
        // The text of PEM has lines of 64 characters. The first of them are the same for each key.
        let base64 = BASE64.encode(der).as_bytes()[64..112].to_vec();
        Secret { what, forms: vec![der.to_vec(), base64, der[start..start + 32].to_vec()] }
    }
}

fn der_of_pem(pem: &str) -> Vec<u8> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64.decode(lines.as_bytes()).unwrap()
}

/// Where `form` begins in `bytes`.
fn positions(bytes: &[u8], form: &[u8]) -> Vec<usize> {
    let (mut found, mut from) = (Vec::new(), 0);
    loop {
        let rest = &bytes[from..];
        // SAFETY: both pointers are valid for reads of their lengths.
        let at = unsafe { libc::memmem(rest.as_ptr().cast(), rest.len(), form.as_ptr().cast(), form.len()) };
        if at.is_null() {
            return found;
        }
        let at = at as usize - bytes.as_ptr() as usize;
        found.push(at);
        from = at + 1;
    }
}

/// The mappings of the daemon that have a form of the secret.
fn places(host: &Host, secret: &Secret) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", host.pid())).unwrap();
    let memory = File::open(format!("/proc/{}/mem", host.pid())).unwrap();
    let mut found = Vec::new();
    for mapping in maps.lines() {
        let fields: Vec<&str> = mapping.split_whitespace().collect();
        let (start, end) = fields[0].split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        if !fields[1].starts_with("rw") {
            continue;
        }
        let mut bytes = vec![0; (end - start) as usize];
        // Guard pages and device memory cannot be read.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for (index, form) in secret.forms.iter().enumerate() {
            for at in positions(&bytes, form) {
                let name = fields.get(5).unwrap_or(&"anonymous");
                found.push(format!("form {index} in {name} of {} KiB at {at:#x}", (end - start) / 1024));
            }
        }
    }
    found
}

/// Waits until no secret is in the daemon's memory: a worker closes a connection a moment after its client.
#[track_caller]
fn assert_forgotten(host: &Host, secrets: &[Secret]) {
    for secret in secrets {
        let mut found = places(host, secret);
        for _ in 0..50 {
            if found.is_empty() {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(100));
            found = places(host, secret);
        }
        assert!(found.is_empty(), "{}: {found:#?}", secret.what);
    }
}

/// Checks that the search finds what the daemon has: a body that has not arrived completely. Otherwise a
/// search that reads nothing would find no secret either.
#[track_caller]
fn assert_search_finds(host: &Host) {
    // As long as a token, and the bytes of a key.
    let text = Secret::text("text of a body", &format!("search-control-{}", "x1y2z3".repeat(40)));
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let key = Secret::key("a key in a body", pkcs8.as_ref());
    let body: Vec<u8> = text.forms.iter().chain(&key.forms).flatten().copied().collect();
    let mut connection = host.connect();
    let head = "POST /v1/introspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    connection.send(format!("{head}Content-Length: {}\r\n\r\n", body.len() + 1).as_bytes()).unwrap();
    connection.send(&body).unwrap();
    for secret in [&text, &key] {
        for (index, form) in secret.forms.iter().enumerate() {
            let one = Secret { what: secret.what, forms: vec![form.clone()] };
            until(&format!("form {index} of {} is found", secret.what), || {
                (!places(host, &one).is_empty()).then_some(())
            });
        }
    }
    drop(connection);
    assert_forgotten(host, &[text, key]);
}

#[test]
fn tokens_and_keys_of_the_agent_socket_are_forgotten() {
    let host = Host::started();
    assert_search_finds(&host);
    let mut secrets = Vec::new();
    for _ in 0..8 {
        let token = host.token();
        host.introspect(&token);
        secrets.push(Secret::text("an access token", &token));
        let response = host.post("/v1/certificate", json!({}));
        assert_eq!(response.status, 200, "{}", response.text());
        let pem = response.json()["private_key"].as_str().unwrap().to_owned();
        secrets.push(Secret::key("the key of a certificate", &der_of_pem(&pem)));
    }
    let foreign = format!("{}.{}.{}", "A".repeat(40), "B".repeat(4000), "C".repeat(86));
    host.introspect(&foreign);
    secrets.push(Secret::text("a token that is not of this host", &foreign));
    assert_forgotten(&host, &secrets);
}

#[test]
fn recovery_keys_are_forgotten() {
    let host = Host::started();
    assert_search_finds(&host);
    let answer = host.admin().post("/v1/keys/recovery", &json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let key = answer.json()["recovery_key"].as_str().unwrap().to_owned();
    let wrong = format!("hbr1-{}", "abcdefgh".repeat(7));
    for (sent, status) in [(&wrong, 400), (&key, 200), (&key, 200)] {
        let confirmed = host.admin().post("/v1/keys/recovery/confirm", &json!({ "recovery_key": sent }));
        assert_eq!(confirmed.status, status, "{}", confirmed.text());
    }
    // The daemon refuses it, because nothing is to be recovered.
    let refused = host.admin().post("/v1/keys/recover", &json!({ "recovery_key": key }));
    assert_eq!(refused.status, 409, "{}", refused.text());
    let refused = host.admin().post("/v1/keys/recover", &json!({ "recovery_key": wrong }));
    assert!(refused.status >= 400, "{}", refused.text());
    assert_forgotten(
        &host,
        &[
            Secret::text("a recovery key", &key),
            Secret::text("a recovery key without its prefix", key.trim_start_matches("hbr1-")),
            Secret::text("a wrong recovery key", &wrong),
        ],
    );
}

#[test]
fn tokens_and_keys_of_the_workload_socket_are_forgotten() {
    let host = Host::started();
    assert_search_finds(&host);
    let mut secrets = Vec::new();
    let client = Grpc::connect(&host.workload_socket());
    let request = JwtRequest { audience: vec![API.to_owned()], spiffe_id: String::new() };
    let jwt: JwtResponse = client.unary("FetchJWTSVID", &request).unwrap();
    secrets.push(Secret::text("a JWT-SVID", &jwt.svids[0].svid));
    let mut call = client.stream("FetchX509SVID", &Empty {}).unwrap();
    let x509: X509Response = until("an X509-SVID", || client.next(&mut call, MESSAGE_TIMEOUT)).unwrap();
    secrets.push(Secret::key("the key of an X509-SVID", &x509.svids[0].x509_svid_key));
    drop(call);
    let mut call = client.stream("FetchWITSVID", &WitRequest::default()).unwrap();
    let wit: WitResponse = until("a WIT-SVID", || client.next(&mut call, MESSAGE_TIMEOUT)).unwrap();
    let jwk: serde_json::Value = serde_json::from_str(&wit.svids[0].wit_svid_key).unwrap();
    let scalar = data_encoding::BASE64URL_NOPAD.decode(jwk["d"].as_str().unwrap().as_bytes()).unwrap();
    secrets.push(Secret {
        what: "the key of a WIT-SVID",
        forms: vec![scalar, jwk["d"].as_str().unwrap().as_bytes().to_vec()],
    });
    drop((call, client));
    assert_forgotten(&host, &secrets);
}

#[test]
fn opened_credentials_are_forgotten() {
    let host = Host::started();
    assert_search_finds(&host);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let requested = host.hostbadge(&["enroll", "request", "--output", &path("request")]);
    assert!(requested.status.success(), "{requested:?}");
    let request: serde_json::Value = serde_json::from_slice(&fs::read(path("request")).unwrap()).unwrap();
    let ek = BASE64.decode(request["evidence"]["ek"].as_str().unwrap().as_bytes()).unwrap();
    let ak = host.status()["tpm"]["ak_name"].as_str().unwrap().to_owned();
    let secret = b"what only the TPM gives out";
    fs::write(path("ek.pub"), ek).unwrap();
    fs::write(path("secret"), secret).unwrap();
    let made = Command::new("tpm2_makecredential")
        .args(["--tcti", "none", "-u", &path("ek.pub"), "-s", &path("secret"), "-n", &ak])
        .args(["-o", &path("credential")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let opened = host.hostbadge(&["enroll", "activate", "--credential", &path("credential"), "--ek", "ecc"]);
    assert_eq!(opened.stdout.trim_ascii(), secret, "{opened:?}");
    let forms = vec![secret.to_vec(), BASE64.encode(secret).into_bytes()];
    assert_forgotten(&host, &[Secret { what: "the secret of a credential", forms }]);
}

/// Waits until nothing is left of a secret in any file that the daemon wrote.
#[track_caller]
fn assert_in_no_file(host: &Host, secrets: &[Secret]) {
    let mut dirs = vec![host.path("")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                let content = fs::read(entry.path()).unwrap();
                for secret in secrets {
                    let found = secret.forms.iter().any(|form| !positions(&content, form).is_empty());
                    assert!(!found, "{} is in {}", secret.what, entry.path().display());
                }
            }
        }
    }
    let log = host.log();
    for form in secrets.iter().flat_map(|secret| &secret.forms) {
        assert!(positions(log.as_bytes(), form).is_empty(), "the daemon's output has a secret");
    }
}

/// Values of several sizes that no other text has a part of. Their lengths leave 11 to 15 bytes for the last
/// block of a cipher.
struct Values(Vec<String>);

impl Values {
    fn new(what: &str) -> Values {
        let value = |length: usize| {
            let digest = hex_digest(&format!("{what} {length}"));
            let mut text = String::new();
            while text.len() < length {
                text += &format!("{what}-{length}-{:05};", text.len());
            }
            text.truncate(length - LAST_LEN);
            text + &digest[..LAST_LEN]
        };
        Values([12, 43, 299, 1_515, 3_003, 8_107, 20_012, 65_535].map(value).into())
    }

    /// With pieces of them as forms: a buffer may keep the beginning, the end or the middle.
    fn secrets(&self) -> Vec<Secret> {
        let pieces = |value: &String| {
            let bytes = value.as_bytes();
            let last = bytes.len().saturating_sub(32);
            let mut pieces: Vec<Vec<u8>> =
                [0, last / 2, last].map(|start| bytes[start..(start + 32).min(bytes.len())].to_vec()).into();
            pieces.push(bytes[bytes.len() - LAST_LEN..].to_vec());
            pieces
        };
        let secret = |value| Secret { what: "the value of a credential", forms: pieces(value) };
        self.0.iter().map(secret).collect()
    }
}

/// Bytes at the end of a value that are in no other one.
const LAST_LEN: usize = 11;

fn hex_digest(text: &str) -> String {
    data_encoding::HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}

/// A host on which every process of root, and the unit, may have the credentials `c0`, `c1` and so on.
fn credential_host(unit: &Unit, count: usize) -> Host {
    let mut host = Host::new();
    let tables: String =
        (0..count).map(|n| format!("[[credential]]\nname = \"c{n}\"\nuse = \"release\"\n")).collect();
    host.agents_file("root", &format!("name = \"root\"\n[match]\nuser = 0\n{tables}"));
    host.agents_file("unit", &format!("name = \"unit\"\n[match]\nunit = \"{}\"\n{tables}", unit.name));
    host.start();
    host
}

#[test]
fn values_of_sealed_credentials_are_forgotten_while_connections_stay_open() {
    let unit = Unit::new("forgetting");
    let (first, second, refused) = (Values::new("first"), Values::new("second"), Values::new("refused"));
    let host = credential_host(&unit, first.0.len());
    assert_search_finds(&host);
    // Administrators and agents keep their connections until the end, where they may.
    let (mut admins, mut agents) = (Vec::new(), Vec::new());
    let mut admin = |path: &str, body: serde_json::Value, status: u16| {
        let mut connection = host.admin();
        let response = connection.post(path, &body);
        assert_eq!(response.status, status, "{}", response.text());
        admins.push(connection);
    };
    for (index, (first, second)) in first.0.iter().zip(&second.0).enumerate() {
        let name = format!("c{index}");
        let released = |response: Response, expected: &str| {
            assert_eq!(response.status, 200, "{}", response.text());
            assert!(response.json()["value"] == expected);
        };
        admin("/v1/credentials/put", json!({ "name": name, "value": first }), 200);
        let mut agent = host.connect();
        for _ in 0..3 {
            released(agent.post("/v1/credential", &json!({ "name": name })), first);
        }
        admin("/v1/credentials/rotate", json!({ "name": name, "value": second, "overlap": 60 }), 200);
        // Pipelined: both versions are requested before the first reply is read.
        let body = |version: u32| json!({ "name": name, "version": version }).to_string();
        let request =
            |version| request("POST", "/v1/credential", Some("application/json"), body(version).as_bytes());
        agent.send(&[request(1), request(2), request(1)].concat()).unwrap();
        for expected in [first, second, first] {
            released(agent.read_response().expect("a response"), expected);
        }
        agents.push(agent);
        let loaded = host.load(&Credentials::root().in_unit(&unit), &unit.name, &name);
        assert!(loaded == second.as_bytes(), "{} bytes", loaded.len());
    }
    // What is refused was in memory too.
    for (index, value) in refused.0.iter().enumerate() {
        let name = format!("c{index}");
        admin("/v1/credentials/put", json!({ "name": name, "value": value }), 409);
        admin("/v1/credentials/rotate", json!({ "name": "absent", "value": value }), 422);
        admin("/v1/credentials/put", json!({ "name": "NO", "value": value }), 400);
        admin("/v1/credentials/put", json!({ "name": name, "value": value, "typo": 1 }), 400);
    }
    let secrets: Vec<Secret> =
        [&first, &second, &refused].into_iter().flat_map(|values| values.secrets()).collect();
    assert_forgotten(&host, &secrets);
    assert_in_no_file(&host, &secrets);
    // The connections of agents are usable still.
    for agent in &mut agents {
        assert_eq!(agent.get("/v1/whoami").status, 200);
    }
    for index in 0..first.0.len() {
        admin("/v1/credentials/remove", json!({ "name": format!("c{index}") }), 200);
    }
    assert_forgotten(&host, &secrets);
    drop((admins, agents));
    assert_forgotten(&host, &secrets);
    assert_in_no_file(&host, &secrets);
}

#[test]
fn a_value_that_its_caller_does_not_read_is_forgotten_when_the_connection_ends() {
    let unit = Unit::new("unread");
    let values = Values::new("unread");
    let host = credential_host(&unit, values.0.len());
    for (index, value) in values.0.iter().enumerate() {
        let stored =
            host.admin().post("/v1/credentials/put", &json!({ "name": format!("c{index}"), "value": value }));
        assert_eq!(stored.status, 200, "{}", stored.text());
    }
    let released = || host.audit().iter().filter(|line| line["event"] == "credential-released").count();
    // More replies than the kernel buffers, none of which is read.
    let mut connections = Vec::new();
    for index in 0..values.0.len() {
        let mut connection = host.connect();
        let body = json!({ "name": format!("c{index}") }).to_string();
        let one = request("POST", "/v1/credential", Some("application/json"), body.as_bytes());
        connection.send(&one.repeat(12)).unwrap();
        connections.push(connection);
    }
    until("replies are made", || (released() >= values.0.len()).then_some(()));
    drop(connections);
    assert_forgotten(&host, &values.secrets());
    // A request that ends in the middle of a value.
    let cut = Values::new("cut");
    for value in &cut.0 {
        let body = json!({ "name": "cut", "value": value }).to_string();
        let mut whole = request("POST", "/v1/credentials/put", Some("application/json"), body.as_bytes());
        whole.truncate(whole.len() - 5);
        let mut connection = host.admin();
        connection.send(&whole).unwrap();
        drop(connection);
    }
    assert_forgotten(&host, &cut.secrets());
    assert_in_no_file(&host, &cut.secrets());
}

/// What another process of the daemon's own user tries with its memory.
const TRACER: &str = "
import ctypes, os, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, call):
    try:
        result = call()
    except OSError as e:
        result = -e.errno
    print(what, result, flush=True)
def ptrace(request):
    ctypes.set_errno(0)
    result = libc.ptrace(request, pid, 0, 0)
    return -ctypes.get_errno() if result == -1 else result
attempt('attach', lambda: ptrace(16))
attempt('seize', lambda: ptrace(0x4206))
attempt('mem', lambda: os.open(f'/proc/{pid}/mem', os.O_RDONLY))
attempt('environ', lambda: os.open(f'/proc/{pid}/environ', os.O_RDONLY))
attempt('fd', lambda: len(os.listdir(f'/proc/{pid}/fd')))
class iovec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
def process_vm_readv():
    buffer = ctypes.create_string_buffer(16)
    local = iovec(ctypes.addressof(buffer), 16)
    remote = iovec(0x400000, 16)
    ctypes.set_errno(0)
    result = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return -ctypes.get_errno() if result == -1 else result
attempt('readv', process_vm_readv)
";

#[test]
fn the_daemons_own_user_cannot_read_its_memory_and_no_core_has_it() {
    let mut host = Host::new();
    let dir = host.path("");
    let chown = Command::new("chown").args(["-R", &NOBODY.to_string()]).arg(&dir).status().unwrap();
    assert!(chown.success());
    let user = NOBODY.to_string();
    let drop_privileges =
        ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps=-all", "--"];
    host.start.wrapper = drop_privileges.map(str::to_owned).into();
    host.start();
    let pid = host.pid().to_string();
    let mut tracer = Command::new("python3");
    tracer.args(["-c", TRACER, &pid]);
    Credentials::user(NOBODY).apply_to(&mut tracer);
    let said = tracer.output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let (denied, hidden) = (-libc::EPERM, -libc::EACCES);
    let expected = format!(
        "attach {denied}\nseize {denied}\nmem {hidden}\nenviron {hidden}\nfd {hidden}\nreadv {denied}\n"
    );
    assert_eq!(said, expected);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    // The kernel writes no core of a process that is not dumpable, also not to a program.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(!status.contains("CoreDumping:\t1"), "{status}");
}

#[test]
fn memory_of_the_daemon_is_locked() {
    let host = Host::started();
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", host.pid())).unwrap();
    // Each writable mapping of memory has the flag "lo"; the stack and the heap are among them.
    let mut heading = "";
    let (mut checked, mut unlocked) = (Vec::new(), Vec::new());
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let mode = heading.split(' ').nth(1).unwrap_or_default();
            let is_memory = mode.starts_with("rw") && mode.ends_with('p');
            if is_memory {
                checked.push(heading.to_owned());
                if !flags.split_whitespace().any(|flag| flag == "lo") {
                    unlocked.push(heading.to_owned());
                }
            }
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            heading = line;
        }
    }
    assert!(checked.iter().any(|heading| heading.ends_with("[heap]")), "{checked:#?}");
    assert!(checked.iter().any(|heading| heading.ends_with("[stack]")), "{checked:#?}");
    assert!(unlocked.is_empty(), "{unlocked:#?}");
}

#[test]
fn the_command_leaves_no_core_dump() {
    let host = Host::started();
    let mut command = Command::new(crate::common::program("hostbadge"));
    command.args(["credential", "put", "c"]).env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("the limit is set", || {
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).ok()?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size"))?.to_owned();
        (core.split_whitespace().skip(4).take(2).collect::<Vec<_>>() == ["0", "0"]).then_some(())
    });
    // The end of its input ends the command.
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
}
