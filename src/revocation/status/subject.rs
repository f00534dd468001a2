//! What tokens have in common that are revoked together.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::agents::MatchTag;
use crate::verify::agent_of_id;

/// Of a token that is about to be issued.
#[derive(Clone, Copy, Debug)]
pub struct NewSubject<'a> {
    /// The SPIFFE ID of the agent.
    pub spiffe_id: &'a str,
    /// The audiences, at least one.
    pub audiences: &'a [&'a str],
    /// The key that signs.
    pub kid: &'a str,
    /// The invocation of the process.
    pub invocation: Option<&'a str>,
    /// The epoch of the revocations at the decision.
    pub epoch: u64,
    /// The conditions that the process met.
    pub match_tag: MatchTag,
}

/// What several tokens have in common, once in memory.
#[derive(Debug)]
pub struct Subject {
    pub(super) id: u64,
    data: SubjectData,
    /// Whether `status-lists.db` has it.
    is_stored: AtomicBool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SubjectData {
    pub spiffe_id: Arc<str>,
    /// Separated by spaces, which no audience has.
    pub audiences: Arc<str>,
    pub kid: Arc<str>,
    pub invocation: Option<Box<str>>,
    pub epoch: u64,
    pub match_tag: MatchTag,
}

impl Subject {
    /// The SPIFFE ID of the agent.
    pub fn spiffe_id(&self) -> &str {
        &self.data.spiffe_id
    }

    /// The name of the agent.
    pub fn agent(&self) -> &str {
        agent_of_id(&self.data.spiffe_id).unwrap_or_default()
    }

    /// The audiences.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.data.audiences.split(' ')
    }

    /// The key that signed.
    pub fn kid(&self) -> &str {
        &self.data.kid
    }

    /// The invocation of the process.
    pub fn invocation(&self) -> Option<&str> {
        self.data.invocation.as_deref()
    }

    /// The epoch of the revocations at the issue.
    pub fn epoch(&self) -> u64 {
        self.data.epoch
    }

    /// The conditions that the process met.
    pub fn match_tag(&self) -> MatchTag {
        self.data.match_tag
    }

    pub(super) fn data(&self) -> &SubjectData {
        &self.data
    }

    pub(super) fn is_stored(&self) -> bool {
        self.is_stored.load(Ordering::Relaxed)
    }

    pub(super) fn set_stored(&self) {
        self.is_stored.store(true, Ordering::Relaxed);
    }
}

/// All subjects in use, each once.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    all: HashSet<ByData>,
    texts: HashSet<Arc<str>>,
    next_id: u64,
}

impl Subjects {
    /// The subject of a token.
    pub(super) fn get(&mut self, new: &NewSubject<'_>) -> Arc<Subject> {
        let audiences = match new.audiences {
            [one] => self.text(one),
            several => self.text(&several.join(" ")),
        };
        let data = SubjectData {
            spiffe_id: self.text(new.spiffe_id),
            audiences,
            kid: self.text(new.kid),
            invocation: new.invocation.map(Box::from),
            epoch: new.epoch,
            match_tag: new.match_tag,
        };
        if let Some(ByData(known)) = self.all.get(&data) {
            return known.clone();
        }
        let subject = Arc::new(Subject { id: self.next_id, data, is_stored: AtomicBool::new(false) });
        self.next_id += 1;
        self.all.insert(ByData(subject.clone()));
        subject
    }

    /// A subject of `status-lists.db`.
    pub(super) fn add_stored(&mut self, id: u64, data: SubjectData) -> Arc<Subject> {
        let subject = Arc::new(Subject { id, data, is_stored: AtomicBool::new(true) });
        self.next_id = self.next_id.max(id.saturating_add(1));
        self.all.insert(ByData(subject.clone()));
        subject
    }

    /// A text, once in memory.
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    /// Drops what no token has any more.
    pub(super) fn drop_unused(&mut self) {
        self.all.retain(|subject| Arc::strong_count(&subject.0) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        if self.all.len() < self.all.capacity() / 4 {
            self.all.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

/// Compared without its id.
#[derive(Debug)]
struct ByData(Arc<Subject>);

impl PartialEq for ByData {
    fn eq(&self, other: &ByData) -> bool {
        self.0.data == other.0.data
    }
}

impl Eq for ByData {}

impl Hash for ByData {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.data.hash(state);
    }
}

impl Borrow<SubjectData> for ByData {
    fn borrow(&self) -> &SubjectData {
        &self.0.data
    }
}
