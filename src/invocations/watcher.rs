//! Watches invocations until they end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};
use tokio::task::{AbortHandle, JoinSet};

use super::host_files::Presence;
use super::inotify::{EventQueue, await_readable};
use super::table::Invocations;
use super::{EMPTY_TIME, MAX_SESSIONS, MAX_WATCHED};
use crate::agents::AgentName;
use crate::clock::Timestamp;
use crate::peer::{INVOCATION_LINK_PREFIX, InvocationEnd, leader_pidfd};

/// A link of a unit is removed or replaced. systemd replaces it by rename(2).
const UNITS_EVENTS: AddWatchFlags = AddWatchFlags::IN_DELETE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);
/// What the kernel reports of a watch that is no longer one.
const WATCH_ENDED: AddWatchFlags = AddWatchFlags::IN_IGNORED
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT);
/// Watches that failed are tried again whenever an invocation is new, as many at once.
const RETRIES: usize = 16;

/// An invocation that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedInvocation {
    /// Its ID.
    pub id: Arc<str>,
    /// The agents to which something was issued in it.
    pub agents: Vec<AgentName>,
    /// When all that was issued has expired.
    pub until: Timestamp,
    /// What has ended, and how.
    pub reason: String,
}

/// Watches the invocations of an [`Invocations`]. It belongs to one task.
pub struct InvocationWatcher {
    invocations: Invocations,
    /// `None` while the kernel gives none.
    queue: Option<EventQueue>,
    /// The watch of systemd's directory of links.
    units_watch: Option<WatchDescriptor>,
    /// Invocations by system unit.
    by_unit: HashMap<String, Vec<Arc<str>>>,
    /// Invocations by cgroup: that of its processes, and that of the sub-agent which it was delegated to.
    by_watch: HashMap<WatchDescriptor, Vec<Arc<str>>>,
    cgroup_watches: HashMap<Arc<str>, WatchDescriptor>,
    sessions: JoinSet<Arc<str>>,
    session_tasks: HashMap<Arc<str>, AbortHandle>,
    /// When to look at a cgroup, and whether it was empty before. The earliest is the first.
    looks: VecDeque<(Instant, Arc<str>, bool)>,
    /// Those of `looks` that were empty.
    seen_empty: HashSet<Arc<str>>,
    unwatched: VecDeque<Arc<str>>,
    ended: VecDeque<EndedInvocation>,
}

impl InvocationWatcher {
    /// Watches nothing before [`InvocationWatcher::next`] is called.
    pub fn new(invocations: Invocations) -> InvocationWatcher {
        InvocationWatcher {
            invocations,
            queue: None,
            units_watch: None,
            by_unit: HashMap::new(),
            by_watch: HashMap::new(),
            cgroup_watches: HashMap::new(),
            sessions: JoinSet::new(),
            session_tasks: HashMap::new(),
            looks: VecDeque::new(),
            seen_empty: HashSet::new(),
            unwatched: VecDeque::new(),
            ended: VecDeque::new(),
        }
    }

