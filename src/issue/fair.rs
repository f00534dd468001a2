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

use crate::agents::Name;

/// How many requests may wait.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub each: usize,
    pub all: usize,
}

impl Default for Room {
    /// A quick TPM signs for the last of them within its deadline.
    fn default() -> Room {
        Room { each: 64, all: 512 }
    }
}

/// Why a request may not even wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The agent has as many waiting as it may.
    Mine,
    /// All agents together have, and this one is among them.
    Everyone,
}

/// Who signs next. Cheap to clone.
#[derive(Clone, Default)]
pub struct Turns(Arc<Inner>);

#[derive(Default)]
struct Inner {
    room: Room,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    /// Whose turn it is. This one's next request comes after all that have come by then.
    current: Option<Name>,
    /// The other agents with somebody waiting, the next one first. Each is here once.
    order: VecDeque<Name>,
    /// None of them empty.
    waiting: HashMap<Name, VecDeque<Waiter>>,
    count: usize,
    last: u64,
}

struct Waiter {
    number: u64,
    call: oneshot::Sender<()>,
}

/// The right to have the TPM sign, until it is dropped.
pub struct Turn {
    turns: Turns,
}

impl Turns {
    #[cfg(test)]
    fn with_room(room: Room) -> Turns {
        Turns(Arc::new(Inner { room, queues: Mutex::default() }))
    }

    /// Waits for the agent's turn. Cancelling it costs nobody anything.
    pub async fn turn(&self, agent: &Name) -> Result<Turn, Full> {
        let Some((mut place, call)) = self.enter(agent)? else { return Ok(Turn { turns: self.clone() }) };
        // The sender is dropped with the queues alone, which live as long as this does.
        let _ = call.await;
        place.used = true;
        Ok(Turn { turns: self.clone() })
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().count
    }

    /// A place in the agent's queue; none where it is the agent's turn at once.
    fn enter(&self, agent: &Name) -> Result<Option<(Place, oneshot::Receiver<()>)>, Full> {
        let queues = &mut *self.lock();
        if queues.current.is_none() {
            queues.current = Some(agent.clone());
            return Ok(None);
        }
        if queues.waiting.get(agent).is_some_and(|mine| mine.len() >= self.0.room.each) {
            return Err(Full::Mine);
        }
        // Whoever has nobody waiting yet finds a place however full it is: else a few agents could keep all others out.
        // There are no more of these places than agents.
        if queues.count >= self.0.room.all && queues.waiting.contains_key(agent) {
            return Err(Full::Everyone);
        }
        let (call, called) = oneshot::channel();
        queues.count += 1;
        queues.last += 1;
        let number = queues.last;
        if !queues.waiting.contains_key(agent) && queues.current.as_ref() != Some(agent) {
            queues.order.push_back(agent.clone());
        }
        queues.waiting.entry(agent.clone()).or_default().push_back(Waiter { number, call });
        Ok(Some((Place { turns: self.clone(), agent: agent.clone(), number, used: false }, called)))
    }

