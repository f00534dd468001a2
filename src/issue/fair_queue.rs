//! A fair queue for TPM signatures: agents are served round robin, however many requests each of them has.
//!
//! A TPM signs a few times a second for the whole host, and its own queue is first in, first out. So one
//! token at a time is in that queue, and the other requests wait here, in one queue for each agent. Quotes
//! and rotations bypass this queue, and wait for at most one token.
//!
//! A cancelled request leaves its queue, or passes its slot on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::agents::AgentName;
use crate::mutex::lock;

/// How many requests may wait.
#[derive(Clone, Copy, Debug)]
struct QueueLimits {
    per_agent: usize,
    total: usize,
}

impl Default for QueueLimits {
    /// With these limits a fast TPM serves the last waiting request within the TPM deadline.
    fn default() -> QueueLimits {
        QueueLimits { per_agent: 64, total: 512 }
    }
}

/// Why a request is not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    /// 64 requests of this agent are waiting.
    PerAgent,
    /// 512 requests are waiting, at least one of them this agent's.
    Total,
}

/// The queue. Cheap to clone.
#[derive(Clone, Default)]
pub struct FairQueue(Arc<FairQueueShared>);

#[derive(Default)]
struct FairQueueShared {
    limits: QueueLimits,
    queues: Mutex<AgentQueues>,
}

#[derive(Default)]
struct AgentQueues {
    /// The agent that has the slot. Its next request is queued behind the other agents.
    current: Option<AgentName>,
    /// The other agents with waiting requests, the next one first. Each is here once.
    order: VecDeque<AgentName>,
    /// The waiting requests of each agent; no queue is empty.
    waiting: HashMap<AgentName, VecDeque<Waiter>>,
    waiting_count: usize,
    last_id: u64,
}

struct Waiter {
    id: u64,
    grant: oneshot::Sender<()>,
}

/// The right to have the TPM sign. Dropping it passes the slot to the next agent.
pub struct SigningSlot {
    queue: FairQueue,
}

impl FairQueue {
    #[cfg(test)]
    fn with_limits(limits: QueueLimits) -> FairQueue {
        FairQueue(Arc::new(FairQueueShared { limits, queues: Mutex::default() }))
    }

    /// Waits for the agent's turn. This future may be dropped at any time.
    pub async fn acquire(&self, agent: &AgentName) -> Result<SigningSlot, QueueFull> {
        let Some((mut entry, granted)) = self.enqueue(agent)? else {
            return Ok(SigningSlot { queue: self.clone() });
        };
        // The sender is in the queues, which `entry` keeps alive, so this ends with a grant.
        let _ = granted.await;
        entry.granted = true;
        Ok(SigningSlot { queue: self.clone() })
    }

    /// The number of waiting requests.
    pub fn waiting_count(&self) -> usize {
        self.lock().waiting_count
    }

    /// Appends a request to the agent's queue; `None` if the slot is free and the agent gets it at once.
    fn enqueue(&self, agent: &AgentName) -> Result<Option<(QueueEntry, oneshot::Receiver<()>)>, QueueFull> {
        let queues = &mut *self.lock();
        if queues.current.is_none() {
            queues.current = Some(agent.clone());
            return Ok(None);
        }
        if queues.waiting.get(agent).is_some_and(|own_queue| own_queue.len() >= self.0.limits.per_agent) {
            return Err(QueueFull::PerAgent);
        }
        // An agent without a waiting request may always queue one, so that a few agents cannot exclude the
        // others. The total is exceeded by at most one request for each agent.
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

    /// Passes the slot to the first request of the next agent.
    fn release(&self) {
        let next = self.lock().pop_next();
        if let Some(next) = next {
            // If the receiver has been dropped, the drop of its `QueueEntry` passes the slot on.
            let _ = next.grant.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, AgentQueues> {
        lock(&self.0.queues)
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

    /// Removes a request, and returns whether it was still waiting.
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

/// A waiting request.
struct QueueEntry {
    queue: FairQueue,
    agent: AgentName,
    id: u64,
    /// Whether it has become a [`SigningSlot`].
    granted: bool,
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        if self.granted {
            return;
        }
        let was_queued = self.queue.lock().cancel(&self.agent, self.id);
        // It was granted the slot after its future was dropped.
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

    /// Requests in the order of their arrival.
    struct TestQueue {
        queue: FairQueue,
        requests: Vec<QueuedRequest>,
    }

    impl TestQueue {
        fn new(limits: QueueLimits) -> TestQueue {
            TestQueue { queue: FairQueue::with_limits(limits), requests: Vec::new() }
        }

        /// `request_id` is an agent's name with a number, such as `a1`.
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

        /// The request that has the slot.
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

        /// The order in which the waiting requests are served, after `first` has ended.
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
                _ => panic!("another agent has the slot"),
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
            // Agent a has the slot when b queues again.
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
        // An agent without a waiting request may still queue one.
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
        // A request alone in its queue, and one of two in a queue.
        test_queue.requests.retain(|(id, _)| id != "c1" && id != "b1");
        assert_eq!(test_queue.queue.waiting_count(), 3);
        // A request that was granted the slot and not polled since.
        drop(first);
        test_queue.requests.retain(|(id, _)| id != "a1");
        let (request_id, slot) = test_queue.next_granted().unwrap();
        assert_eq!(request_id, "b2");
        assert_eq!(test_queue.serve_all(slot), ["d1"]);
        assert_eq!(test_queue.queue.waiting_count(), 0);
        drop(test_queue.acquire());
    }
}