    /// The next invocation that has ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> EndedInvocation {
        loop {
            if let Some(ended) = self.ended.pop_front() {
                return ended;
            }
            tokio::select! {
                () = self.invocations.added() => self.watch_added(),
                events = next_events(self.queue.as_ref()) => events.iter().for_each(|event| self.handle(event)),
                Some(joined) = self.sessions.join_next() => {
                    if let Ok(id) = joined {
                        self.end(&id, None);
                    }
                }
                () = wait_until(self.looks.front().map(|(at, ..)| *at)) => self.look(),
            }
        }
    }

    /// Watches what is new, then gives up what is too much.
    fn watch_added(&mut self) {
        for _ in 0..RETRIES.min(self.unwatched.len()) {
            let Some(id) = self.unwatched.pop_front() else { break };
            if let Some(end) = self.invocations.end_of(&id) {
                self.watch(id, &end);
            }
        }
        for (id, end) in self.invocations.take_added() {
            self.watch(id, &end);
        }
        let is_session = |end: &InvocationEnd| matches!(end, InvocationEnd::Session { .. });
        while let Some(id) = self.invocations.in_excess(MAX_SESSIONS, is_session) {
            self.end(&id, Some(format!("more than {MAX_SESSIONS} sessions are watched")));
        }
        while let Some(id) = self.invocations.in_excess(MAX_WATCHED, |_| true) {
            match self.invocations.end_of(&id) {
                Some(InvocationEnd::Unit(_)) => self.forget(&id),
                _ => self.end(&id, Some(format!("more than {MAX_WATCHED} invocations are watched"))),
            }
        }
        if self.unwatched.is_empty() {
            self.invocations.set_fault(None);
        }
    }

    fn watch(&mut self, id: Arc<str>, end: &InvocationEnd) {
        let watched = match end {
            InvocationEnd::Unit(unit) => {
                let ids = self.by_unit.entry(unit.clone()).or_default();
                if !ids.contains(&id) {
                    ids.push(id.clone());
                }
                self.watch_units()
            }
            InvocationEnd::Cgroup { path, .. } => self.watch_cgroup(&id, path),
            InvocationEnd::Session { leader, start_time } => self.watch_session(&id, *leader, *start_time),
            InvocationEnd::Boot => Ok(()),
        };
        self.invocations.set_watched(&id, watched.is_ok());
        // What ended before the watch began is noticed here.
        let presence = self.invocations.files().presence(&id, end);
        match presence {
            Presence::Ended => return self.end(&id, None),
            Presence::Empty => self.look_later(&id, true),
            // The kernel may drop the event of a cgroup that is removed within 10 ms after it changed.
            Presence::Running if matches!(end, InvocationEnd::Cgroup { .. }) => self.look_later(&id, false),
            Presence::Running => {}
        }
        if let Err(errno) = watched {
            self.invocations.set_fault(Some(fault(errno)));
            self.unwatched.push_back(id);
        }
    }

    fn watch_units(&mut self) -> Result<(), Errno> {
        if self.units_watch.is_none() {
            let dir = self.invocations.files().units.clone();
            match open_queue(&mut self.queue)?.add(&dir, UNITS_EVENTS) {
                Ok(watch) => self.units_watch = Some(watch),
                // Then no link is there either.
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn watch_cgroup(&mut self, id: &Arc<str>, path: &str) -> Result<(), Errno> {
        let Some(events) = self.invocations.files().cgroup_events(path) else { return Ok(()) };
        match open_queue(&mut self.queue)?.add(&events, AddWatchFlags::IN_MODIFY) {
            Ok(watch) => {
                // The kernel has one watch of a file, however often it is added.
                let ids = self.by_watch.entry(watch).or_default();
                if !ids.contains(id) {
                    ids.push(id.clone());
                }
                self.cgroup_watches.insert(id.clone(), watch);
                Ok(())
            }
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn watch_session(&mut self, id: &Arc<str>, leader: i32, start_time: u64) -> Result<(), Errno> {
        let Some(pidfd) = leader_pidfd(leader, start_time)? else { return Ok(()) };
        let errno = |e: io::Error| e.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw);
        let pidfd = await_readable(pidfd).map_err(errno)?;
        let ended = id.clone();
        let task = self.sessions.spawn(async move {
            match pidfd.readable().await {
                Ok(_) => ended,
                // The runtime shuts down.
                Err(_) => std::future::pending().await,
            }
        });
        self.session_tasks.insert(id.clone(), task);
        Ok(())
    }

    fn handle(&mut self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.invocations.ids().iter().for_each(|id| self.check(id));
        } else if self.units_watch == Some(event.wd) {
            self.handle_units(event);
        } else if let Some(ids) = self.by_watch.get(&event.wd).cloned() {
            ids.iter().for_each(|id| self.check(id));
        }
    }

    fn handle_units(&mut self, event: &InotifyEvent) {
        if event.mask.intersects(WATCH_ENDED) {
            if let (Some(watch), Some(queue)) = (self.units_watch.take(), &self.queue) {
                queue.remove(watch);
            }
            let ids: Vec<_> = self.by_unit.values().flatten().cloned().collect();
            // The directory may have been made again.
            if let Err(errno) = self.watch_units() {
                self.invocations.set_fault(Some(fault(errno)));
                self.unwatched.extend(ids.iter().cloned());
            }
            ids.iter().for_each(|id| self.check(id));
            return;
        }
        let unit = event.name.as_ref().and_then(|name| name.to_str()?.strip_prefix(INVOCATION_LINK_PREFIX));
        let ids = unit.and_then(|unit| self.by_unit.get(unit)).cloned().unwrap_or_default();
        ids.iter().for_each(|id| self.check(id));
    }

    /// Looks at an invocation of which something changed.
    fn check(&mut self, id: &Arc<str>) {
        let Some(end) = self.invocations.end_of(id) else { return };
        match self.invocations.files().presence(id, &end) {
            Presence::Running => {}
            Presence::Empty => self.look_later(id, true),
            Presence::Ended => self.end(id, None),
        }
    }

    fn look_later(&mut self, id: &Arc<str>, is_empty: bool) {
        if is_empty && !self.seen_empty.insert(id.clone()) {
            return;
        }
        self.looks.push_back((Instant::now() + EMPTY_TIME, id.clone(), is_empty));
    }

    /// Ends the cgroups that are still empty.
    fn look(&mut self) {
        let now = Instant::now();
        while self.looks.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, id, was_empty)) = self.looks.pop_front() else { return };
            if was_empty {
                self.seen_empty.remove(&id);
            }
            let Some(end) = self.invocations.end_of(&id) else { continue };
            match self.invocations.files().presence(&id, &end) {
                Presence::Running => {}
                Presence::Empty if !was_empty => self.look_later(&id, true),
                Presence::Empty | Presence::Ended => self.end(&id, None),
            }
        }
    }

    fn end(&mut self, id: &Arc<str>, reason: Option<String>) {
        self.unwatch(id);
        let Some(entry) = self.invocations.remove(id) else { return };
        let reason = reason.unwrap_or_else(|| description(&entry.end));
        let (agents, until) = (entry.agents, entry.until);
        self.ended.push_back(EndedInvocation { id: id.clone(), agents, until, reason });
    }

    /// Watches it no more, although it has not ended.
    fn forget(&mut self, id: &Arc<str>) {
        self.unwatch(id);
        self.invocations.remove(id);
    }

    fn unwatch(&mut self, id: &Arc<str>) {
        if let Some(task) = self.session_tasks.remove(id) {
            task.abort();
        }
        if let Some(watch) = self.cgroup_watches.remove(id)
            && let Some(ids) = self.by_watch.get_mut(&watch)
        {
            ids.retain(|one| one != id);
            if ids.is_empty() {
                self.by_watch.remove(&watch);
                if let Some(queue) = &self.queue {
                    queue.remove(watch);
                }
            }
        }
        if let Some(InvocationEnd::Unit(unit)) = self.invocations.end_of(id)
            && let Some(ids) = self.by_unit.get_mut(&unit)
        {
            ids.retain(|one| one != id);
            if ids.is_empty() {
                self.by_unit.remove(&unit);
            }
        }
    }
}

