//! The host's RSA key, for grants that use RS256: loaded if the host has one, created when a grant first
//! needs it.

use std::sync::Arc;

use super::context::{IssuerContext, IssuerDeps, RETRY_DELAY};
use crate::audit::Event;
use crate::daemon::audit_ext::record_completed_key_event;
use crate::daemon::watch_ext::set_if_changed;
use crate::issue::{self, HostKeyRef, RSA_KEY_PENDING, RsaSigningKey};
use crate::tpm::Tpm;

/// Loads the key of an earlier start; `None` if the host has none or if it cannot be loaded. An error is
/// reported, and affects RS256 tokens alone.
pub(super) async fn load(
    context: &IssuerContext,
    tpm: &Tpm,
    host_key: &HostKeyRef,
) -> Option<Arc<RsaSigningKey>> {
    match issue::load_rsa_key(tpm, &context.deps.state_dir, host_key).await {
        Ok(key) => key.map(Arc::new),
        Err(e) => {
            report_blocked(context, Some(e.to_string()));
            None
        }
    }
}

/// Returns the key as soon as there is one. It is created once a grant uses RS256; until then this waits, and
/// never returns if no grant does.
pub(super) async fn obtain(context: &IssuerContext, tpm: &Tpm, host_key: &HostKeyRef) -> Arc<RsaSigningKey> {
    let IssuerDeps { agents, state_dir, .. } = &context.deps;
    let mut agents_changed = agents.subscribe();
    loop {
        agents_changed.borrow_and_update();
        let result = match issue::load_rsa_key(tpm, state_dir, host_key).await {
            Ok(None) if !agents.current().uses_rs256() => {
                report_blocked(context, None);
                // Fails only if the registry is gone, which this context holds.
                let _ = agents_changed.changed().await;
                continue;
            }
            Ok(None) => create(context, tpm, host_key).await,
            Ok(Some(key)) => Ok(key),
            Err(e) => Err(e),
        };
        match result {
            Ok(key) => {
                report_blocked(context, None);
                return Arc::new(key);
            }
            Err(e) => report_blocked(context, Some(e.to_string())),
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn create(
    context: &IssuerContext,
    tpm: &Tpm,
    host_key: &HostKeyRef,
) -> Result<RsaSigningKey, issue::Error> {
    let IssuerDeps { state_dir, audit, clock, .. } = &context.deps;
    // Shown by status but not logged, since it is not an error. The error of an earlier attempt stays
    // visible.
    context.status.rsa_blocked_reason.send_if_modified(|reason| {
        let is_first_attempt = reason.is_none();
        reason.get_or_insert_with(|| RSA_KEY_PENDING.into());
        is_first_attempt
    });
    let key = issue::create_rsa_key(tpm, state_dir, host_key, clock.clock()).await?;
    let message = format!("created RSA key {} in the TPM, endorsed by the host key, for RS256", key.kid());
    record_completed_key_event(audit, Event::RsaKeyCreated, key.kid(), None, &message).await;
    Ok(key)
}

/// Publishes why no RS256 tokens are issued (`None`: they are, or no grant uses RS256), and logs each reason
/// once.
fn report_blocked(context: &IssuerContext, reason: Option<String>) {
    if let Some(reason) = set_if_changed(&context.status.rsa_blocked_reason, reason) {
        tracing::error!("no RS256 tokens are issued: {reason}");
    }
}
