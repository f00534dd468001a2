//! Turns at the TPM: one agent after the other, however many requests each of them has.
//!
//! A TPM signs a few times a second for the whole host, and its own queue serves in the order of arrival. So one token at
//! a time is in that queue, and whoever else wants one waits here: each agent in a queue of its own, the queues served in
//! turn. Quotes and rotations go to the TPM by themselves, and wait for one token at most.
//!
//! A caller that goes away leaves its place, or hands its turn on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::agents::AgentName;

/// How many requests may wait.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub per_agent: usize,
    pub total: usize,
}

impl Default for QueueLimits {
    /// A quick TPM signs for the last of them within its deadline.
    fn default() -> QueueLimits {
        QueueLimits { per_agent: 64, total: 512 }
    }
}

/// Why a request may not even wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    /// The agent has as many waiting as it may.
    PerAgent,
    /// All agents together have, and this one is among them.
    Total,
}

/// Who signs next. Cheap to clone.
#[derive(Clone, Default)]
pub struct FairQueue(Arc<FairQueueShared>);

#[derive(Default)]
struct FairQueueShared {
    limits: QueueLimits,
    queues: Mutex<AgentQueues>,
}

#[derive(Default)]
struct AgentQueues {
    /// Whose turn it is. This one's next request comes after all that have come by then.
    current: Option<AgentName>,
    /// The other agents with somebody waiting, the next one first. Each is here once.
    order: VecDeque<AgentName>,
    /// None of them empty.
    waiting: HashMap<AgentName, VecDeque<Waiter>>,
    waiting_count: usize,
    last_id: u64,
}

struct Waiter {
    id: u64,
    grant: oneshot::Sender<()>,
}

/// The right to have the TPM sign, until it is dropped.
pub struct SigningSlot {
    queue: FairQueue,
}

impl FairQueue {
    #[cfg(test)]
    fn with_limits(limits: QueueLimits) -> FairQueue {
        FairQueue(Arc::new(FairQueueShared { limits, queues: Mutex::default() }))
    }

    /// Waits for the agent's turn. Cancelling it costs nobody anything.
    pub async fn acquire(&self, agent: &AgentName) -> Result<SigningSlot, QueueFull> {
        let Some((mut entry, granted)) = self.enqueue(agent)? else {
            return Ok(SigningSlot { queue: self.clone() });
        };
        // The sender is dropped with the queues alone, which live as long as this does.
        let _ = granted.await;
        entry.granted = true;
        Ok(SigningSlot { queue: self.clone() })
    }

    /// How many wait.
    pub fn waiting_count(&self) -> usize {
        self.lock().waiting_count
    }

    /// A place in the agent's queue; none where it is the agent's turn at once.
    fn enqueue(&self, agent: &AgentName) -> Result<Option<(QueueEntry, oneshot::Receiver<()>)>, QueueFull> {
        let queues = &mut *self.lock();
        if queues.current.is_none() {
            queues.current = Some(agent.clone());
            return Ok(None);
        }
        if queues.waiting.get(agent).is_some_and(|own_queue| own_queue.len() >= self.0.limits.per_agent) {
            return Err(QueueFull::PerAgent);
        }
        // Whoever has nobody waiting yet finds a place however full it is: else a few agents could keep all others out.
        // There are no more of these places than agents.
        if queues.waiting_count >= self.0.limits.total && queues.waiting.contains_key(agent) {
            return Err(QueueFull::Total);
        }
        let (grant, granted) = oneshot::channel();
        queues.waiting_count += 1;
        queues.last_id += 1;
        let id = queues.last_id;
        if !queues.waiting.contains_key(agent) && queues.current.as_ref() != Some(agent) {
            queues.order.push_back(agent.clone());
        }
        queues.waiting.entry(agent.clone()).or_default().push_back(Waiter { id, grant });
        Ok(Some((QueueEntry { queue: self.clone(), agent: agent.clone(), id, granted: false }, granted)))
    }