    /// Ends a turn: the first of the next agent's queue is called.
    fn pass_on(&self) {
        let next = self.lock().next();
        if let Some(next) = next {
            // One that has gone meanwhile finds itself called, and passes the turn on itself.
            let _ = next.call.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn next(&mut self) -> Option<Waiter> {
        let ended = self.current.take();
        self.order.extend(ended.filter(|agent| self.waiting.contains_key(agent)));
        while let Some(agent) = self.order.pop_front() {
            let Some(queue) = self.waiting.get_mut(&agent) else { continue };
            let next = queue.pop_front();
            if queue.is_empty() {
                self.waiting.remove(&agent);
            }
            if next.is_some() {
                self.count -= 1;
                self.current = Some(agent);
                return next;
            }
        }
        None
    }

    /// Whether it still waited.
    fn leave(&mut self, agent: &Name, number: u64) -> bool {
        let Some(queue) = self.waiting.get_mut(agent) else { return false };
        let before = queue.len();
        queue.retain(|waiter| waiter.number != number);
        let left = queue.len() < before;
        if left {
            self.count -= 1;
        }
        if queue.is_empty() {
            self.waiting.remove(agent);
            self.order.retain(|other| other != agent);
        }
        left
    }
}

/// Somebody in a queue.
struct Place {
    turns: Turns,
    agent: Name,
    number: u64,
    /// Whether it has become a turn.
    used: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        let waited = self.turns.lock().leave(&self.agent, self.number);
        // Not in the queue any more: it was called, and nobody was there to hear.
        if !waited {
            self.turns.pass_on();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn agent(name: &str) -> Name {
        Name::parse(name).unwrap()
    }

    type Waiting = (String, Pin<Box<dyn Future<Output = Result<Turn, Full>>>>);

    /// Requests in the order of their arrival, and a signer that serves whoever has the turn, one at a time.
    struct Scene {
        turns: Turns,
        requests: Vec<Waiting>,
    }

    impl Scene {
        fn new(room: Room) -> Scene {
            Scene { turns: Turns::with_room(room), requests: Vec::new() }
        }

        /// `who` is an agent's name with a number: `a1`.
        fn arrives(&mut self, who: &str) {
            let (turns, name) = (self.turns.clone(), agent(&who[..1]));
            let mut request: Pin<Box<dyn Future<Output = _>>> =
                Box::pin(async move { turns.turn(&name).await });
            assert!(request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "{who}");
            self.requests.push((who.to_owned(), request));
        }

        /// Whose turn it is, if anybody's.
        fn next(&mut self) -> Option<(String, Turn)> {
            let mut context = Context::from_waker(Waker::noop());
            for at in 0..self.requests.len() {
                if let Poll::Ready(turn) = self.requests[at].1.as_mut().poll(&mut context) {
                    let (who, _) = self.requests.remove(at);
                    return Some((who, turn.unwrap_or_else(|full| panic!("{full:?}"))));
                }
            }
            None
        }

        /// The order in which all that wait are served, after `first` has ended.
        fn served(&mut self, first: Turn) -> Vec<String> {
            drop(first);
            let mut order = Vec::new();
            while let Some((who, turn)) = self.next() {
                assert!(self.next().is_none(), "two at once");
                order.push(who);
                drop(turn);
            }
            order
        }

        fn takes(&self) -> Turn {
            let name = agent("z");
            match pin!(self.turns.turn(&name)).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(turn)) => turn,
                _ => panic!("it is somebody else's turn"),
            }
        }
    }

    const WIDE: Room = Room { each: 100, all: 1000 };

    #[test]
    fn agents_take_turns_however_many_requests_each_has() {
        let mut scene = Scene::new(WIDE);
        let first = scene.takes();
        for who in ["a1", "a2", "a3", "a4", "b1", "c1", "b2"] {
            scene.arrives(who);
        }
        assert_eq!(scene.served(first), ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
        assert_eq!(scene.turns.waiting(), 0);
        drop(scene.takes());
    }

    #[test]
    fn whoever_comes_one_by_one_waits_for_one_turn_of_each_other() {
        let mut scene = Scene::new(WIDE);
        let mut turn = scene.takes();
        for n in 0..20 {
            scene.arrives(&format!("a{n}"));
        }
        let mut order = Vec::new();
        for n in 0..10 {
            // Somebody else's turn has begun when b asks again.
            drop(turn);
            (_, turn) = scene.next().unwrap();
            order.push("a".to_owned());
            scene.arrives(&format!("b{n}"));
            drop(turn);
            let (who, next) = scene.next().unwrap();
            order.push(who);
            turn = next;
        }
        let others: Vec<String> = (0..10).flat_map(|n| ["a".to_owned(), format!("b{n}")]).collect();
        assert_eq!(order, others);
        drop(turn);
    }

    #[test]
    fn a_queue_is_full_for_its_agent_alone_and_all_queues_for_everybody() {
        let mut scene = Scene::new(Room { each: 2, all: 3 });
        let first = scene.takes();
        scene.arrives("a1");
        scene.arrives("a2");
        assert_eq!(scene.turns.enter(&agent("a")).err(), Some(Full::Mine));
        scene.arrives("b1");
        assert_eq!(scene.turns.enter(&agent("b")).err(), Some(Full::Everyone));
        // But for one of each agent that has none there.
        scene.arrives("c1");
        scene.arrives("d1");
        assert_eq!(scene.turns.enter(&agent("c")).err(), Some(Full::Everyone));
        assert_eq!(scene.served(first), ["a1", "b1", "c1", "d1", "a2"]);
        assert_eq!(scene.turns.waiting(), 0);
    }

    #[test]
    fn whoever_goes_away_leaves_the_queue_or_hands_its_turn_on() {
        let mut scene = Scene::new(WIDE);
        let first = scene.takes();
        for who in ["a1", "b1", "b2", "c1", "d1"] {
            scene.arrives(who);
        }
        // One that waits, alone in its queue, and one of two.
        scene.requests.retain(|(who, _)| who != "c1" && who != "b1");
        assert_eq!(scene.turns.waiting(), 3);
        // One that is called and does not hear it any more.
        drop(first);
        scene.requests.retain(|(who, _)| who != "a1");
        let (who, turn) = scene.next().unwrap();
        assert_eq!(who, "b2");
        assert_eq!(scene.served(turn), ["d1"]);
        assert_eq!(scene.turns.waiting(), 0);
        drop(scene.takes());
    }
}
