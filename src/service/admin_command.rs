//! Commands of administrators that change or record something: their rate, and the record of those that fail.
//!
//! The front end begins each such command here, whatever it is, and reports its failure here. So no command
//! fails without a record that names its caller, and no caller makes more records than its rate allows.

use super::admin::Admin;
use super::error::{AdminError, RequestError};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use crate::issue::AdminClass;
use crate::peer::Peer;
use crate::policy::RateLimitKey;

/// A command that was begun. Only [`IdentityService::begin_command`] makes one.
#[derive(Debug)]
pub struct AdminCommand {
    /// Its path.
    name: &'static str,
    caller: Peer,
    class: AdminClass,
}

impl IdentityService {
    /// Begins a command, named by its path. A member of the admin group has a rate for its uid. Root has
    /// none: a rotation after a compromise or a recovery must always be possible.
    ///
    /// # Errors
    /// A refusal of a member beyond its rate, recorded or counted.
    pub async fn begin_command(
        &self,
        admin: &Admin,
        name: &'static str,
    ) -> Result<AdminCommand, RequestError> {
        let command = AdminCommand { name, caller: admin.peer().clone(), class: self.admin_class(admin) };
        if command.class == AdminClass::Group
            && let Err(rejection) = self.check_command_rate(&command)
        {
            return Err(self.record_admin_rejection(command.class, rejection).await);
        }
        Ok(command)
    }

    /// Records that a command failed, and why. Returns the error for the caller: that of the command or,
    /// where it could not be recorded, that of the audit log.
    pub async fn record_failed_command(&self, command: AdminCommand, error: AdminError) -> AdminError {
        let description = match &error {
            // The service has recorded the faults and the caller.
            AdminError::InvalidFiles(_) => return error,
            // The reason can quote the request, which may contain a recovery key.
            AdminError::InvalidRequest(_) => {
                "the request is malformed, or its body was not received".to_owned()
            }
            other => other.to_string(),
        };
        let description = format!("{}: {description}", command.name);
        let mut rejection = Rejection::new(error.code(), description, &command.caller);
        // A member's commands were counted when they began.
        if command.class == AdminClass::Root
            && let Err(limited) = self.check_command_rate(&command)
        {
            rejection.refusal.suppressed = limited.refusal.suppressed;
            rejection.recording = limited.recording;
        }
        // Where the audit log could not be written before, this finds out whether it can again.
        match self.record_admin_rejection(command.class, rejection).await {
            RequestError::AuditUnavailable(unavailable) => unavailable.into(),
            RequestError::Denied(_) | RequestError::DeniedUnrecorded(_) => error,
        }
    }

    fn check_command_rate(&self, command: &AdminCommand) -> Result<(), Rejection> {
        self.check_rate(RateLimitKey::Admin(command.caller.uid), Some(&command.caller))
    }
}
