//! Carries out administrators' requests for the next issuing CA.

use super::{CaManager, StepError, describe, record_completed};
use crate::audit::Event;
use crate::error_class::ErrorClass;
use crate::pki::{self, CaRotation, CaRotationError, HostCa};

impl CaManager {
    /// Carries out the requests that wait.
    pub(super) async fn rotate_on_request(&self, ca: &mut HostCa) {
        while let Some(request) = self.deps.certificate_issuer.next_rotation_request() {
            if request.is_cancelled() {
                continue;
            }
            let result = self.rotate(ca, &request.requested_by).await;
            request.reply(result.map_err(|error| CaRotationError::Failed {
                message: error.to_string(),
                class: class_of(&error),
            }));
        }
    }

    async fn rotate(&self, ca: &mut HostCa, requested_by: &str) -> Result<CaRotation, StepError> {
        self.deps.audit.ensure_writable()?;
        let (rotation, change) = ca.rotate().await?;
        self.activate(ca)?;
        let message = format!("{}, requested by {requested_by}", describe(&change));
        record_completed(&self.deps.audit, Event::CaCertified, &message).await;
        Ok(rotation)
    }
}

fn class_of(error: &StepError) -> ErrorClass {
    match error {
        StepError::Tpm(error) => error.class(),
        StepError::Pki(error) => match error {
            pki::Error::Tpm(error) => error.class(),
            pki::Error::Keystore(error) => error.class(),
            pki::Error::Store(error) => error.class(),
            pki::Error::TooManyIssuingCas { .. } | pki::Error::ParentExpired(_) => ErrorClass::Conflict,
            _ => ErrorClass::Internal,
        },
        _ => ErrorClass::Unavailable,
    }
}
