//! Records of decisions: what a process got, what it asked for, and what was refused.

use super::record::Record;
use super::suppressed::{Counted, Number};
use super::{Audit, AuditUnavailable, Recorded};
use crate::agents::{AgentEntry, AuthenticatedAgent};
use crate::credentials::ReleasedCredential;
use crate::delegation::DelegatedCgroup;
use crate::issue::{AccessToken, EvidenceResponse, Introspection, IssuedProof, JwtSvid, Nonce, WitSvid};
use crate::pki::IssuedX509Svid;
use crate::policy::Refusal;

impl Audit {
    /// Records an access token.
    pub async fn record_token(&self, token: AccessToken) -> Result<Recorded<AccessToken>, AuditUnavailable> {
        self.write(&Record::for_token(&token, self.clock.now())).await?;
        Ok(Recorded(token))
    }

    /// Records an X509-SVID.
    pub async fn record_certificate(
        &self,
        certificate: IssuedX509Svid,
    ) -> Result<Recorded<IssuedX509Svid>, AuditUnavailable> {
        self.write(&Record::for_certificate(&certificate, self.clock.now())).await?;
        Ok(Recorded(certificate))
    }

    /// Records the release of a credential.
    pub async fn record_credential(
        &self,
        released: ReleasedCredential,
    ) -> Result<Recorded<ReleasedCredential>, AuditUnavailable> {
        self.write(&Record::for_credential(&released, self.clock.now())).await?;
        Ok(Recorded(released))
    }

    /// Records a proof.
    pub async fn record_proof(&self, proof: IssuedProof) -> Result<Recorded<IssuedProof>, AuditUnavailable> {
        let permit = proof.permit();
        let subject = format!("{} {}", permit.kind().as_str(), permit.target());
        self.write(&Record::for_proof(&proof, &subject, self.clock.now())).await?;
        Ok(Recorded(proof))
    }

    /// Records that a cgroup was delegated.
    pub async fn record_delegation(
        &self,
        delegated: DelegatedCgroup,
    ) -> Result<Recorded<DelegatedCgroup>, AuditUnavailable> {
        let detail = delegated.description();
        self.write(&Record::for_delegation(&delegated, &detail, self.clock.now())).await?;
        Ok(Recorded(delegated))
    }

    /// Records JWT-SVIDs, with one line each.
    pub async fn record_jwt_svids(
        &self,
        svids: Vec<JwtSvid>,
    ) -> Result<Recorded<Vec<JwtSvid>>, AuditUnavailable> {
        let mut written = Vec::with_capacity(svids.len());
        for svid in &svids {
            let audience = svid.permit().audiences().join(" ");
            match self.write_line(&Record::for_jwt_svid(svid, &audience, self.clock.now()), None).await {
                Ok(seq) => written.push(seq),
                Err(unavailable) => {
                    // None of them is handed out.
                    written.into_iter().for_each(|seq| self.writer.0.note_unanswered(seq));
                    return Err(unavailable);
                }
            }
        }
        Ok(Recorded(svids))
    }

    /// Records a WIT-SVID.
    pub async fn record_wit_svid(&self, svid: WitSvid) -> Result<Recorded<WitSvid>, AuditUnavailable> {
        self.write(&Record::for_wit_svid(&svid, self.clock.now())).await?;
        Ok(Recorded(svid))
    }

    /// Records a refusal, with the number of this caller's refusals that have no record. `entry` is its agent as it is
    /// registered.
    pub async fn record_refusal(
        &self,
        mut refusal: Refusal,
        entry: Option<&AgentEntry>,
    ) -> Result<Recorded<Refusal>, AuditUnavailable> {
        let carried = self.suppressed.take_into(&mut refusal);
        self.write_line(&Record::for_refusal(&refusal, entry, self.clock.now()), Some(carried)).await?;
        Ok(Recorded(refusal))
    }

    /// Counts a refusal, and those in its `suppressed`, in the next record of a refusal of the same caller.
    pub fn count_refusal(&self, refusal: Refusal) -> Counted<Refusal> {
        self.suppressed.add(&refusal, Number::with_itself(&refusal));
        self.activity.note_counted(&refusal);
        Counted::new(refusal)
    }

    /// As [`Audit::count_refusal`], for a refusal that the rate limiter has counted already: it is in the
    /// [`unlogged`](crate::policy::RateLimited::unlogged) of a later one.
    pub fn pass_counted_refusal(&self, refusal: Refusal) -> Counted<Refusal> {
        self.suppressed.add(&refusal, Number::without_itself(&refusal));
        Counted::new(refusal)
    }

    /// Records an introspection: the agent that requested it and the answer.
    pub async fn record_introspection(
        &self,
        requester: &AuthenticatedAgent,
        introspection: Introspection,
    ) -> Result<Recorded<Introspection>, AuditUnavailable> {
        self.write(&Record::for_introspection(requester, &introspection, self.clock.now())).await?;
        self.watched.note_introspection(&introspection);
        Ok(Recorded(introspection))
    }

    /// Records that an agent revoked a token, or tried to.
    pub async fn record_token_revocation(
        &self,
        requester: &AuthenticatedAgent,
        jti: Option<&str>,
        detail: &str,
    ) -> Result<Recorded<()>, AuditUnavailable> {
        self.write(&Record::for_token_revocation(requester, jti, detail, self.clock.now())).await?;
        Ok(Recorded(()))
    }

    /// Records that an agent used a nonce up; `reason` says why it is not valid, if it is not.
    pub async fn record_used_nonce(
        &self,
        requester: &AuthenticatedAgent,
        reason: Option<&str>,
    ) -> Result<Recorded<bool>, AuditUnavailable> {
        self.write(&Record::for_used_nonce(requester, reason, self.clock.now())).await?;
        Ok(Recorded(reason.is_none()))
    }

    /// Records that evidence was issued to an agent, with the nonce.
    pub async fn record_attestation(
        &self,
        attestation: EvidenceResponse,
        nonce: &Nonce,
    ) -> Result<Recorded<EvidenceResponse>, AuditUnavailable> {
        let detail = format!("nonce {}", nonce.to_base64url());
        self.write(&Record::for_attestation(&attestation, &detail, self.clock.now())).await?;
        Ok(Recorded(attestation))
    }
}
