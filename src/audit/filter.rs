//! What a query asks for, and whether a line of the log is that.

use std::time::Duration;

use super::event::Event;
use super::line::LineMembers;
use super::searched_members::{SearchedMembers, SearchedPeer};
use super::text::{BoundedText, MAX_CALLER_TEXT, MAX_GRANTED_TEXT, MAX_NAME};
use crate::clock::Timestamp;

/// How far records can be out of order of their times: clocks are corrected, and a record is made before it
/// is queued. A search by time ends at a record that is this much beyond its bound.
pub(super) const MAX_DISORDER: Duration = Duration::from_secs(3600);

/// Which records of the log are asked for.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Where the page begins.
    pub start: PageStart,
    /// Only records about this agent.
    pub agent: Option<String>,
    /// Only records about agents of this owner.
    pub owner: Option<String>,
    /// Only records about this tenant.
    pub tenant: Option<String>,
    /// Only records of calling processes that have this unit, invocation, pid or digest of the executable.
    pub instance: Option<String>,
    /// Only records with this audience, alone or among others.
    pub audience: Option<String>,
    /// Only refusals with this error code.
    pub reason: Option<String>,
    /// Only records with this correlation id.
    pub correlation_id: Option<String>,
    /// Only records of this event.
    pub event: Option<Event>,
    /// Only records about the token with this identifier.
    pub jti: Option<String>,
    /// Only records about the certificate with this serial number.
    pub serial: Option<String>,
    /// Only records that were made at this time or later.
    pub since: Option<Timestamp>,
    /// Only records that were made at this time or earlier.
    pub until: Option<Timestamp>,
}

/// Where a page begins, and in which direction it continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageStart {
    /// At the end of the log, backwards.
    #[default]
    End,
    /// At the record before the one with this number, backwards.
    Before(u64),
    /// At the record after this number, forwards.
    After(u64),
}

/// Where a line is in relation to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Matches,
    DoesNotMatch,
    /// No line beyond this one matches.
    Beyond,
}

impl AuditQuery {
    /// Where a line is, whose first members are parsed already.
    pub(super) fn place(&self, line: &[u8], members: &LineMembers<'_>) -> Place {
        if self.since.is_some() || self.until.is_some() {
            let Some(time) = members.time() else { return Place::DoesNotMatch };
            let is_forwards = matches!(self.start, PageStart::After(_));
            if self.until.is_some_and(|until| time > until) {
                let is_beyond =
                    is_forwards && self.until.is_some_and(|until| time > until.after(MAX_DISORDER));
                return if is_beyond { Place::Beyond } else { Place::DoesNotMatch };
            }
            if self.since.is_some_and(|since| time < since) {
                let is_beyond =
                    !is_forwards && self.since.is_some_and(|since| time.after(MAX_DISORDER) < since);
                return if is_beyond { Place::Beyond } else { Place::DoesNotMatch };
            }
        }
        if self.has_first_members(members) && self.has_further_members(line) {
            Place::Matches
        } else {
            Place::DoesNotMatch
        }
    }

    fn has_first_members(&self, line: &LineMembers<'_>) -> bool {
        is_asked(self.agent.as_deref(), line.agent.as_deref(), MAX_NAME)
            && is_asked(self.tenant.as_deref(), line.tenant.as_deref(), MAX_NAME)
            && is_asked(self.jti.as_deref(), line.jti.as_deref(), MAX_NAME)
            && is_asked(self.serial.as_deref(), line.serial.as_deref(), MAX_NAME)
            && self.event.is_none_or(|event| line.event.as_deref() == Some(event.name()))
    }

    fn has_further_members(&self, line: &[u8]) -> bool {
        let needs = [&self.owner, &self.instance, &self.audience, &self.reason, &self.correlation_id];
        if needs.iter().all(|need| need.is_none()) {
            return true;
        }
        let Ok(line) = serde_json::from_slice::<SearchedMembers<'_>>(line) else { return false };
        is_asked(self.owner.as_deref(), line.owner.as_deref(), MAX_NAME)
            && is_asked(self.reason.as_deref(), line.reason.as_deref(), MAX_NAME)
            && is_asked(self.correlation_id.as_deref(), line.correlation_id.as_deref(), MAX_NAME)
            && self.audience.as_deref().is_none_or(|asked| has_audience(line.audience.as_deref(), asked))
            && self.instance.as_deref().is_none_or(|asked| is_instance(line.peer.as_ref(), asked))
    }
}