fn open_queue(queue: &mut Option<EventQueue>) -> Result<&EventQueue, Errno> {
    match queue {
        Some(queue) => Ok(queue),
        None => {
            let opened = EventQueue::open()
                .map_err(|error| error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))?;
            Ok(queue.insert(opened))
        }
    }
}

async fn next_events(queue: Option<&EventQueue>) -> Vec<InotifyEvent> {
    match queue {
        Some(queue) => queue.next().await,
        None => std::future::pending().await,
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn description(end: &InvocationEnd) -> String {
    match end {
        InvocationEnd::Unit(unit) => format!("the unit {unit} has stopped or was started again"),
        InvocationEnd::Cgroup { path, .. } => format!("no process is left in the cgroup {path}"),
        InvocationEnd::Session { leader, .. } => {
            format!("the leader of the session, process {leader}, has exited")
        }
        InvocationEnd::Boot => "the host was started again".to_owned(),
    }
}

fn fault(errno: Errno) -> String {
    let remedy = match errno {
        Errno::ENOSPC => "; raise the sysctl fs.inotify.max_user_watches",
        Errno::EMFILE => {
            "; raise the sysctl fs.inotify.max_user_instances, or LimitNOFILE= of hostbadged.service"
        }
        _ => "",
    };
    format!(
        "the end of some invocations is noticed only when a token is introspected, because the kernel does not \
         let hostbadged watch them ({}){remedy}",
        errno.desc()
    )
}
