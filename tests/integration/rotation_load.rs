//! Keys rotate while clients mint and verify: no request is refused, and no verification fails.
//!
//! A client verifies as a relying party does: it keeps the key set, and fetches it again only when it does not have
//! the key of a token. It also keeps tokens, which have to verify for as long as they live.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::http::{Connection, part};
use crate::common::{API, Host, until_true};
use hostbadge::clock::Clock;
use hostbadge::verify::{Expectation, Jwks, verify_access_token};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::{Value, json};

/// The audience of tokens that the TPM signs with the RSA key.
const RSA: &str = "https://rsa.example.com";
/// Clients at once.
const CLIENTS: usize = 50;
/// Tokens that a client keeps and verifies again.
const KEPT_TOKENS: usize = 8;
/// How often each key rotates at least, however busy the machine is.
const MIN_ROTATIONS: usize = 3;
/// How much longer than planned that may take.
const MAX_DELAY: Duration = Duration::from_secs(120);
/// Between two rounds of a client, so that two processors are not busy with clients alone.
const PAUSE: Duration = Duration::from_millis(100);

/// What the clients share.
struct Load {
    agent_socket: PathBuf,
    stop: AtomicBool,
    /// The latest version of the credential that is stored.
    credential: AtomicU64,
    minted: AtomicU64,
    verified: AtomicU64,
    fetched: AtomicU64,
}

/// An issuer, as the relying party of one audience knows it.
struct Issuer {
    agent: &'static str,
    audience: &'static str,
    /// In how many rounds of a client one token is minted: a TPM signs some tokens a second.
    every: usize,
    jwks: &'static str,
    keys: Jwks,
    tokens: Vec<String>,
}

struct Client {
    load: Arc<Load>,
    connection: Connection,
    issuers: [Issuer; 3],
}

impl Client {
    fn new(load: Arc<Load>) -> Client {
        let (own, theirs) = ("/.well-known/jwks.json", "/tenant/acme/.well-known/jwks.json");
        let issuer = |agent, audience, every, jwks| {
            let keys = Jwks { keys: Vec::new() };
            Issuer { agent, audience, every, jwks, keys, tokens: Vec::new() }
        };
        let issuers =
            [issuer("own", API, 1, own), issuer("theirs", API, 1, theirs), issuer("own", RSA, 16, own)];
        Client { connection: Connection::open(&load.agent_socket), load, issuers }
    }

    fn run(mut self) {
        for round in 0.. {
            if self.load.stop.load(Ordering::Relaxed) {
                return;
            }
            for at in 0..self.issuers.len() {
                let every = self.issuers[at].every;
                if round % every == 0 {
                    self.mint_and_verify(at, round / every);
                }
            }
            if round % 4 == 0 {
                self.check_credential();
            }
            // Seldom, because an agent has a bounded number of unexpired certificates.
            if round % 16 == 0 {
                self.check_certificate();
            }
            thread::park_timeout(PAUSE);
        }
    }

    fn mint_and_verify(&mut self, at: usize, round: usize) {
        let body = json!({ "audience": self.issuers[at].audience, "agent": self.issuers[at].agent });
        let minted = self.connection.post("/v1/token", &body);
        assert_eq!(minted.status, 200, "{}", minted.text());
        self.load.minted.fetch_add(1, Ordering::Relaxed);
        let token = minted.json()["access_token"].as_str().unwrap().to_owned();
        self.verify(at, &token);
        let tokens = &mut self.issuers[at].tokens;
        // The first ones stay, for the whole time.
        if tokens.len() < KEPT_TOKENS {
            tokens.push(token);
        } else {
            tokens[KEPT_TOKENS / 2 + round % (KEPT_TOKENS / 2)] = token;
        }
        let kept = tokens[round % tokens.len()].clone();
        self.verify(at, &kept);
    }

