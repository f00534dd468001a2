//! The daemon and its command as users run them, on a real software TPM. One crate, so that a change is
//! linked once.

mod admin_bounds;
mod agents_d;
mod attestation;
mod audit;
mod bad_input;
mod certificate_quota;
mod certificates;
mod commands;
mod common;
mod disk_failures;
mod enrollment;
mod forged_evidence;
mod hostile_executables;
mod journald;
mod jwt_libraries;
mod keys;
mod keystore;
mod layering;
mod lifecycle;
mod names;
mod neighbours;
mod openapi;
mod peers;
mod posture;
mod revocation;
mod secrets_in_memory;
mod systemd;
mod tokens;
mod tpm_faults;
mod tpm_signed_tokens;
mod tpm_states;
mod workload;
mod workload_clients;
mod workload_hostile;
mod workload_streams;
