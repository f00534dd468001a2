//! The TPM module on real software TPMs, of which the test process itself is the client.
//!
//! These tests are a crate of their own because libtss2's sockets are not close-on-exec: the daemons that the
//! integration tests start would inherit them, and swtpm, which serves one connection at a time, would wait
//! for those.

#[path = "../integration/common/proxy.rs"]
#[allow(dead_code, reason = "the integration tests use more of it")]
mod proxy;
mod tpm_audit_index;
mod tpm_module;
mod tpm_sealing;
mod tpm_wire;
#[path = "../integration/common/wire.rs"]
mod wire;