/// Whether a member is what was asked for, also where the record has it cut at `max` bytes of JSON.
fn is_asked(asked: Option<&str>, member: Option<&str>, max: usize) -> bool {
    let Some(asked) = asked else { return true };
    member.is_some_and(|member| member == asked || member == BoundedText::new(asked, max).cut())
}

fn has_audience(member: Option<&str>, asked: &str) -> bool {
    let Some(member) = member else { return false };
    member.split(' ').any(|audience| audience == asked)
        || is_asked(Some(asked), Some(member), MAX_CALLER_TEXT)
        || is_asked(Some(asked), Some(member), MAX_GRANTED_TEXT)
}

fn is_instance(peer: Option<&SearchedPeer<'_>>, asked: &str) -> bool {
    let Some(peer) = peer else { return false };
    peer.ids().any(|id| is_asked(Some(asked), Some(&id), MAX_CALLER_TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::line::{LineId, append_line, parse};

    fn matches(query: &AuditQuery, members: &str) -> bool {
        let mut line = Vec::new();
        append_line(&mut line, LineId::without_digest(0), format!("{members}}}").as_bytes());
        line.pop();
        query.place(&line, &parse(&line).unwrap()) == Place::Matches
    }

    #[test]
    fn each_filter_is_compared_with_its_member() {
        let line = concat!(
            r#""time":"2026-11-26T10:00:00Z","event":"token-issued","agent":"a","owner":"o","tenant":"t","#,
            r#""audience":"https://x https://y","reason":"invalid_target","jti":"j","serial":"0a","#,
            r#""correlation_id":"c","peer":{"pid":7,"unit":"a.service","invocation":"i","exe_sha256":"e"}"#
        );
        type Set = fn(&mut AuditQuery, &str);
        let filters: [(Set, &[&str]); 9] = [
            (|query, text| query.agent = Some(text.into()), &["a"]),
            (|query, text| query.owner = Some(text.into()), &["o"]),
            (|query, text| query.tenant = Some(text.into()), &["t"]),
            (|query, text| query.audience = Some(text.into()), &["https://x", "https://y"]),
            (|query, text| query.reason = Some(text.into()), &["invalid_target"]),
            (|query, text| query.jti = Some(text.into()), &["j"]),
            (|query, text| query.serial = Some(text.into()), &["0a"]),
            (|query, text| query.correlation_id = Some(text.into()), &["c"]),
            (|query, text| query.instance = Some(text.into()), &["7", "a.service", "i", "e"]),
        ];
        for (set, values) in filters {
            for value in values {
                let mut query = AuditQuery::default();
                set(&mut query, value);
                assert!(matches(&query, line), "{value}");
                assert!(!matches(&query, r#""event":"x""#), "{value}");
                set(&mut query, &format!("{value}x"));
                assert!(!matches(&query, line), "{value}");
            }
        }
        let event = AuditQuery { event: Some(Event::TokenIssued), ..AuditQuery::default() };
        assert!(matches(&event, line) && !matches(&event, r#""event":"attested""#));
    }

    #[test]
    fn a_text_that_the_record_has_cut_is_found_by_the_whole_one() {
        let hostile = "\u{1b}[31m\"".repeat(200_000);
        let cut = serde_json::to_string(&BoundedText::new(&hostile, MAX_CALLER_TEXT)).unwrap();
        let line = format!(r#""event":"request-refused","audience":{cut}"#);
        let query = AuditQuery { audience: Some(hostile.clone()), ..AuditQuery::default() };
        assert!(matches(&query, &line));
        assert!(!matches(&AuditQuery { audience: Some(hostile + "x"), ..AuditQuery::default() }, &line));
    }
}
