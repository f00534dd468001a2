//! Reads what earlier processes of the daemon recorded of agents, page by page, the latest records first.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::activity::{Activity, State, is_issue, is_remembered};
use super::event::Event;
use super::filter::{AuditQuery, PageStart};
use super::live_tokens::Now;
use super::query::read_page;
use super::used_record::UsedRecord;
use crate::agents::{AgentEntry, AgentSet};
use crate::clock::{Clock, Timestamp};
use crate::policy::ErrorCode;
use crate::revocation::{RevocationSet, Revocations, Target, TargetKind};

/// Records of one page, so that reading one takes a few milliseconds.
const PAGE_RECORDS: usize = 512;
/// Bytes of records that are read; of a longer log, the latest count.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Reads the part of the log that was written before this process.
pub struct ActivityReader {
    activity: Activity,
    dir: PathBuf,
    query: AuditQuery,
    bytes: usize,
    read: State,
    /// The time of the earliest record that was read.
    since: Timestamp,
    agents: Arc<AgentSet>,
    revocations: Revocations,
    clock: Clock,
}

impl ActivityReader {
    /// Reads the records of the log in `dir` before the one with this number.
    pub(super) fn new(
        activity: Activity,
        dir: PathBuf,
        before: u64,
        agents: Arc<AgentSet>,
        revocations: Revocations,
        clock: Clock,
    ) -> ActivityReader {
        let query = AuditQuery { start: PageStart::Before(before), ..AuditQuery::default() };
        let since = clock.now();
        let read = State::default();
        ActivityReader { activity, dir, query, bytes: 0, read, since, agents, revocations, clock }
    }

    /// Reads one page, and returns whether there is another one. Blocking, for a few milliseconds.
    ///
    /// # Errors
    /// The log cannot be read. What was read before counts.
    pub fn read_page(&mut self) -> io::Result<bool> {
        let page = read_page(&self.dir, &self.query, PAGE_RECORDS)?;
        let revocations = self.revocations.current();
        for record in page.records.iter().rev() {
            self.bytes += record.get().len();
            if let Ok(record) = serde_json::from_str::<UsedRecord<'_>>(record.get()) {
                self.since = self.since.min(record.time);
                self.add(&record, &revocations);
            }
        }
        match page.first.filter(|_| page.has_more && self.bytes < MAX_BYTES) {
            Some(first) => self.query.start = PageStart::Before(first),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Adds what was read to the activity.
    pub fn finish(self) {
        let ActivityReader { activity, read, since, agents, .. } = self;
        activity.add(read, since, |name| agents.get(name).cloned());
    }

    fn add(&mut self, record: &UsedRecord<'_>, revocations: &RevocationSet) {
        let Some(peer) = &record.peer else { return };
        let event = Event::from_name(&record.event);
        let Some(name) = record.agent.as_deref() else {
            let is_unknown = event == Some(Event::RequestRefused)
                && record.reason.as_deref() == Some(ErrorCode::InvalidClient.as_str());
            if let Some(unit) = peer.unit.as_deref().filter(|unit| is_unknown && is_remembered(unit)) {
                self.read.unknown_unit(unit, peer.uid, record.time);
            }
            return;
        };
        let Some(agent) = self.read.agent(name) else { return };
        agent.seen_at(record.time);
        if !event.is_some_and(is_issue) {
            return;
        }
        self.activity.note_audiences(agent, record.audience.as_deref().unwrap_or_default());
        let now = self.clock.now();
        let expires = Timestamp::from_secs(record.exp.unwrap_or_default());
        if expires <= now {
            return;
        }
        let Some(entry) = self.agents.get(name) else { return };
        if is_revoked(record, entry, revocations)
            || record.jti.as_deref().is_some_and(|jti| self.revocations.is_token_revoked(jti))
        {
            return;
        }
        let time = Now { revocations, time: self.clock.boot_time() };
        agent.add_token(entry, peer.invocation.as_deref(), expires.since(now), time);
    }
}

/// Whether a target that has the token was revoked after its issue. Records have no epochs, so their times are compared.
fn is_revoked(record: &UsedRecord<'_>, entry: &AgentEntry, revocations: &RevocationSet) -> bool {
    if revocations.is_empty() {
        return false;
    }
    let invocation = record.peer.as_ref().and_then(|peer| peer.invocation.as_deref());
    let scopes = [
        (TargetKind::Everything, Some("")),
        (TargetKind::Tenant, entry.tenant.as_deref()),
        (TargetKind::Owner, entry.owner.as_deref()),
        (TargetKind::Agent, Some(entry.name.as_str())),
        (TargetKind::Invocation, invocation),
        (TargetKind::Key, record.kid.as_deref()),
    ];
    scopes.into_iter().any(|(kind, value)| {
        let target = value.map(|value| Target::new(kind, value));
        let revocation = target.and_then(|target| revocations.get(&target));
        // The database has whole seconds.
        revocation.is_some_and(|revocation| revocation.revoked_at.after(Duration::from_secs(1)) > record.time)
    })
}
