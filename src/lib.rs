//! Short-lived identity for the AI agents on a Linux host, issued behind its TPM.
//!
//! The daemon `hostbadged` owns the host's TPM, identifies local processes from kernel credentials, and
//! issues access tokens, SPIFFE SVIDs and evidence to them over Unix sockets. The command `hostbadge` is the
//! client for agents, administrators and operators, and verifies tokens and evidence offline. Both binaries
//! are thin: this crate contains everything else. It is a library for these binaries and their tests, and its
//! API is not stable.
//!
//! # Request path
//!
//! Each step takes a type that only the step before can construct, so code that skips a step does not
//! compile:
//!
//! ```text
//! connection
//!     |  peer      reads the kernel's credentials again for every request
//!     v
//! Peer
//!     |  agents    matches the selectors of agents.d
//!     v
//! AuthenticatedAgent
//!     |  policy    evaluates grants, rate limits and the host's posture
//!     v
//! Permit  (or Refusal)
//!     |  issue     signs with the issuing key, or in the TPM     pki: certificates
//!     v
//! AccessToken, JwtSvid, WitSvid, IssuedX509Svid
//!     |  audit     writes a record to the audit log
//!     v
//! Recorded<AccessToken>  (or Recorded<Refusal>, or in a flood Counted<Refusal>)
//!     |  api       answers from nothing but these
//!     v
//! reply
//! ```
//!
//! [`service::IdentityService`] performs these steps: the sockets of [`api`] call it, and it calls the
//! modules below. Time is a parameter everywhere ([`clock::Clock`]).
//!
//! # Modules
//!
//! From the lowest to the highest. A module imports only modules above its own row; `ARCHITECTURE.md` lists
//! which, and a test compares that list with the source.
//!
//! | module | purpose |
//! |---|---|
//! | [`clock`] | the time of day as a parameter |
//! | `correlation` | the correlation id of a request |
//! | `critical` | threads and tasks whose panic ends the daemon |
//! | `digest`, [`error_class`] | SHA-256; classes of failures |
//! | [`metrics`] | counters and histograms, and their text for Prometheus |
//! | `stack` | overwrites what a call has left on the stack |
//! | [`wiping_allocator`] | the allocator of both programs, which overwrites freed memory |
//! | [`store`] | versioned state files that are replaced atomically; the lock of a directory |
//! | [`tpm`] | the TPM: one thread, sessions, keys, sealing, quotes; the only module that uses tss-esapi |
//! | [`verify`] | offline verification of tokens, evidence and certificates |
//! | [`enroll`] | the operator's side of enrollment: challenges and host certificates |
//! | [`config`] | the configuration file, with faults by file and line |
//! | [`federation`] | bundles of other trust domains |
//! | `keystore` | the key-encryption key, the recovery key and the detection of older state |
//! | [`posture`] | the measured state of the host, compared with an accepted baseline |
//! | [`names`] | numbers of users and groups, looked up in the background |
//! | `peer` | the calling process: SO_PEERCRED, pidfd, cgroup, executable |
//! | [`secrets`] | finds secrets in text by their form |
//! | [`agents`] | registered agents: `agents.d`, selectors, grants, identification |
//! | [`approvals`] | requests that wait for the approval of an administrator |
//! | [`policy`] | decisions, refusals and rate limits |
//! | [`credentials`] | sealed credentials of others: values, versions, release |
//! | [`issue`] | issuing keys and their rotation; tokens, evidence and published documents |
//! | [`pki`] | the host's CA, X509-SVIDs and revocation lists |
//! | [`anomaly`] | rules that compare what an agent does with what it did before |
//! | [`audit`] | the chained audit log and the journal |
//! | [`review`] | what agents may do against what they did, and narrowed files |
//! | [`wire`] | requests and responses of the HTTP sockets |
//! | [`export`] | audit records as OCSF events and OpenTelemetry logs |
//! | [`service`] | the request path: one method for each request |
//! | [`api`] | sockets, HTTP, JSON and gRPC |
//! | [`daemon`] | wiring, key rotation, monitoring of the host, systemd |
//! | [`cli`] | the subcommands of `hostbadge` |
//!
//! # Threads
//!
//! The TPM, a slow disk and journald are served by threads of their own behind bounded queues. Requests wait
//! for the TPM and the disk asynchronously, with a deadline; nothing waits for journald.
//!
//! | thread | work |
//! |---|---|
//! | main | the admin socket, key rotation, the host CA, posture, signals |
//! | `worker-N` | 2 to 8 single-threaded runtimes with their own connections; audit lines on a fast disk |
//! | `tpm`, `tpm-watch` | TPM commands; detection of a command that does not return |
//! | `audit`, `audit-sync`, `audit-files` | audit lines while the disk is slow; fdatasync once a second; old files |
//! | `journal` | entries for journald or standard error |
//!
//! # Examples
//!
//! Read a directory of registered agents, as `hostbadged --check` does. A directory with a fault is not
//! loaded, and each fault names its file, its line and the fix:
//!
//! ```
//! use hostbadge::agents::AgentSet;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let file = dir.path().join("researcher.toml");
//! let agent = r#"
//! name = "researcher"
//! [match]
//! unit = "researcher.service"
//! [[grant]]
//! audience = "https://api.example.com"
//! scopes = ["papers.read"]
//! ttl = "5m"
//! "#;
//! std::fs::write(&file, agent)?;
//! let agents = AgentSet::read(dir.path(), "example.org".len()).map_err(|faults| faults[0].to_string())?;
//! let researcher = agents.get("researcher").ok_or("not registered")?;
//! assert_eq!(researcher.own_grants[0].ttl.as_secs(), 300);
//! assert_eq!(researcher.spiffe_path("HOST"), "/host/HOST/agent/researcher");
//!
//! std::fs::write(&file, agent.replace("5m", "2h"))?;
//! let faults = AgentSet::read(dir.path(), "example.org".len()).map(drop).unwrap_err();
//! assert_eq!(faults[0].line, Some(8));
//! assert!(faults[0].to_string().ends_with("ttl must be at least 1s and at most 1h"));
//! # Ok(())
//! # }
//! ```
//!
//! Verify an access token with the keys that the issuer publishes, without a daemon or a TPM:
//!
//! ```no_run
//! use hostbadge::clock::Clock;
//! use hostbadge::verify::{Expectation, Jwks, verify_access_token};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = Jwks::parse(&std::fs::read("jwks.json")?)?;
//! let token = std::fs::read_to_string("token.jwt")?;
//! let expected = Expectation { issuer: None, audience: Some("https://api.example.com") };
//! let verified = verify_access_token(token.trim(), &keys, Clock::System.now(), true, expected)?;
//! println!("{} has the scopes {}", verified.claims.sub, verified.claims.scope);
//! # Ok(())
//! # }
//! ```

// `println!` and `eprintln!` panic if the write fails, as on a full disk.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod agents;
pub mod anomaly;
pub mod api;
pub mod approvals;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub(crate) mod correlation;
pub mod credentials;
pub mod critical;
pub mod daemon;
pub(crate) mod delegation;
pub(crate) mod digest;
pub mod enroll;
pub mod error_class;
pub mod export;
pub mod federation;
pub(crate) mod invocations;
pub mod issue;
pub(crate) mod json;
pub(crate) mod keystore;
pub mod metrics;
pub(crate) mod mutex;
pub mod names;
pub(crate) mod nearest;
pub(crate) mod peer;
pub mod pki;
pub(crate) mod plural;
pub mod policy;
pub mod posture;
pub mod present;
pub mod review;
pub mod revocation;
pub mod risk;
pub mod secrets;
pub mod service;
pub(crate) mod stack;
pub mod store;
pub mod tpm;
pub mod verify;
pub mod wiping_allocator;
pub mod wire;
pub(crate) mod zeroized_key_pair;
