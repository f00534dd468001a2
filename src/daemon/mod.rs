//! The daemon process: hardening, wiring of the components, signals, and the order in which everything stops.
//!
//! Each long-lived component is a module with `spawn(deps) -> Handle`. The handle publishes what other
//! components need and stops the component:
//!
//! | component | task |
//! |---|---|
//! | `issuer_supervisor` | opens the TPM, loads, recovers and rotates the issuing keys |
//! | `ca_manager` | renews the host's CAs, revokes certificates of agents that are removed or matched otherwise |
//! | `invocation_watcher` | ends what was issued to units, sessions and other invocations that have ended |
//! | `clock_monitor` | records when the clock was set, and wakes what has to be made again |
//! | `checkpointer` | has the TPM certify the end of the audit log |
//! | `posture_monitor` | quotes PCRs and compares them with the baseline |
//! | `servers` | accept connections; workers serve them |
//! | `admin_group` | gives the admin socket its group, and logs why it has none |
//! | `watchdog` | resets systemd's watchdog, reports the audit log's health |
//! | `swtpm_supervisor` | restarts the software TPM of a development instance |
//!
//! [`run`] builds them in this order, waits for the startup barrier, reports readiness, and on SIGTERM drains
//! the servers before it stops the others.

mod activity_loader;
mod admin_group;
mod alert_handler;
mod alert_sender;
mod anomaly_monitor;
mod app;
mod arguments;
mod audit_ext;
mod ca_manager;
mod ca_messages;
mod check;
mod checkpointer;
mod clock_monitor;
mod component;
mod credential_manager;
mod delegation_manager;
mod ended_leaves;
mod error;
mod harden;
mod invocation_watcher;
mod issuer_supervisor;
mod keystore_follower;
mod latest_time;
mod logging;
mod memory;
mod notify;
mod parts;
mod pcr_changes;
mod posture_monitor;
mod reader;
mod revocation_manager;
mod servers;
mod signals;
mod sockets;
mod startup;
mod status_list_manager;
mod storage;
mod swtpm_supervisor;
mod tpm_ext;
mod watch_ext;
mod watchdog;

pub use app::run;
pub use arguments::Arguments;
pub use check::{check_config, print_diagnostics, read_config};
pub use error::Error;
pub use harden::harden;
pub use reader::run_as_reader;
