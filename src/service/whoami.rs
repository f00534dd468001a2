//! What the daemon knows of a caller.

use super::convert;
use super::error::RequestError;
use super::identity_service::IdentityService;
use crate::peer::PeerLookup;
use crate::wire::agent::{Peer, WhoamiHost, WhoamiResponse};

impl IdentityService {
    /// The caller's process, its agents and this host. Only refusals are recorded, because nothing is issued.
    ///
    /// # Errors
    /// A recorded refusal where the caller cannot be read, matches no agent, or exceeds its rate.
    pub async fn whoami(&self, lookup: PeerLookup) -> Result<WhoamiResponse, RequestError> {
        let identified = async {
            let peer = self.require_peer(lookup)?;
            self.identify_any(&peer).await
        };
        let agent = match identified.await {
            Ok(agent) => agent,
            Err(rejection) => return Err(self.record_rejection(rejection).await),
        };
        let ima_digests = self.deps.posture.ima_digests();
        let agents = self.deps.agents.matching_entries(agent.peer(), ima_digests).await;
        let issuer_state = self.deps.issuer.state();
        let host = issuer_state.as_ref().map(|issuer_state| issuer_state.host());
        let only = match agents.as_slice() {
            [only] => Some(only),
            _ => None,
        };
        Ok(WhoamiResponse {
            agent: only.map(|entry| entry.name.to_string()),
            spiffe_id: only.and_then(|entry| host.map(|host| host.spiffe_id(entry))),
            agents: agents.iter().map(|entry| entry.name.to_string()).collect(),
            peer: Peer::from(&**agent.peer()),
            host: WhoamiHost {
                id: host.map(|host| host.id.clone()),
                tpm: host.map(convert::tpm_kind),
                posture: self.posture().into(),
            },
        })
    }
}
