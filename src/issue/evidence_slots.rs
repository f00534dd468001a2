//! A bound on the evidence documents in memory, which callers cannot occupy for long.
//!
//! Each document holds the host's whole logs until its caller has received it. An agent has one slot at a
//! time, and a uid two, so that others find a free one. A caller that waits takes the slot of one that has
//! been receiving its reply for 2 seconds, and the daemon ends that connection; while no caller waits, the
//! reply may take as long as any.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::agents::AgentName;
use crate::mutex::lock;

/// Documents in memory at once: about 100 MiB with the longest logs, more while they are signed.
const MAX_EVIDENCE_SLOTS: usize = 4;
/// Slots of one uid, which can be several agents. An agent has at most one slot.
const MAX_SLOTS_PER_UID: usize = 2;
/// How long a caller waits for a slot.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller may receive its reply while others wait: tens of megabytes take less than a second.
const RECALL_AFTER: Duration = Duration::from_secs(2);
/// Interval at which a waiting caller looks for a slot to recall.
const RECALL_INTERVAL: Duration = Duration::from_millis(500);

/// All slots: 4. Cheap to clone; clones share the slots.
#[derive(Clone, Debug, Default)]
pub struct EvidenceSlots(Arc<Mutex<SlotTable>>);

/// One slot, occupied until its last clone is dropped.
#[derive(Clone, Debug)]
pub struct EvidenceSlot(Arc<Request>);

/// A request for a slot, first waiting and then occupying one. Dropping it ends either.
#[derive(Debug)]
struct Request {
    slots: EvidenceSlots,
    id: u64,
}

#[derive(Debug, Default)]
struct SlotTable {
    last_id: u64,
    occupied: Vec<OccupiedSlot>,
    /// In the order of arrival. The rate of quotes bounds the number of each agent's requests.
    waiting: VecDeque<WaitingRequest>,
}

#[derive(Clone, Debug)]
struct Owner {
    agent: AgentName,
    uid: u32,
}

#[derive(Debug)]
struct OccupiedSlot {
    id: u64,
    owner: Owner,
    /// `None` while the evidence is made, and after the slot was recalled.
    delivery: Option<Delivery>,
}

/// A reply that its caller is receiving.
#[derive(Debug)]
struct Delivery {
    since: Instant,
    recall: Arc<Notify>,
}

#[derive(Debug)]
struct WaitingRequest {
    id: u64,
    owner: Owner,
    granted: oneshot::Sender<()>,
}

impl EvidenceSlots {
    /// The next free slot for a request of this agent, whose process has this uid; `None` if none becomes
    /// free within 5 seconds. This future may be dropped at any time.
    pub async fn acquire(&self, agent: &AgentName, uid: u32) -> Option<EvidenceSlot> {
        let owner = Owner { agent: agent.clone(), uid };
        let (id, mut granted) = self.lock().enqueue(owner.clone());
        let request = Request { slots: self.clone(), id };
        let deadline = Instant::now() + ACQUIRE_TIMEOUT;
        while granted.try_recv().is_err() {
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            let next_recall = self.lock().recall_for(&owner, now);
            tokio::select! {
                _ = &mut granted => break,
                () = sleep_until(next_recall.min(deadline)) => {}
            }
        }
        Some(EvidenceSlot(Arc::new(request)))
    }

    fn lock(&self) -> MutexGuard<'_, SlotTable> {
        lock(&self.0)
    }
}

impl EvidenceSlot {
    /// Bytes that occupy the slot until their last clone or slice is dropped. From now on the slot can be
    /// recalled: `recall` is notified, and its receiver drops them.
    ///
    /// The response body cannot hold the slot itself: hyper drops a body once its bytes are queued for
    /// writing.
    pub fn guard_bytes(self, bytes: Vec<u8>, recall: Arc<Notify>) -> Bytes {
        let delivery = Delivery { since: Instant::now(), recall };
        self.0.slots.lock().start_delivery(self.0.id, delivery);
        Bytes::from_owner(SlotBytes { bytes, _slot: self })
    }
}

struct SlotBytes {
    bytes: Vec<u8>,
    _slot: EvidenceSlot,
}

impl AsRef<[u8]> for SlotBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.slots.lock().remove(self.id);
    }
}

impl SlotTable {
    /// Appends a request, which is granted at once where a slot is free.
    fn enqueue(&mut self, owner: Owner) -> (u64, oneshot::Receiver<()>) {
        let (granted, receiver) = oneshot::channel();
        self.last_id += 1;
        self.waiting.push_back(WaitingRequest { id: self.last_id, owner, granted });
        self.grant();
        (self.last_id, receiver)
    }

    fn remove(&mut self, id: u64) {
        self.occupied.retain(|slot| slot.id != id);
        self.waiting.retain(|request| request.id != id);
        self.grant();
    }

    /// Grants the free slots in the order of the requests, without those of owners that have as many slots as
    /// they may.
    fn grant(&mut self) {
        let mut at = 0;
        while self.occupied.len() < MAX_EVIDENCE_SLOTS && at < self.waiting.len() {
            if !self.blocking_slots(&self.waiting[at].owner).is_empty() {
                at += 1;
                continue;
            }
            let Some(request) = self.waiting.remove(at) else { return };
            self.occupied.push(OccupiedSlot { id: request.id, owner: request.owner, delivery: None });
            // If the receiver has been dropped, the drop of its `Request` frees the slot.
            let _ = request.granted.send(());
        }
    }

