//! The host's clock: what issuing requires of it, what contradicts it, and its acceptance by an
//! administrator.

use super::admin::{Admin, RootAdmin};
use super::command_budget::StateCommand;
use super::error::AdminError;
use super::identity_service::IdentityService;
use crate::audit::Event;
use crate::clock::ClockSync;
use crate::policy::{ErrorCode, Refusal};
use crate::wire::clock::ClockStatus;

impl IdentityService {
    /// Whether the clock is as the configuration requires: all credentials have their times from it.
    pub(super) fn clock_permits(&self) -> bool {
        !self.deps.requires_synchronized_clock || self.deps.clock.sync() == ClockSync::Synchronized
    }

    /// A refusal where the clock is not as the configuration requires.
    pub(super) fn require_clock(&self) -> Result<(), Refusal> {
        if self.clock_permits() {
            return Ok(());
        }
        let description = match self.deps.clock.sync() {
            ClockSync::Unknown => {
                "the kernel does not say whether the host's clock is synchronized, which this host requires"
            }
            _ => "the host's clock is not synchronized, which this host requires",
        };
        Err(Refusal::new(ErrorCode::TemporarilyUnavailable, description))
    }

    /// The clock and what contradicts it.
    pub fn clock_status(&self, _: &Admin) -> ClockStatus {
        let deps = &self.deps;
        let now = deps.clock.now();
        ClockStatus {
            time: now,
            sync: deps.clock.sync().into(),
            required: deps.requires_synchronized_clock,
            accepted: deps.clock_state.is_accepted(),
            behind: Some(deps.clock_state.at_decision())
                .filter(|time| time.is_behind())
                .map(|time| time.latest),
            future_certificates: deps.certificate_issuer.report(now).future_certificates,
            future_keys: deps.issuer.state().map_or(0, |issuer_state| issuer_state.count_future_keys(now)),
        }
    }

    /// Takes the present time as right, as if the kernel called the clock synchronized: certificates that
    /// were issued by a clock that was ahead of it are revoked. It is recorded before it takes effect.
    ///
    /// # Errors
    /// [`AdminError::AuditUnavailable`], [`AdminError::BudgetExceeded`].
    pub async fn accept_clock(&self, admin: &RootAdmin) -> Result<ClockStatus, AdminError> {
        self.within_budget(admin, StateCommand::AcceptClock, self.record_and_accept_clock(admin)).await
    }

    async fn record_and_accept_clock(&self, admin: &Admin) -> Result<ClockStatus, AdminError> {
        let status = self.clock_status(admin);
        let message = format!(
            "{} says that the clock is right at {} ({}); {} certificates of a clock that was ahead are to be \
             revoked",
            admin.id(),
            status.time,
            self.deps.clock.sync(),
            status.future_certificates
        );
        self.audit.record_event(Event::ClockAccepted, &message).await?;
        self.deps.clock_state.accept();
        Ok(self.clock_status(admin))
    }
}
