//! Which rows of an index a query can match.

use super::filter::AuditQuery;
use super::index_row::{ANY_ID, Row, Term, marks, short_hash};
use super::text::{BoundedText, MAX_CALLER_TEXT, MAX_GRANTED_TEXT, MAX_NAME};

/// A query in the terms of rows. Every record that the query matches has a row that this matches.
#[derive(Debug)]
pub(super) struct RowFilter {
    since: u64,
    until: u64,
    has_times: bool,
    /// Hashes of which the row has to have one.
    agents: Vec<u32>,
    ids: Vec<Vec<u32>>,
    /// Of each list, the row has to have all marks of one element.
    marks: Vec<Vec<u128>>,
}

impl RowFilter {
    pub(super) fn new(query: &AuditQuery) -> RowFilter {
        let ids = [&query.jti, &query.serial].into_iter().flatten();
        let ids = ids.map(|id| texts(id, &[MAX_NAME]).map(|text| short_hash(Term::Id, &text)).collect());
        let terms = [
            (Term::Owner, &query.owner, &[MAX_NAME][..]),
            (Term::Tenant, &query.tenant, &[MAX_NAME]),
            (Term::Audience, &query.audience, &[MAX_CALLER_TEXT, MAX_GRANTED_TEXT]),
            (Term::Reason, &query.reason, &[MAX_NAME]),
            (Term::Correlation, &query.correlation_id, &[MAX_NAME]),
            (Term::Instance, &query.instance, &[MAX_CALLER_TEXT]),
        ];
        let mut wanted: Vec<Vec<u128>> = Vec::new();
        for (term, asked, bounds) in terms {
            if let Some(asked) = asked {
                wanted.push(texts(asked, bounds).map(|text| marks(term, &text)).collect());
            }
        }
        if let Some(event) = query.event {
            wanted.push(vec![marks(Term::Event, event.name())]);
        }
        let agents = query
            .agent
            .as_deref()
            .map(|agent| texts(agent, &[MAX_NAME]).map(|text| short_hash(Term::Agent, &text)).collect());
        RowFilter {
            since: query.since.map_or(0, |since| since.as_micros()),
            until: query.until.map_or(u64::MAX, |until| until.as_micros()),
            has_times: query.since.is_some() || query.until.is_some(),
            agents: agents.unwrap_or_default(),
            ids: ids.collect(),
            marks: wanted,
        }
    }

    /// Whether the record can match.
    pub(super) fn may_match(&self, row: &Row) -> bool {
        if self.has_times && !row.time().is_some_and(|time| (self.since..=self.until).contains(&time)) {
            return false;
        }
        (self.agents.is_empty() || self.agents.contains(&row.agent))
            && (row.id == ANY_ID || self.ids.iter().all(|ids| ids.contains(&row.id)))
            && self.marks.iter().all(|any| any.iter().any(|marks| row.marks & marks == *marks))
    }
}

/// A text as it was asked for, and as records have it where they cut it at one of these bounds.
fn texts<'a>(asked: &'a str, bounds: &'a [usize]) -> impl Iterator<Item = std::borrow::Cow<'a, str>> + 'a {
    let cut = bounds.iter().map(|bound| BoundedText::new(asked, *bound).cut());
    std::iter::once(asked.into()).chain(cut)
}
