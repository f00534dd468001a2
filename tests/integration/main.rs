//! The daemon and its command as users run them, on a real software TPM. One crate, so that a change is
//! linked once.

mod agents_d;
mod attestation;
mod bad_input;
mod certificates;
mod commands;
mod common;
mod disk_failures;
mod enrollment;
mod journald;
mod jwt_libraries;
mod keys;
mod keystore;
mod layering;
mod lifecycle;
mod names;
mod openapi;
mod peers;
mod posture;
mod revocation;
mod systemd;
mod tokens;
mod tpm_faults;
mod tpm_signed_tokens;
mod tpm_states;
mod workload;
mod workload_clients;
mod workload_hostile;
mod workload_streams;
