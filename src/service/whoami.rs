//! What the daemon knows of a caller.

use super::convert;
use super::error::RequestError;
use super::identity_service::IdentityService;
use crate::agents::AuthenticatedAgent;
use crate::peer::PeerLookup;
use crate::wire::agent::{Peer, WhoamiDelegation, WhoamiHost, WhoamiResponse};

impl IdentityService {
    /// The caller's process, its agents and this host. Only refusals are recorded, because nothing is issued.
    ///
    /// # Errors
    /// A recorded refusal where the caller cannot be read, matches no agent, or exceeds its rate.
    pub async fn whoami(&self, lookup: PeerLookup) -> Result<WhoamiResponse, RequestError> {
        let identified = async {
            let peer = self.require_peer(lookup)?;
            let agents = self.matching_agents(&peer).await?;
            self.check_agent_rate(&agents[0])?;
            Ok(agents)
        };
        let agents = match identified.await {
            Ok(identified) => identified,
            Err(rejection) => return Err(self.record_rejection(rejection).await),
        };
        let issuer_state = self.deps.issuer.state();
        let host = issuer_state.as_ref().map(|issuer_state| issuer_state.host());
        let only = match agents.as_slice() {
            [only] => Some(only),
            _ => None,
        };
        Ok(WhoamiResponse {
            agent: only.map(|agent| agent.name().to_string()),
            spiffe_id: only.and_then(|agent| host.map(|host| host.spiffe_id(agent.entry()))),
            agents: agents.iter().map(|agent| agent.name().to_string()).collect(),
            delegation: only.and_then(AuthenticatedAgent::delegation).map(WhoamiDelegation::from),
            peer: Peer::from(&**agents[0].peer()),
            host: WhoamiHost {
                id: host.map(|host| host.id.clone()),
                tpm: host.map(convert::tpm_kind),
                posture: self.posture().into(),
            },
        })
    }
}