    /// Verifies by the key set, which is fetched again for an unknown key, and by introspection.
    fn verify(&mut self, at: usize, token: &str) {
        let header = part(token, 0);
        let kid = header["kid"].as_str().unwrap();
        let issuer = &mut self.issuers[at];
        if issuer.keys.keys.iter().all(|key| key.kid != kid) {
            let answer = self.connection.get(issuer.jwks);
            assert_eq!(answer.status, 200, "{}", answer.text());
            issuer.keys = Jwks::parse(&answer.body).unwrap();
            self.load.fetched.fetch_add(1, Ordering::Relaxed);
        }
        let expected = Expectation { issuer: None, audience: Some(issuer.audience) };
        if let Err(e) = verify_access_token(token, &issuer.keys, Clock::System.now(), false, expected) {
            panic!("{}: {e}: {header}", issuer.agent);
        }
        let answer = self.connection.post("/v1/introspect", &json!({ "token": token }));
        assert_eq!(
            (answer.status, &answer.json()["active"]),
            (200, &json!(true)),
            "{header}: {}",
            answer.text()
        );
        self.load.verified.fetch_add(1, Ordering::Relaxed);
    }

    /// The chain of a certificate leads to the root in the bundle.
    fn check_certificate(&mut self) {
        let answer = self.connection.post("/v1/certificate", &json!({ "agent": "own" }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.json()["certificate_chain"].as_str().unwrap().to_owned();
        let chain: Vec<CertificateDer> =
            CertificateDer::pem_slice_iter(text.as_bytes()).map(|one| one.unwrap().into_owned()).collect();
        let bundle = self.connection.get("/v1/bundle").json();
        let roots: Vec<CertificateDer> = bundle["keys"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|key| key["x5c"][0].as_str())
            .map(|der| CertificateDer::from(data_encoding::BASE64.decode(der.as_bytes()).unwrap()))
            .collect();
        let anchors: Vec<_> =
            roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
        let now = Duration::from_secs(Clock::System.now().as_secs());
        let leaf = webpki::EndEntityCert::try_from(&chain[0]).unwrap();
        let verified = leaf.verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            &anchors,
            &chain[1..],
            UnixTime::since_unix_epoch(now),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        );
        assert!(verified.is_ok(), "{:?}", verified.err());
    }

    /// A version that is at least as late as the one that was stored before the request.
    fn check_credential(&mut self) {
        let stored = self.load.credential.load(Ordering::SeqCst);
        let answer = self.connection.post("/v1/credential", &json!({ "name": "github", "agent": "own" }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let released = answer.json();
        assert!(released["version"].as_u64().unwrap() >= stored, "{stored}: {}", released["version"]);
        assert_eq!(released["value"], json!(format!("secret {}", released["version"])));
    }
}

/// A host with an agent of its own, which may use a credential, and one of a tenant; both are root.
fn host() -> Host {
    let mut host = Host::new();
    host.configure(
        "[limits]\nrate = 1000000\nburst = 1000000\npublic_rate = 1000000\npublic_burst = 1000000\n\
         tpm_rate = 100000\ntpm_burst = 100000\n[tpm]\ndeadline = \"30s\"\n",
    );
    let grant = format!("[[grant]]\naudience = \"{API}\"\nscopes = [\"docs.read\"]\nttl = \"10m\"\n");
    let rs256 = format!("[[grant]]\naudience = \"{RSA}\"\nalg = \"RS256\"\nttl = \"10m\"\n");
    let credential = "[[credential]]\nname = \"github\"\nuse = \"release\"\n";
    host.agents_file("own", &format!("name = \"own\"\n[match]\nuser = 0\n{grant}{rs256}{credential}"));
    host.agents_file("theirs", &format!("name = \"theirs\"\ntenant = \"acme\"\n[match]\nuser = 0\n{grant}"));
    host.start();
    host
}

/// What rotates, each in a thread of its own.
const ROTATIONS: [Rotation; 6] = [
    Rotation::Issuing,
    Rotation::IssuingOfTenant,
    Rotation::Rsa,
    Rotation::IssuingCa,
    Rotation::Credential,
    Rotation::RecoveryKey,
];

#[derive(Clone, Copy, Debug)]
enum Rotation {
    Issuing,
    IssuingOfTenant,
    Rsa,
    IssuingCa,
    Credential,
    RecoveryKey,
}

impl Rotation {
    /// Rotates once; whether it did.
    fn rotate(self, admin: &mut Connection, load: &Load) -> bool {
        let mut done = |target: &str, body: Value| {
            let answer = admin.post(target, &body);
            assert_eq!(answer.status, 200, "{target}: {}", answer.text());
            answer.json()
        };
        match self {
            Rotation::Issuing => done("/v1/keys/rotate", json!({ "now": true })),
            Rotation::IssuingOfTenant => done("/v1/keys/rotate", json!({ "now": true, "tenant": "acme" })),
            Rotation::Rsa => {
                let rotated = done("/v1/keys/rotate", json!({ "rsa": true, "now": true }));
                // The TPM of a busy machine may need longer than the command waits.
                return rotated["outcome"] == "activated";
            }
            Rotation::IssuingCa => done("/v1/keys/rotate", json!({ "ca": true })),
            Rotation::Credential => {
                let version = load.credential.load(Ordering::SeqCst) + 1;
                let value = format!("secret {version}");
                // A credential has eight versions at most.
                let body = json!({ "name": "github", "value": value, "overlap": 5 });
                let rotated = done("/v1/credentials/rotate", body);
                load.credential.store(version, Ordering::SeqCst);
                rotated
            }
            Rotation::RecoveryKey => {
                let key = done("/v1/keys/recovery", json!({}))["recovery_key"].clone();
                let answer = admin.post("/v1/keys/recovery/confirm", &json!({ "recovery_key": key }));
                // A machine that is busy for seconds is still encrypting under the key of the last round.
                let is_busy = answer.text().contains("are being re-encrypted");
                assert!(answer.status == 200 || is_busy, "{}", answer.text());
                return !is_busy;
            }
        };
        true
    }

    /// Rotates once a second until `end`, or as often as the machine can, and longer if that was less often than
    /// [`MIN_ROTATIONS`]. Returns how often.
    fn rotate_until(self, mut admin: Connection, load: &Load, end: Instant) -> usize {
        let (mut count, deadline) = (0, end + MAX_DELAY);
        while Instant::now() < end || (count < MIN_ROTATIONS && Instant::now() < deadline) {
            let next = Instant::now() + Duration::from_secs(1);
            count += usize::from(self.rotate(&mut admin, load));
            thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
        count
    }
}

fn rotate_under_load(duration: Duration) {
    let host = host();
    let load = Arc::new(Load {
        agent_socket: host.agent_socket(),
        stop: AtomicBool::new(false),
        credential: AtomicU64::new(1),
        minted: AtomicU64::new(0),
        verified: AtomicU64::new(0),
        fetched: AtomicU64::new(0),
    });
    let stored = host.admin().post("/v1/credentials/put", &json!({ "name": "github", "value": "secret 1" }));
    assert_eq!(stored.status, 200, "{}", stored.text());
    until_true("the CA issues", || host.post("/v1/certificate", json!({ "agent": "own" })).status == 200);
    until_true("the RSA key signs", || {
        host.post("/v1/token", json!({ "audience": RSA, "agent": "own" })).status == 200
    });
    until_true("the tenant's key signs", || {
        host.post("/v1/token", json!({ "audience": API, "agent": "theirs" })).status == 200
    });

    let clients: Vec<JoinHandle<()>> = (0..CLIENTS)
        .map(|_| Client::new(load.clone()))
        .map(|client| thread::spawn(|| client.run()))
        .collect();
    let end = Instant::now() + duration;
    let rotating = ROTATIONS.map(|rotation| {
        let (admin, load) = (host.admin(), load.clone());
        thread::spawn(move || rotation.rotate_until(admin, &load, end))
    });
    let counts = rotating.map(|thread| thread.join().expect("no rotation is refused"));
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no request of a client is refused, and no verification fails");
    }
    let [minted, verified, fetched] =
        [&load.minted, &load.verified, &load.fetched].map(|count| count.load(Ordering::Relaxed));
    let rotated: Vec<_> = ROTATIONS.iter().zip(counts).collect();
    println!("{rotated:?}; {minted} tokens minted, {verified} verifications, {fetched} key sets fetched");
    assert!(counts.iter().all(|count| *count >= MIN_ROTATIONS), "{rotated:?}");
    assert!(minted >= 2 * CLIENTS as u64 && verified >= minted);
    until_true("the daemon is well", || host.status()["status"] == "ok");
}

#[test]
fn no_verification_fails_while_every_key_rotates() {
    rotate_under_load(Duration::from_secs(12));
}

/// `make soak`: for a minute, or for SECONDS.
#[test]
#[ignore = "takes a minute or longer"]
fn soak() {
    let seconds = std::env::var("HOSTBADGE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    rotate_under_load(Duration::from_secs(seconds.unwrap_or(60)));
}
