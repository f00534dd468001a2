//! Brings the RSA key of the host, where there is one or a grant asks for one, beside whoever turns the issuing keys.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::news::news;
use crate::agents::Agents;
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::issue::{self, Endorser, RsaKey};
use crate::tpm::Tpm;

/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

const MAKING: &str = "the RSA key is being made in the TPM, which takes some up to a minute; ask again later";

/// Who sees to the RSA key.
pub struct RsaKeeper {
    agents: Agents,
    state_dir: PathBuf,
    audit: Audit,
    clock: Clock,
    key: watch::Sender<Option<Arc<RsaKey>>>,
    waits: watch::Sender<Option<String>>,
}

impl RsaKeeper {
    /// The keeper, the key once it is there, and why it is not, where it should be.
    #[allow(clippy::type_complexity)]
    pub fn new(
        agents: Agents,
        state_dir: PathBuf,
        audit: Audit,
        clock: Clock,
    ) -> (RsaKeeper, watch::Receiver<Option<Arc<RsaKey>>>, watch::Receiver<Option<String>>) {
        let (key, key_seen) = watch::channel(None);
        let (waits, waits_seen) = watch::channel(None);
        (RsaKeeper { agents, state_dir, audit, clock, key, waits }, key_seen, waits_seen)
    }

    /// The key of an earlier start. What is the matter with it is told, and keeps nobody from anything else.
    pub async fn load(&self, tpm: &Tpm, by: &Endorser) -> Option<Arc<RsaKey>> {
        match issue::load_rsa_key(tpm, &self.state_dir, by).await {
            Ok(key) => key.map(Arc::new),
            Err(e) => {
                self.waits(Some(e.to_string()));
                None
            }
        }
    }

    /// Runs until there is a key, for ever if no grant asks for it.
    pub async fn keep(&self, tpm: &Tpm, by: &Endorser) {
        let mut changed = self.agents.changed();
        loop {
            changed.borrow_and_update();
            let tried = match issue::load_rsa_key(tpm, &self.state_dir, by).await {
                Ok(None) if !self.agents.registry().wants_rs256() => {
                    self.waits(None);
                    // The sender lives as long as the agents do.
                    let _ = changed.changed().await;
                    continue;
                }
                Ok(None) => self.make(tpm, by).await,
                Ok(Some(key)) => Ok(key),
                Err(e) => Err(e),
            };
            match tried {
                Ok(key) => {
                    self.key.send_replace(Some(Arc::new(key)));
                    return self.waits(None);
                }
                Err(e) => self.waits(Some(e.to_string())),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn make(&self, tpm: &Tpm, by: &Endorser) -> Result<RsaKey, issue::Error> {
        // No trouble, and not told as such.
        self.waits.send_if_modified(|why| {
            let new = why.is_none();
            why.get_or_insert_with(|| MAKING.into());
            new
        });
        let key = issue::make_rsa_key(tpm, &self.state_dir, by, &self.clock).await?;
        let what = format!("made RSA key {} in the TPM, endorsed by the host key, for RS256", key.kid());
        // Too late to take back: the file says so already.
        if let Err(unrecorded) = self.audit.key(Event::RsaKeyMade, key.kid(), &what).await {
            tracing::error!("{what}; {unrecorded}");
        }
        Ok(key)
    }

    /// Says each trouble once.
    fn waits(&self, why: Option<String>) {
        if let Some(why) = news(&self.waits, why) {
            tracing::error!("no RS256 tokens are issued: {why}");
        }
    }
}