    /// The slots of which one has to become free before the owner gets one; none where it gets one now.
    fn blocking_slots(&self, owner: &Owner) -> Vec<usize> {
        let of_agent = self.positions(|other| other.agent == owner.agent);
        if !of_agent.is_empty() {
            return of_agent;
        }
        let of_uid = self.positions(|other| other.uid == owner.uid);
        if of_uid.len() >= MAX_SLOTS_PER_UID {
            return of_uid;
        }
        let all = self.positions(|_| true);
        if all.len() >= MAX_EVIDENCE_SLOTS { all } else { Vec::new() }
    }

    fn positions(&self, belongs: impl Fn(&Owner) -> bool) -> Vec<usize> {
        (0..self.occupied.len()).filter(|at| belongs(&self.occupied[*at].owner)).collect()
    }

    /// Recalls the slot in the owner's way whose reply is being received for the longest time, once that is 2
    /// seconds. Returns when to look again.
    fn recall_for(&mut self, owner: &Owner, now: Instant) -> Instant {
        let delivered_since = |at: usize| Some(self.occupied[at].delivery.as_ref()?.since);
        let longest =
            self.blocking_slots(owner).into_iter().filter_map(|at| Some((delivered_since(at)?, at))).min();
        let Some((since, at)) = longest else { return now + RECALL_INTERVAL };
        if now < since + RECALL_AFTER {
            return since + RECALL_AFTER;
        }
        if let Some(delivery) = self.occupied[at].delivery.take() {
            delivery.recall.notify_one();
        }
        now + RECALL_INTERVAL
    }

    fn start_delivery(&mut self, id: u64, delivery: Delivery) {
        if let Some(slot) = self.occupied.iter_mut().find(|slot| slot.id == id) {
            slot.delivery = Some(delivery);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(agent: &str, uid: u32) -> Owner {
        Owner { agent: AgentName::parse(agent).unwrap(), uid }
    }

    #[test]
    fn slot_is_held_while_any_of_its_bytes_exist() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let slots = EvidenceSlots::default();
            let agent = AgentName::parse("a").unwrap();
            let slot = slots.acquire(&agent, 1).await.unwrap();
            let bytes = slot.guard_bytes(vec![1, 2, 3], Arc::default());
            let rest = bytes.slice(2..);
            drop(bytes);
            assert_eq!(slots.lock().occupied.len(), 1);
            drop(rest);
            assert_eq!(slots.lock().occupied.len(), 0);
        });
    }

    #[test]
    fn an_agent_has_one_slot_and_a_uid_two() {
        let mut table = SlotTable::default();
        let (first, mut granted) = table.enqueue(owner("a", 1));
        granted.try_recv().unwrap();
        let (_, mut same_agent) = table.enqueue(owner("a", 1));
        let (_, mut same_uid) = table.enqueue(owner("b", 1));
        let (_, mut third_of_uid) = table.enqueue(owner("c", 1));
        let (_, mut other) = table.enqueue(owner("d", 2));
        let (_, mut last) = table.enqueue(owner("e", 3));
        assert!(same_agent.try_recv().is_err() && third_of_uid.try_recv().is_err());
        for granted in [&mut same_uid, &mut other, &mut last] {
            granted.try_recv().unwrap();
        }
        let (_, mut without_slot) = table.enqueue(owner("f", 4));
        assert!(without_slot.try_recv().is_err(), "all four are occupied");
        table.remove(first);
        same_agent.try_recv().expect("the first that waits and may have it");
        assert!(third_of_uid.try_recv().is_err() && without_slot.try_recv().is_err());
    }

    #[test]
    fn longest_delivery_is_recalled_for_one_that_waits_and_only_its_own_for_one_that_has_a_slot() {
        let mut table = SlotTable::default();
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let notified = |recall: &Arc<Notify>| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async { tokio::time::timeout(Duration::ZERO, recall.notified()).await.is_ok() })
        };
        let recalls: Vec<_> = (0..4u32)
            .map(|n| {
                let (id, _) = table.enqueue(owner(&format!("agent{n}"), n));
                let recall = Arc::new(Notify::new());
                // The first has no reply yet.
                if n > 0 {
                    let delivery = Delivery { since: after(u64::from(n)), recall: recall.clone() };
                    table.start_delivery(id, delivery);
                }
                recall
            })
            .collect();
        assert_eq!(table.recall_for(&owner("other", 9), after(2)), after(3), "agent1 has 2 s");
        assert_eq!(table.recall_for(&owner("agent3", 3), after(3)), after(5), "it waits for its own slot");
        assert!(!recalls.iter().any(&notified));
        assert_eq!(table.recall_for(&owner("other", 9), after(3)), after(3) + RECALL_INTERVAL);
        assert_eq!(recalls.iter().map(notified).collect::<Vec<_>>(), [false, true, false, false]);
        assert_eq!(table.recall_for(&owner("other", 9), after(3)), after(4), "agent2 is next");
    }
}
