//! Turns the issuing keys: by their schedule, and when an administrator says so.
//!
//! A step that cannot be taken, because the TPM is away or a disk is full, is tried again; the active key goes on
//! signing meanwhile, beyond its time if need be. Each step is in force once its file is on the disk, and is written
//! down then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::news::news;
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::issue::{
    Change, Desk, Did, Enrollment, Error, Established, Issuer, Keys, Order, Rotated, RsaKey, What,
};
use crate::tpm::{StateKind, Tpm};
use crate::vault::Binding;

/// How soon a step that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The longest sleep: the machine's clock may be set meanwhile.
const NAP: Duration = Duration::from_secs(60);

/// Who turns the keys.
pub struct Rotator {
    pub issuer: Issuer,
    pub audit: Audit,
    pub clock: Clock,
    pub desk: Desk,
    /// A key that the TPM was made to have meanwhile.
    pub rsa: watch::Receiver<Option<Arc<RsaKey>>>,
    /// Writes by the vault of the keys.
    pub enrollment: Enrollment,
}

impl Rotator {
    /// Runs for ever.
    pub async fn run(&mut self, tpm: &Tpm, established: Established) {
        let Established { mut keys, changes } = established;
        self.enrollment.write_by(keys.vault().clone());
        self.record(&changes, "").await;
        let mut binding = keys.vault().binding();
        loop {
            let pause = match self.turn(&mut keys, tpm).await {
                Ok(()) => {
                    self.waits(None, &keys);
                    keys.wake().map_or(NAP, |at| at.since(self.clock.now()).min(NAP))
                }
                Err(why) => {
                    self.waits(Some(why), &keys);
                    RETRY
                }
            };
            self.show_binding(binding.borrow_and_update().clone());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The last who had something under the key before has come to an end.
                Ok(()) = binding.changed() => {}
                Ok(()) = self.rsa.changed() => self.take_up(&mut keys),
                Some(order) = self.desk.orders.recv() => self.obey(&mut keys, tpm, order).await,
            }
        }
    }

    fn take_up(&mut self, keys: &mut Keys) {
        keys.take_up(self.rsa.borrow_and_update().clone());
        match keys.standing() {
            Ok(standing) => self.issuer.set(standing),
            Err(e) => tracing::error!("the RSA key is not taken up: {e}"),
        }
    }

    /// Takes every step that is due.
    async fn turn(&self, keys: &mut Keys, tpm: &Tpm) -> Result<(), String> {
        loop {
            self.can_record()?;
            let changes = keys.turn(tpm).await.map_err(|e| e.to_string())?;
            if changes.is_empty() {
                return Ok(());
            }
            self.put_in_force(keys, &changes, "").await.map_err(|e| e.to_string())?;
        }
    }

    async fn obey(&self, keys: &mut Keys, tpm: &Tpm, order: Order) {
        if order.is_given_up() {
            return;
        }
        let Order { what, by } = order;
        match what {
            What::Rotate { at_once, reply } => {
                let done = self.rotate(keys, tpm, at_once, &by).await;
                if let Err(why) = &done {
                    tracing::warn!("{by} ordered a rotation of the issuing key, which failed: {why}");
                }
                let _ = reply.send(done);
            }
            What::Recovery(reply) => {
                let done = self.make_recovery(keys, &by).await;
                let _ = reply.send(done);
            }
            What::Accept(reply) | What::Recover { reply, .. } => {
                let why = match tpm.state().borrow().kind {
                    StateKind::Replaced | StateKind::Cleared => {
                        "restart the daemon first: the keys in its memory are those of the TPM of before"
                    }
                    _ => "the keys of this host are open; there is nothing to mend",
                };
                let _ = reply.send(Err(why.into()));
            }
        }
    }

    async fn make_recovery(&self, keys: &mut Keys, by: &str) -> Result<Zeroizing<String>, String> {
        self.can_record()?;
        // Before it is made: a key that cannot be given to anybody would be worse than a line too many.
        let what = format!("{by} has a recovery key made; one of before opens nothing any more");
        self.audit.event(Event::RecoveryKeyMade, &what).await.map_err(|e| e.to_string())?;
        keys.make_recovery().await.map_err(|e| e.to_string())
    }

    /// Says what is not as configured once, and again when it has changed.
    fn show_binding(&self, binding: Binding) {
        let binding = Some(binding);
        if self.desk.binding.send_replace(binding.clone()) == binding {
            return;
        }
        if binding.is_some_and(|binding| !binding.waiting.is_empty() && binding.recovery.is_none()) {
            tracing::warn!(
                "the keys are not sealed to the PCRs that the configuration names: make a recovery key first, \
                 or the next firmware update would shut this host out: hostbadge key recovery"
            );
        }
    }

    async fn rotate(&self, keys: &mut Keys, tpm: &Tpm, at_once: bool, by: &str) -> Result<Rotated, String> {
        self.can_record()?;
        if let (false, Some(Change::Published { kid, active_from })) = (at_once, keys.published()) {
            return Ok(Rotated { did: Did::Nothing, kid, active_from, retired: None });
        }
        let changes = if at_once { keys.replace(tpm).await } else { keys.publish(tpm).await };
        let changes = changes.map_err(|e| e.to_string())?;
        self.put_in_force(keys, &changes, &format!(", as {by} ordered")).await.map_err(|e| e.to_string())?;
        let now = self.clock.now();
        let mut rotated = Rotated {
            did: Did::Activated,
            kid: keys.active().kid().to_owned(),
            active_from: now,
            retired: None,
        };
        for change in changes {
            match change {
                Change::Published { kid, active_from } if !at_once => {
                    rotated = Rotated { did: Did::Published, kid, active_from, retired: None };
                }
                Change::Retired { kid, .. } => rotated.retired = Some(kid),
                _ => {}
            }
        }
        Ok(rotated)
    }

    /// What nobody could write down is not done: nothing is issued meanwhile either.
    fn can_record(&self) -> Result<(), String> {
        match self.audit.health().problem() {
            None => Ok(()),
            Some(problem) => Err(format!("the audit log cannot be written: {problem}")),
        }
    }

    async fn put_in_force(&self, keys: &Keys, changes: &[Change], by: &str) -> Result<(), Error> {
        self.issuer.set(keys.standing()?);
        self.record(changes, by).await;
        Ok(())
    }

    async fn record(&self, changes: &[Change], by: &str) {
        for change in changes {
            let (event, kid, what) = told(change);
            let what = format!("issuing key {kid} {what}{by}");
            // Too late to take back: the file says so already.
            if let Err(unrecorded) = self.audit.key(event, kid, &what).await {
                tracing::error!("{what}; {unrecorded}");
            }
        }
    }

    /// Says each trouble once.
    fn waits(&self, why: Option<String>, keys: &Keys) {
        if let Some(why) = news(&self.desk.waits, why) {
            tracing::warn!("a change of the issuing keys waits, and {} signs on: {why}", keys.active().kid());
        }
    }
}

fn told(change: &Change) -> (Event, &str, String) {
    match change {
        Change::Published { kid, active_from } => {
            (Event::KeyPublished, kid, format!("is published and signs from {active_from}"))
        }
        Change::Activated { kid } => (Event::KeyActivated, kid, "signs from now on".to_owned()),
        Change::Retired { kid, destroyed_from } => {
            (Event::KeyRetired, kid, format!("signs no more and verifies until {destroyed_from}"))
        }
        Change::Destroyed { kid } => (Event::KeyDestroyed, kid, "is destroyed".to_owned()),
    }
}
