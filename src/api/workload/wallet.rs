//! What one stream keeps for its caller: a credential for each of its identities, renewed at half its life.

use std::future::Future;
use std::time::Duration;

use tonic::Status;

use super::status;
use crate::agents::Agent;
use crate::clock::Timestamp;
use crate::road::{Answer, Refused, Road};

/// A credential is renewed so long before or after half its life at most, as a part of it: those who came together are
/// not to come together for ever.
const JITTER: u32 = 20;
/// How soon what could not be renewed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The shortest sleep. Whoever follows is looked at anew every half minute, should the machine's clock be set meanwhile.
const NAP: Duration = Duration::from_millis(100);
/// A clock that is set back further than leaves allow for makes them ones of the future.
const CUSHION: Duration = Duration::from_secs(10);

/// What an identity is shown with.
pub trait Credential: Sized + Send + Sync + 'static {
    fn issue(road: &Road, agent: &Agent, told: bool) -> impl Future<Output = Answer<Self>> + Send;

    fn expires(&self) -> Timestamp;

    /// Random bits of it.
    fn chance(&self) -> u8;

    /// Whether it was revoked, as far as is known here.
    fn is_revoked(&self, road: &Road) -> bool;
}

pub struct Wallet<C> {
    kept: Vec<Kept<C>>,
    /// When there is something to do, whatever else happens.
    due: Option<Timestamp>,
    road: Road,
}

struct Kept<C> {
    id: String,
    /// The agent's name, by which a program may choose.
    hint: String,
    /// None for an identity that is refused.
    credential: Option<C>,
    made: Timestamp,
    renew_at: Timestamp,
    /// Whether the record says already that there is none, or no next one.
    told: bool,
}

impl<C: Credential> Wallet<C> {
    pub fn new(road: Road) -> Wallet<C> {
        Wallet { kept: Vec::new(), due: None, road }
    }

    pub fn road(&self) -> &Road {
        &self.road
    }

    /// Has a credential for each of `agents`, in their order, or for the one of them whose SPIFFE ID is `only`. Those that
    /// are refused are left out; where all are, the refusal is what the caller is told.
    pub async fn fill(&mut self, agents: &[Agent], only: Option<&str>) -> Result<(), Status> {
        self.due = None;
        let Some(standing) = self.road.issuer.standing() else {
            return Err(Status::unavailable(self.road.why_not_standing()));
        };
        let mut before = std::mem::take(&mut self.kept);
        let mut refused = None;
        for agent in agents {
            let id = standing.host().spiffe_id(agent.entry());
            if only.is_some_and(|only| only != id) {
                continue;
            }
            let now = self.road.clock.now();
            let old = before.iter().position(|kept| kept.id == id).map(|at| before.swap_remove(at));
            let told = old.as_ref().is_some_and(|kept| kept.told);
            let good = old.filter(|kept| kept.is_good(&self.road, now) && self.road.may_identify(agent));
            let kept = match good {
                Some(kept) if !kept.is_due(now) => kept,
                good => match C::issue(&self.road, agent, told).await {
                    Ok(issued) => Kept::new(id, agent, issued.into_inner(), now),
                    Err(no) => {
                        self.due = Some(now.after(RETRY));
                        let told = told || matches!(no, Refused::Recorded(_));
                        refused = refused.or(Some(no));
                        // What is there is good for the other half of its life.
                        let kept = good.unwrap_or_else(|| Kept::none(id, agent, now));
                        Kept { told, ..kept }
                    }
                },
            };
            self.kept.push(kept);
        }
        if self.entries().next().is_some() {
            self.due = self.due.or_else(|| self.kept.iter().map(|kept| kept.renew_at).min());
            return Ok(());
        }
        Err(refused.as_ref().map_or_else(status::no_identity, status::of))
    }

    /// Credentials with their hints; the default identity's comes first.
    pub fn entries(&self) -> impl Iterator<Item = (&C, &str)> {
        self.kept.iter().filter_map(|kept| Some((kept.credential.as_ref()?, kept.hint.as_str())))
    }

    pub fn due(&self) -> Option<Duration> {
        self.due.map(|due| due.since(self.road.clock.now()).max(NAP))
    }

    /// Whether anything in it is of use still.
    pub fn lasts(&self) -> bool {
        let now = self.road.clock.now();
        self.kept.iter().any(|kept| kept.is_good(&self.road, now))
    }
}

impl<C: Credential> Kept<C> {
    fn new(id: String, agent: &Agent, credential: C, now: Timestamp) -> Kept<C> {
        let renew_at = renew_at(now, credential.expires(), credential.chance());
        let hint = agent.name().to_string();
        Kept { id, hint, credential: Some(credential), made: now, renew_at, told: false }
    }

    fn none(id: String, agent: &Agent, now: Timestamp) -> Kept<C> {
        let hint = agent.name().to_string();
        Kept { id, hint, credential: None, made: now, renew_at: now.after(RETRY), told: true }
    }

    fn is_good(&self, road: &Road, now: Timestamp) -> bool {
        let Some(credential) = &self.credential else { return false };
        credential.expires() > now && self.made <= now.after(CUSHION) && !credential.is_revoked(road)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew_at
    }
}

/// Half of the life, give or take a part of it by chance.
fn renew_at(made: Timestamp, expires: Timestamp, chance: u8) -> Timestamp {
    let life = expires.since(made);
    let spread = (life / JITTER * 2).mul_f64(f64::from(chance) / f64::from(u8::MAX));
    made.after(life / 2 - life / JITTER + spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_about_half_way() {
        let made = Timestamp::from_secs(1_800_000_000);
        let expires = made.after(Duration::from_secs(3600));
        let after = |chance| renew_at(made, expires, chance).since(made).as_secs();
        assert_eq!((after(0), after(255)), (1620, 1980));
        assert!((1795..1805).contains(&after(127)));
    }
}
