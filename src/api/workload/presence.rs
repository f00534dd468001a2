//! The caller of one connection, for as long as it follows streams: who it is now, and whether it is there still.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tonic::Status;

use super::status;
use crate::agents::{Agent, Registry};
use crate::api::crowd::Following;
use crate::api::guest::Guest;
use crate::federation::Bundles;
use crate::issue::Standing;
use crate::peer::{self, Facts, Look, Peer};
use crate::policy::Reason;
use crate::posture::Posture;
use crate::road::{Refused, Road};

/// How often a caller with open streams is looked at: what changes is pushed within twice that.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// What names and groups mean is asked anew after this long, whatever else stays the same.
const BELIEVED: Duration = Duration::from_secs(30);
/// A connection on which nothing is open for this long is closed.
const IDLE_MOST: Duration = Duration::from_secs(60);
/// The caller of a process that has ended hears no more than this long why.
const LAST_WORD: Duration = Duration::from_millis(500);

/// What a stream is made of, as it is now.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Nobody has asked for a stream yet.
    Nobody,
    /// The agents that the caller is, the default one first.
    Agents(Arc<[Agent]>),
    /// The caller is no agent any more, or has ended.
    Gone,
    /// The daemon ends.
    Closing,
}

impl Seen {
    fn is_of(&self, agents: &[Agent]) -> bool {
        let Seen::Agents(seen) = self else { return false };
        seen.len() == agents.len() && seen.iter().zip(agents).all(|(one, other)| one.is_same(other))
    }
}

/// One connection's caller.
pub struct Presence {
    guest: Guest,
    road: Road,
    /// Calls that are open, and those of them that make the connection one that is at work.
    open: AtomicUsize,
    at_work: AtomicUsize,
    /// When the last call was closed.
    rested: Mutex<Instant>,
    seen: watch::Sender<Seen>,
    followed: Notify,
}

/// One open call.
pub struct Open {
    presence: Arc<Presence>,
    work: bool,
}

/// By what an earlier look is known to hold still.
struct Basis {
    peer: Peer,
    registry: Arc<Registry>,
    standing: Option<Arc<Standing>>,
    bundles: Arc<Bundles>,
    /// Of the host's CA.
    authority: u64,
    posture: Posture,
    at: Instant,
}

impl Presence {
    pub fn new(guest: Guest, road: Road) -> Arc<Presence> {
        Arc::new(Presence {
            guest,
            road,
            open: AtomicUsize::new(0),
            at_work: AtomicUsize::new(0),
            rested: Mutex::new(Instant::now()),
            seen: watch::Sender::new(Seen::Nobody),
            followed: Notify::new(),
        })
    }

    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Counts a call in. With `work` the connection need not make room for others meanwhile.
    pub fn open(self: &Arc<Self>, work: bool) -> Open {
        self.guest.speaks();
        self.open.fetch_add(1, Ordering::Relaxed);
        if work {
            self.at_work.fetch_add(1, Ordering::Relaxed);
        }
        Open { presence: self.clone(), work }
    }

    /// One look at the caller, for a call that has arrived whole.
    pub fn look(&self) -> Look {
        self.guest.look()
    }

    /// Begins a stream: who the caller is, from now on, and the place that it takes.
    pub async fn follow(&self) -> Result<(watch::Receiver<Seen>, Following), Status> {
        let agents = match self.road.identities(self.look()).await {
            Ok(agents) => agents,
            Err(refused) => return Err(self.refuse(&refused).await),
        };
        self.guest.pace(false);
        let Some(place) = self.guest.follow() else {
            return Err(Status::unavailable("this user follows as many streams as it may; close some"));
        };
        let receiver = self.seen.subscribe();
        // What was seen for an earlier stream may be long ago. Where it is the same, nobody is woken: a caller would have
        // all its streams do their work again each time that it opens another.
        if !self.seen.borrow().is_of(&agents) {
            self.show(Seen::Agents(agents.into()));
        }
        self.followed.notify_one();
        Ok((receiver, place))
    }

    /// Shows the streams what is seen now. The daemon's end is not undone by who comes late.
    fn show(&self, now: Seen) {
        self.seen.send_if_modified(|seen| {
            let open = !matches!(seen, Seen::Closing);
            if open {
                *seen = now;
            }
            open
        });
    }

    /// What a refusal is to gRPC; one of a flood takes its time.
    pub async fn refuse(&self, refused: &Refused) -> Status {
        let flood = matches!(refused, Refused::Recorded(refusal) if refusal.get().reason == Reason::SlowDown);
        if let Some(wait) = self.guest.pace(flood) {
            tokio::time::sleep(wait).await;
        }
        status::of(refused)
    }

    /// Ends all streams, as the daemon does.
    pub fn close(&self) {
        self.seen.send_replace(Seen::Closing);
    }

    /// Looks after the caller. Returns when its connection is of no more use.
    pub async fn attend(&self) {
        let mut basis = None;
        loop {
            if self.seen.receiver_count() == 0 {
                basis = None;
                if self.idle() {
                    return;
                }
                tokio::select! {
                    () = self.followed.notified() => {}
                    () = tokio::time::sleep(IDLE_MOST) => {}
                }
                continue;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            if self.look_again(&mut basis).await.is_none() {
                tokio::time::sleep(LAST_WORD).await;
                return;
            }
        }
    }

    fn idle(&self) -> bool {
        let rested = *self.rested.lock().unwrap_or_else(PoisonError::into_inner);
        self.open.load(Ordering::Relaxed) == 0 && rested.elapsed() >= IDLE_MOST
    }

    /// Tells the streams what is new. None where the process that opened the connection is not there any more.
    async fn look_again(&self, basis: &mut Option<Basis>) -> Option<()> {
        let looked = self.look();
        if self.at_work.load(Ordering::Relaxed) == 0 {
            self.guest.rests();
        }
        let peer = match looked.peer {
            Ok(peer) => peer,
            // The next look will tell.
            Err(peer::Error::Raced | peer::Error::Kernel(_)) => return Some(()),
            Err(_) => {
                self.show(Seen::Gone);
                return None;
            }
        };
        let now = Basis {
            peer,
            registry: self.road.agents.registry(),
            standing: self.road.issuer.standing(),
            bundles: self.road.federation.bundles(),
            authority: self.road.authority.state(),
            posture: self.road.posture(),
            at: Instant::now(),
        };
        if basis.as_ref().is_some_and(|before| before.holds(&now)) {
            return Some(());
        }
        let found = self.road.agents.identify_all(&now.peer, self.road.posture.measured()).await;
        *basis = Some(now);
        self.show(found.map_or(Seen::Gone, |agents| Seen::Agents(agents.into())));
        Some(())
    }
}

impl Basis {
    fn holds(&self, now: &Basis) -> bool {
        let same = |a: &Option<Arc<Standing>>, b: &Option<Arc<Standing>>| {
            a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr)
        };
        std::ptr::eq::<Facts>(&*self.peer, &*now.peer)
            && Arc::ptr_eq(&self.registry, &now.registry)
            && same(&self.standing, &now.standing)
            && Arc::ptr_eq(&self.bundles, &now.bundles)
            && (self.authority, self.posture) == (now.authority, now.posture)
            && now.at.duration_since(self.at) < BELIEVED
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let presence = &self.presence;
        if self.work && presence.at_work.fetch_sub(1, Ordering::Relaxed) == 1 {
            presence.guest.rests();
        }
        if presence.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            *presence.rested.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}
