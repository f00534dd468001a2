//! Records of changes that are already on disk.

use crate::audit::{Audit, Event};

/// Records a change that is already on disk. The change cannot be undone, so that a failing audit log only
/// adds an error with the same message to the journal.
pub(super) async fn record_completed(audit: &Audit, event: Event, message: &str) {
    if let Err(audit_error) = audit.record_event(event, message).await {
        tracing::error!("{message}; {audit_error}");
    }
}

/// As [`record_completed`], for a change that concerns one tenant; `tenant` is empty where it concerns none.
pub(super) async fn record_completed_of_tenant(audit: &Audit, event: Event, tenant: &str, message: &str) {
    let tenant = Some(tenant).filter(|tenant| !tenant.is_empty());
    if let Err(audit_error) = audit.record_tenant_event(event, tenant, message).await {
        tracing::error!("{message}; {audit_error}");
    }
}

/// As [`record_completed`], for the key named `kid`, of a tenant or of none.
pub(super) async fn record_completed_key_event(
    audit: &Audit,
    event: Event,
    kid: &str,
    tenant: Option<&str>,
    message: &str,
) {
    if let Err(audit_error) = audit.record_key_event(event, kid, tenant, message).await {
        tracing::error!("{message}; {audit_error}");
    }
}
