//! How often administrators may change protected state.
//!
//! Each change increments the counter of the state manifest in the TPM's NV memory, which endures some
//! 100,000 writes. Root and the admin group are counted separately, so that neither uses up the other's
//! commands.
//!
//! The counts are in memory. A restart resets them, and only root can restart the daemon.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::issue::AdminClass;
use crate::mutex::lock;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A command that changes protected state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateCommand {
    /// A rotation of the issuing key. Root's `--now` is not counted.
    RotateKeys,
    /// A new recovery key.
    CreateRecoveryKey,
    /// A request for enrollment, which is remembered until it is answered.
    RequestEnrollment,
    /// The answer to a challenge.
    AnswerChallenge,
    /// The installation of a certificate.
    InstallCertificate,
    /// The acceptance of the posture.
    AcceptPosture,
    /// The acceptance of the clock's time.
    AcceptClock,
    /// A change of a sealed credential.
    ChangeCredential,
    /// The removal of a tenant.
    RemoveTenant,
    /// The end of an agent.
    Offboard,
    /// A revocation of a scope, or its end.
    Revoke,
}

/// A command is beyond its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this command changes protected state, which wears the TPM: at most {per_hour} an hour and {per_day} a day; \
     it is possible again in {} s",
    retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0)
)]
pub struct BudgetExceeded {
    /// The bound for an hour.
    pub per_hour: usize,
    /// The bound for a day.
    pub per_day: usize,
    /// Until the next command is possible.
    pub retry_after: Duration,
}

/// The commands of the last day.
#[derive(Debug, Default)]
pub(super) struct CommandBudget {
    /// Times of the commands that count, the oldest first.
    taken: Mutex<HashMap<(StateCommand, AdminClass), VecDeque<Instant>>>,
}

/// A counted command.
#[derive(Debug)]
pub(super) struct CountedCommand {
    key: (StateCommand, AdminClass),
    at: Instant,
}

impl StateCommand {
    /// How many are possible in any hour, and in any day. Those of the admin group are few, so that the TPM's
    /// memory lasts for years even if a member gives as many as it can.
    pub fn bounds(self) -> (usize, usize) {
        match self {
            StateCommand::RotateKeys | StateCommand::RequestEnrollment | StateCommand::AnswerChallenge => {
                (6, 24)
            }
            StateCommand::InstallCertificate | StateCommand::AcceptPosture | StateCommand::AcceptClock => {
                (12, 48)
            }
            StateCommand::Offboard | StateCommand::RemoveTenant => (60, 240),
            // For root alone. A script that rotates them every second for a minute is within the bound.
            StateCommand::CreateRecoveryKey => (120, 240),
            StateCommand::ChangeCredential => (120, 240),
            StateCommand::Revoke => (120, 480),
        }
    }
}

impl CommandBudget {
    /// Counts a command. It counts even if no caller waits for its result any more: it may have changed the
    /// state by then.
    ///
    /// # Errors
    /// [`BudgetExceeded`] if it is beyond its bound.
    pub fn take(
        &self,
        command: StateCommand,
        class: AdminClass,
        now: Instant,
    ) -> Result<CountedCommand, BudgetExceeded> {
        let (per_hour, per_day) = command.bounds();
        let key = (command, class);
        let mut all = self.taken();
        let taken = all.entry(key).or_default();
        while taken.front().is_some_and(|at| now.saturating_duration_since(*at) >= DAY) {
            taken.pop_front();
        }
        // The command at this place from the end must be older than the window.
        let wait = |bound: usize, window: Duration| {
            let at = *taken.get(taken.len().checked_sub(bound)?)?;
            window.checked_sub(now.saturating_duration_since(at)).filter(|wait| !wait.is_zero())
        };
        if let Some(retry_after) = wait(per_hour, HOUR).max(wait(per_day, DAY)) {
            return Err(BudgetExceeded { per_hour, per_day, retry_after });
        }
        taken.push_back(now);
        Ok(CountedCommand { key, at: now })
    }

    /// Takes back the count of a command that changed nothing.
    pub fn refund(&self, command: CountedCommand) {
        let mut all = self.taken();
        let Some(taken) = all.get_mut(&command.key) else { return };
        if let Some(index) = taken.iter().rposition(|at| *at == command.at) {
            taken.remove(index);
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<(StateCommand, AdminClass), VecDeque<Instant>>> {
        lock(&self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATE: StateCommand = StateCommand::RotateKeys;

    #[test]
    fn an_hour_and_a_day_have_their_bounds_and_root_is_counted_apart() {
        let (budget, start) = (CommandBudget::default(), Instant::now());
        let take = |minutes: u64, class| {
            budget.take(ROTATE, class, start + Duration::from_secs(60 * minutes)).map(drop)
        };
        for minute in 0..6 {
            take(minute, AdminClass::Group).unwrap();
        }
        let exceeded = take(10, AdminClass::Group).unwrap_err();
        assert_eq!(exceeded.retry_after, Duration::from_secs(50 * 60));
        assert!(exceeded.to_string().contains("at most 6 an hour and 24 a day"), "{exceeded}");
        assert!(exceeded.to_string().contains("possible again in 3000 s"), "{exceeded}");
        take(10, AdminClass::Root).unwrap();
        budget.take(StateCommand::RequestEnrollment, AdminClass::Group, start).unwrap();
        // The first is an hour old.
        take(60, AdminClass::Group).unwrap();
        take(60, AdminClass::Group).unwrap_err();
        for minute in 1..18 {
            take(60 + 20 * minute, AdminClass::Group).unwrap();
        }
        let exceeded = take(23 * 60, AdminClass::Group).unwrap_err();
        assert_eq!(exceeded.retry_after, Duration::from_secs(3600), "24 in a day");
        take(24 * 60, AdminClass::Group).unwrap();
    }

    #[test]
    fn a_command_that_changed_nothing_does_not_count() {
        let (budget, now) = (CommandBudget::default(), Instant::now());
        for _ in 0..100 {
            let counted = budget.take(ROTATE, AdminClass::Group, now).unwrap();
            budget.refund(counted);
        }
        for _ in 0..6 {
            budget.take(ROTATE, AdminClass::Group, now).unwrap();
        }
        assert!(budget.take(ROTATE, AdminClass::Group, now).is_err());
    }
}