    /// Ends a turn: the first of the next agent's queue is called.
    fn release(&self) {
        let next = self.lock().pop_next();
        if let Some(next) = next {
            // One that has gone meanwhile finds itself called, and passes the turn on itself.
            let _ = next.grant.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, AgentQueues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AgentQueues {
    fn pop_next(&mut self) -> Option<Waiter> {
        let previous = self.current.take();
        self.order.extend(previous.filter(|agent| self.waiting.contains_key(agent)));
        while let Some(agent) = self.order.pop_front() {
            let Some(queue) = self.waiting.get_mut(&agent) else { continue };
            let next = queue.pop_front();
            if queue.is_empty() {
                self.waiting.remove(&agent);
            }
            if next.is_some() {
                self.waiting_count -= 1;
                self.current = Some(agent);
                return next;
            }
        }
        None
    }

    /// Whether it still waited.
    fn cancel(&mut self, agent: &AgentName, id: u64) -> bool {
        let Some(queue) = self.waiting.get_mut(agent) else { return false };
        let before = queue.len();
        queue.retain(|waiter| waiter.id != id);
        let removed = queue.len() < before;
        if removed {
            self.waiting_count -= 1;
        }
        if queue.is_empty() {
            self.waiting.remove(agent);
            self.order.retain(|other| other != agent);
        }
        removed
    }
}

/// Somebody in a queue.
struct QueueEntry {
    queue: FairQueue,
    agent: AgentName,
    id: u64,
    /// Whether it has become a turn.
    granted: bool,
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        if self.granted {
            return;
        }
        let was_queued = self.queue.lock().cancel(&self.agent, self.id);
        // Not in the queue any more: it was called, and nobody was there to hear.
        if !was_queued {
            self.queue.release();
        }
    }
}

impl Drop for SigningSlot {
    fn drop(&mut self) {
        self.queue.release();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn agent(name: &str) -> AgentName {
        AgentName::parse(name).unwrap()
    }

    type QueuedRequest = (String, Pin<Box<dyn Future<Output = Result<SigningSlot, QueueFull>>>>);

    /// Requests in the order of their arrival, and a signer that serves whoever has the turn, one at a time.
    struct TestQueue {
        queue: FairQueue,
        requests: Vec<QueuedRequest>,
    }

    impl TestQueue {
        fn new(limits: QueueLimits) -> TestQueue {
            TestQueue { queue: FairQueue::with_limits(limits), requests: Vec::new() }
        }

        /// `who` is an agent's name with a number: `a1`.
        fn enqueue(&mut self, request_id: &str) {
            let (queue, name) = (self.queue.clone(), agent(&request_id[..1]));
            let mut request: Pin<Box<dyn Future<Output = _>>> =
                Box::pin(async move { queue.acquire(&name).await });
            assert!(
                request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(),
                "{request_id}"
            );
            self.requests.push((request_id.to_owned(), request));
        }

        /// Whose turn it is, if anybody's.
        fn next_granted(&mut self) -> Option<(String, SigningSlot)> {
            let mut context = Context::from_waker(Waker::noop());
            for at in 0..self.requests.len() {
                if let Poll::Ready(slot) = self.requests[at].1.as_mut().poll(&mut context) {
                    let (request_id, _) = self.requests.remove(at);
                    return Some((request_id, slot.unwrap_or_else(|full| panic!("{full:?}"))));
                }
            }
            None
        }

        /// The order in which all that wait are served, after `first` has ended.
        fn serve_all(&mut self, first: SigningSlot) -> Vec<String> {
            drop(first);
            let mut order = Vec::new();
            while let Some((request_id, slot)) = self.next_granted() {
                assert!(self.next_granted().is_none(), "two at once");
                order.push(request_id);
                drop(slot);
            }
            order
        }

        fn acquire(&self) -> SigningSlot {
            let name = agent("z");
            match pin!(self.queue.acquire(&name)).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(slot)) => slot,
                _ => panic!("it is somebody else's turn"),
            }
        }
    }

    const LARGE_LIMITS: QueueLimits = QueueLimits { per_agent: 100, total: 1000 };

    #[test]
    fn agents_are_served_round_robin() {
        let mut test_queue = TestQueue::new(LARGE_LIMITS);
        let first = test_queue.acquire();
        for request_id in ["a1", "a2", "a3", "a4", "b1", "c1", "b2"] {
            test_queue.enqueue(request_id);
        }
        assert_eq!(test_queue.serve_all(first), ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
        assert_eq!(test_queue.queue.waiting_count(), 0);
        drop(test_queue.acquire());
    }

    #[test]
    fn sequential_requests_wait_for_one_request_of_each_other_agent() {
        let mut test_queue = TestQueue::new(LARGE_LIMITS);
        let mut slot = test_queue.acquire();
        for n in 0..20 {
            test_queue.enqueue(&format!("a{n}"));
        }
        let mut order = Vec::new();
        for n in 0..10 {
            // Somebody else's turn has begun when b asks again.
            drop(slot);
            (_, slot) = test_queue.next_granted().unwrap();
            order.push("a".to_owned());
            test_queue.enqueue(&format!("b{n}"));
            drop(slot);
            let (request_id, next) = test_queue.next_granted().unwrap();
            order.push(request_id);
            slot = next;
        }
        let others: Vec<String> = (0..10).flat_map(|n| ["a".to_owned(), format!("b{n}")]).collect();
        assert_eq!(order, others);
        drop(slot);
    }

    #[test]
    fn per_agent_and_total_limits_are_enforced() {
        let mut test_queue = TestQueue::new(QueueLimits { per_agent: 2, total: 3 });
        let first = test_queue.acquire();
        test_queue.enqueue("a1");
        test_queue.enqueue("a2");
        assert_eq!(test_queue.queue.enqueue(&agent("a")).err(), Some(QueueFull::PerAgent));
        test_queue.enqueue("b1");
        assert_eq!(test_queue.queue.enqueue(&agent("b")).err(), Some(QueueFull::Total));
        // But for one of each agent that has none there.
        test_queue.enqueue("c1");
        test_queue.enqueue("d1");
        assert_eq!(test_queue.queue.enqueue(&agent("c")).err(), Some(QueueFull::Total));
        assert_eq!(test_queue.serve_all(first), ["a1", "b1", "c1", "d1", "a2"]);
        assert_eq!(test_queue.queue.waiting_count(), 0);
    }

    #[test]
    fn cancelled_requests_leave_the_queue_or_release_their_slot() {
        let mut test_queue = TestQueue::new(LARGE_LIMITS);
        let first = test_queue.acquire();
        for request_id in ["a1", "b1", "b2", "c1", "d1"] {
            test_queue.enqueue(request_id);
        }
        // One that waits, alone in its queue, and one of two.
        test_queue.requests.retain(|(who, _)| who != "c1" && who != "b1");
        assert_eq!(test_queue.queue.waiting_count(), 3);
        // One that is called and does not hear it any more.
        drop(first);
        test_queue.requests.retain(|(who, _)| who != "a1");
        let (request_id, slot) = test_queue.next_granted().unwrap();
        assert_eq!(request_id, "b2");
        assert_eq!(test_queue.serve_all(slot), ["d1"]);
        assert_eq!(test_queue.queue.waiting_count(), 0);
        drop(test_queue.acquire());
    }
}
