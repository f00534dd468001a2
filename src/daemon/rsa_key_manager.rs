//! Brings the RSA key of the host, where there is one or a grant asks for one, beside whoever turns the issuing keys.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::watch_ext::set_if_changed;
use crate::agents::AgentRegistry;
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::issue::{self, HostKeyRef, RsaSigningKey};
use crate::tpm::Tpm;

/// How soon something that failed is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

const KEY_CREATION_PENDING: &str =
    "the RSA key is being made in the TPM, which takes some up to a minute; ask again later";

/// Who sees to the RSA key.
pub struct RsaKeyManager {
    agents: AgentRegistry,
    state_dir: PathBuf,
    audit: Audit,
    clock: Clock,
    key: watch::Sender<Option<Arc<RsaSigningKey>>>,
    blocked_reason: watch::Sender<Option<String>>,
}

impl RsaKeyManager {
    /// The keeper, the key once it is there, and why it is not, where it should be.
    #[allow(clippy::type_complexity)]
    pub fn new(
        agents: AgentRegistry,
        state_dir: PathBuf,
        audit: Audit,
        clock: Clock,
    ) -> (RsaKeyManager, watch::Receiver<Option<Arc<RsaSigningKey>>>, watch::Receiver<Option<String>>) {
        let (key, key_rx) = watch::channel(None);
        let (blocked_reason, blocked_reason_rx) = watch::channel(None);
        (RsaKeyManager { agents, state_dir, audit, clock, key, blocked_reason }, key_rx, blocked_reason_rx)
    }

    /// The key of an earlier start. What is the matter with it is told, and keeps nobody from anything else.
    pub async fn load(&self, tpm: &Tpm, host_key: &HostKeyRef) -> Option<Arc<RsaSigningKey>> {
        match issue::load_rsa_key(tpm, &self.state_dir, host_key).await {
            Ok(key) => key.map(Arc::new),
            Err(e) => {
                self.report_blocked(Some(e.to_string()));
                None
            }
        }
    }

    /// Runs until there is a key, for ever if no grant asks for it.
    pub async fn run(&self, tpm: &Tpm, host_key: &HostKeyRef) {
        let mut changed = self.agents.subscribe();
        loop {
            changed.borrow_and_update();
            let result = match issue::load_rsa_key(tpm, &self.state_dir, host_key).await {
                Ok(None) if !self.agents.current().uses_rs256() => {
                    self.report_blocked(None);
                    // The sender lives as long as the agents do.
                    let _ = changed.changed().await;
                    continue;
                }
                Ok(None) => self.create(tpm, host_key).await,
                Ok(Some(key)) => Ok(key),
                Err(e) => Err(e),
            };
            match result {
                Ok(key) => {
                    self.key.send_replace(Some(Arc::new(key)));
                    return self.report_blocked(None);
                }
                Err(e) => self.report_blocked(Some(e.to_string())),
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn create(&self, tpm: &Tpm, host_key: &HostKeyRef) -> Result<RsaSigningKey, issue::Error> {
        // No trouble, and not told as such.
        self.blocked_reason.send_if_modified(|why| {
            let new = why.is_none();
            why.get_or_insert_with(|| KEY_CREATION_PENDING.into());
            new
        });
        let key = issue::create_rsa_key(tpm, &self.state_dir, host_key, &self.clock).await?;
        let message = format!("made RSA key {} in the TPM, endorsed by the host key, for RS256", key.kid());
        // Too late to take back: the file says so already.
        if let Err(audit_error) = self.audit.record_key_event(Event::RsaKeyCreated, key.kid(), &message).await
        {
            tracing::error!("{message}; {audit_error}");
        }
        Ok(key)
    }

    /// Says each trouble once.
    fn report_blocked(&self, reason: Option<String>) {
        if let Some(reason) = set_if_changed(&self.blocked_reason, reason) {
            tracing::error!("no RS256 tokens are issued: {reason}");
        }
    }
}
