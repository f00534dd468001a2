//! Administrators' requests for the next issuing CA, which the CA manager carries out; the keys of the CA.

use super::CertificateIssuer;
use crate::issue::KeyReport;
use crate::mutex::lock;
use crate::pki::ca_rotation::{CaRotation, CaRotationError, CaRotationRequest};

/// Requests that wait; a further one is rejected.
const QUEUE_CAPACITY: usize = 8;

impl CertificateIssuer {
    /// Has the CA manager make the next issuing CA now.
    ///
    /// # Errors
    /// [`CaRotationError`].
    pub async fn rotate_ca(&self, requested_by: String) -> Result<CaRotation, CaRotationError> {
        let (request, result) = CaRotationRequest::new(requested_by);
        {
            let mut requests = lock(&self.0.rotation_requests);
            requests.retain(|request| !request.is_cancelled());
            if requests.len() >= QUEUE_CAPACITY {
                return Err(CaRotationError::Busy);
            }
            requests.push_back(request);
        }
        self.0.rotation_wanted.notify_one();
        result.wait().await
    }

    /// Resolves when there is a request.
    pub async fn rotation_wanted(&self) {
        self.0.rotation_wanted.notified().await;
    }

    /// The next request.
    pub fn next_rotation_request(&self) -> Option<CaRotationRequest> {
        lock(&self.0.rotation_requests).pop_front()
    }

    /// The keys of the host's CA: the root, then the issuing CAs, the active one first. Empty before the first
    /// snapshot.
    pub fn key_reports(&self) -> Vec<KeyReport> {
        self.0.active.load().as_ref().map_or_else(Vec::new, |snapshot| snapshot.key_reports.clone())
    }
}
