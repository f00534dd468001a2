//! The parts of the daemon's life that are no room's: hardening, logging, sockets, the keeper of keys, signals.
//!
//! `src/bin/hostbadged.rs` tells the story; these are its sentences.

mod arguments;
mod ca_manager;
mod harden;
mod issuer_supervisor;
mod key_rotator;
mod logging;
mod memory;
mod notify;
mod pcr_changes;
mod posture_monitor;
mod rsa_key_manager;
mod sockets;
mod watch_ext;

pub use arguments::Arguments;
pub use ca_manager::CaManager;
pub use harden::{harden, max_connections_for_rlimit};
pub use issuer_supervisor::{IssuerStatus, IssuerStatusSender, IssuerSupervisor};
pub use key_rotator::KeyRotator;
pub use logging::start_logging;
pub use memory::release_startup_memory;
pub use notify::{Watchdog, ready, reloading, set_status, stopping};
pub use posture_monitor::PostureMonitor;
pub use rsa_key_manager::RsaKeyManager;
pub use sockets::{Sockets, open_sockets};
