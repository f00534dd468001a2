//! Metrics of keys and certificates: how many there are, how old they are, and what is due.

use super::catalog;
use crate::clock::Timestamp;
use crate::issue::{KeyKind, KeyReport, KeyState, kek_reports};
use crate::metrics::{Exposition, Metric};
use crate::service::identity_service::IdentityService;

/// The kinds of keys with their names.
const KINDS: [(KeyKind, &str); 8] = [
    (KeyKind::Issuing, "issuing"),
    (KeyKind::Host, "host"),
    (KeyKind::Rsa, "rsa"),
    (KeyKind::HostCaRoot, "host_ca_root"),
    (KeyKind::IssuingCa, "issuing_ca"),
    (KeyKind::KeyEncryption, "key_encryption"),
    (KeyKind::TenantKeyEncryption, "tenant_key_encryption"),
    (KeyKind::Erasure, "erasure"),
];
/// The states of keys that exist, with their names.
const STATES: [(KeyState, &str); 5] = [
    (KeyState::Generated, "generated"),
    (KeyState::Active, "active"),
    (KeyState::Published, "published"),
    (KeyState::Retired, "retired"),
    (KeyState::Revoked, "revoked"),
];

impl IdentityService {
    pub(super) fn add_keys(&self, exposition: &mut Exposition) {
        let reports = self.all_key_reports();
        for (kind, kind_name) in KINDS {
            let of_kind = || reports.iter().filter(move |report| report.kind == kind);
            for (state, state_name) in STATES {
                let number = of_kind().filter(|report| report.state == state).count();
                exposition.add(&catalog::KEYS, [kind_name.into(), state_name.into()], number as f64);
            }
            let active = || of_kind().filter(|report| report.state == KeyState::Active);
            let created = active().filter_map(|report| report.created).min();
            add_time(exposition, &catalog::KEY_CREATED, kind_name, created);
            let due = active().filter_map(|report| report.next.as_ref()).map(|next| next.at).min();
            add_time(exposition, &catalog::KEY_NEXT_STEP, kind_name, due);
        }
        let is_blocked = self.deps.key_admin.blocked_reason().is_some();
        exposition.add(&catalog::KEYS_BLOCKED, [], f64::from(u8::from(is_blocked)));
        self.add_certificates(exposition, &reports);
    }

    fn add_certificates(&self, exposition: &mut Exposition, reports: &[KeyReport]) {
        let host = self.deps.enrollment.certificate_report();
        let is_active_ca =
            |report: &&KeyReport| report.kind == KeyKind::IssuingCa && report.state == KeyState::Active;
        let ca_created = reports.iter().find(is_active_ca).and_then(|report| report.created);
        let ca = self.deps.certificate_issuer.report(self.deps.clock.now());
        let (not_before, not_after) =
            (host.as_ref().map(|host| host.not_before), host.as_ref().map(|host| host.not_after));
        add_time(exposition, &catalog::CERTIFICATE_NOT_BEFORE, "host", not_before);
        add_time(exposition, &catalog::CERTIFICATE_NOT_BEFORE, "issuing_ca", ca_created);
        add_time(exposition, &catalog::CERTIFICATE_NOT_AFTER, "host", not_after);
        add_time(exposition, &catalog::CERTIFICATE_NOT_AFTER, "issuing_ca", ca.issues_until);
    }

    /// Empty until the keys are loaded.
    fn all_key_reports(&self) -> Vec<KeyReport> {
        let Some(issuer_state) = self.deps.issuer.state() else { return Vec::new() };
        let keks = self.deps.keystore.borrow().as_ref().map(|keystore| keystore.kek_reports());
        let keks = kek_reports(keks.unwrap_or_default(), &self.deps.rotation_policy);
        let ca_keys = self.deps.certificate_issuer.key_reports();
        issuer_state.key_reports().iter().cloned().chain(ca_keys).chain(keks).collect()
    }
}

/// Adds a time, in seconds since 1970, if there is one.
fn add_time(
    exposition: &mut Exposition,
    metric: &'static Metric,
    label: &'static str,
    time: Option<Timestamp>,
) {
    if let Some(time) = time {
        exposition.add(metric, [label.into()], time.as_secs_f64());
    }
}
