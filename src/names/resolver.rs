//! The thread that keeps the table, and the threads that look names up.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};

use crate::critical::spawn_critical;
use crate::mutex::lock;

use super::lookup::{LocalVersion, local_version, lookup};
use super::lookup_error::LookupError;
use super::schedule::{Schedule, Waiter};
use super::table::{Name, NameTable};

/// How often the local files are compared, and lookups that hang are noticed.
const TICK: Duration = Duration::from_secs(1);
/// Failed lookups of one table that are logged; `hostbadge status` lists all.
const MAX_LOGGED_PROBLEMS: usize = 8;
/// Results are published together if they arrive within this time.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// The names that this host uses, with their numbers. Clones share the state.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    table: ArcSwap<NameTable>,
    /// Called with each new table, before it is announced.
    listeners: Mutex<Vec<Listener>>,
    /// Notified of each new table.
    changed: watch::Sender<()>,
    /// Names that no reload removes.
    pinned: BTreeSet<Name>,
    messages: Sender<Message>,
}

type Listener = Box<dyn Fn() + Send + Sync>;

enum Message {
    Add(BTreeSet<Name>, Waiter),
    Retain(BTreeSet<Name>),
    Demand(Waiter),
    Found(Name, Result<Option<u32>, LookupError>),
}

impl Names {
    /// Starts the thread. It keeps the numbers of `pinned` names for the life of this value.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(pinned: impl IntoIterator<Item = Name>) -> io::Result<Names> {
        let (sender, receiver) = mpsc::channel();
        let names = Names(Arc::new(Shared {
            table: ArcSwap::default(),
            listeners: Mutex::default(),
            changed: watch::Sender::new(()),
            pinned: pinned.into_iter().collect(),
            messages: sender.clone(),
        }));
        let resolver = Resolver {
            shared: Arc::downgrade(&names.0),
            schedule: Schedule::default(),
            local_version: local_version(),
            compared_at: Instant::now(),
            published_at: Instant::now(),
            sender,
        };
        spawn_critical(thread::Builder::new(), "names", move || resolver.run(&receiver))?;
        Ok(names)
    }

    /// Looks up `names` and the pinned ones. Returns when all are known or failed, or after `timeout`; what
    /// is found later is in a later table. Blocking.
    pub fn resolve(&self, names: &BTreeSet<Name>, timeout: Duration) {
        let all: BTreeSet<Name> = names.union(&self.0.pinned).cloned().collect();
        if all.is_empty() {
            return;
        }
        let (done, ended) = mpsc::sync_channel(1);
        self.send(Message::Add(all, Waiter::Thread(done)));
        let _ = ended.recv_timeout(timeout);
    }

    /// Forgets all names but `names` and the pinned ones.
    pub fn retain(&self, names: &BTreeSet<Name>) {
        let all: BTreeSet<Name> = names.union(&self.0.pinned).cloned().collect();
        self.send(Message::Retain(all));
    }

    /// What is known now.
    pub fn table(&self) -> Arc<NameTable> {
        self.0.table.load_full()
    }

    /// Returns a receiver that is notified of each new table.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Has `listener` called on the thread of the names after each change of the table, before subscribers are
    /// notified and before [`Names::resolve`] and [`Names::demand`] return. It must not call these.
    pub fn on_change(&self, listener: impl Fn() + Send + Sync + 'static) {
        lock(&self.0.listeners).push(Box::new(listener));
    }

    /// Has the missing names looked up ahead of time, at most every 2 s, and waits for the result for at most
    /// `timeout`. Whether it came in time.
    pub async fn demand(&self, timeout: Duration) -> bool {
        let (done, ended) = oneshot::channel();
        self.send(Message::Demand(Waiter::Request(done)));
        tokio::time::timeout(timeout, ended).await.is_ok_and(|ended| ended.is_ok())
    }

    fn send(&self, message: Message) {
        // Fails only if the thread has ended; it runs as long as a [`Names`] exists.
        let _ = self.0.messages.send(message);
    }
}

struct Resolver {
    shared: Weak<Shared>,
    schedule: Schedule,
    local_version: LocalVersion,
    compared_at: Instant,
    published_at: Instant,
    sender: Sender<Message>,
}

impl Resolver {
    /// Runs until no [`Names`] is left.
    fn run(mut self, receiver: &Receiver<Message>) {
        loop {
            // Never disconnected, since this value has a sender.
            match receiver.recv_timeout(self.pause()) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            while let Ok(message) = receiver.try_recv() {
                self.take(message);
            }
            let Some(shared) = self.shared.upgrade() else { return };
            self.compare_local_files();
            let ended = self.schedule.advance(Instant::now());
            let is_due = self.schedule.has_changed() && self.published_at.elapsed() >= PUBLISH_INTERVAL;
            if is_due || !ended.is_empty() {
                self.publish(&shared);
            }
            ended.into_iter().for_each(Waiter::end);
            self.start_lookups();
        }
    }

    fn pause(&self) -> Duration {
        let until_due = |due: Instant| due.saturating_duration_since(Instant::now()).max(PUBLISH_INTERVAL);
        match self.schedule.has_changed() {
            true => PUBLISH_INTERVAL,
            false => self.schedule.next_due().map_or(TICK, until_due).min(TICK),
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Add(names, waiter) => self.schedule.add(names, waiter, Instant::now()),
            Message::Retain(names) => self.schedule.retain(&names),
            Message::Demand(waiter) => self.schedule.demand(waiter, Instant::now()),
            Message::Found(name, result) => self.schedule.finish(&name, result, Instant::now()),
        }
    }

    /// Has all names looked up again if a local file has changed. Its version is read before the lookups, so
    /// that a change during them is noticed later.
    fn compare_local_files(&mut self) {
        if self.schedule.is_empty() || self.compared_at.elapsed() < TICK {
            return;
        }
        self.compared_at = Instant::now();
        let version = local_version();
        if version != self.local_version {
            self.local_version = version;
            self.schedule.refresh(self.compared_at);
        }
    }

    /// Gives each lookup a thread of its own: a name service may hang in one of them for minutes.
    fn start_lookups(&mut self) {
        while let Some(name) = self.schedule.next(Instant::now()) {
            let (sender, looked_up) = (self.sender.clone(), name.clone());
            let thread = thread::Builder::new().name("name-lookup".into()).spawn(move || {
                let result = lookup(&looked_up);
                // Fails only if the daemon is ending.
                let _ = sender.send(Message::Found(looked_up, result));
            });
            if let Err(e) = thread {
                let _ = self.sender.send(Message::Found(name, Err(LookupError::Thread(e))));
            }
        }
    }

    fn publish(&mut self, shared: &Shared) {
        self.published_at = Instant::now();
        self.schedule.mark_published();
        let (table, previous) = (self.schedule.table(), shared.table.load_full());
        if table == *previous {
            return;
        }
        let new_problems = table.problems().iter().filter(|problem| !previous.problems().contains(problem));
        for problem in new_problems.take(MAX_LOGGED_PROBLEMS) {
            tracing::warn!(event = "name-lookup-failed", "{problem}");
        }
        if table.problems().is_empty() && !previous.problems().is_empty() {
            tracing::info!("all names of users and groups can be looked up again");
        }
        shared.table.store(Arc::new(table));
        lock(&shared.listeners).iter().for_each(|listener| listener());
        shared.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Resolution;

    #[tokio::test]
    async fn resolves_existing_and_missing_names() {
        let names = Names::start([Name::Group("root".into())]).unwrap();
        let missing = || Name::User("hostbadge-no-such-user".into());
        let used = BTreeSet::from([Name::User("root".into()), missing()]);
        names.resolve(&used, Duration::from_secs(30));
        let table = names.table();
        assert_eq!(table.user("root").current, Resolution::Number(0));
        assert_eq!(table.group("root").current, Resolution::Number(0));
        assert_eq!(table.user("hostbadge-no-such-user").current, Resolution::Missing);
        assert_eq!(table.user("not asked for").current, Resolution::Unknown);

        let mut changed = names.subscribe();
        names.retain(&BTreeSet::from([missing()]));
        changed.changed().await.unwrap();
        assert_eq!(names.table().user("root").current, Resolution::Unknown);
        assert_eq!(names.table().group("root").current, Resolution::Number(0), "pinned");
        assert!(names.demand(Duration::from_secs(30)).await);
    }
}
