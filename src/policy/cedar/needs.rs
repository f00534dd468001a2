//! Which attributes policies can read, by the words in their text.
//!
//! To pass all attributes of a request to the engine takes several times as long as to evaluate a policy, so a
//! decision passes those that one of its policies can read. A policy reads an attribute by its name, as a word or
//! in a string, or by using the record that has it as a whole. A text with an escape may contain any name.

/// An attribute, or a record of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    /// Of the agent or the resource.
    Name,
    Depth,
    Roles,
    Owner,
    Tenant,
    /// The tenant and the roles that the agent is in.
    Parents,
    Peer,
    Uid,
    Pinned,
    Unit,
    Invocation,
    ExeSha256,
    Posture,
    Time,
    Instant,
    Hour,
    Minute,
    Weekday,
    Scopes,
    Ttl,
    Assurance,
    Binding,
    Approved,
    Usage,
    Method,
    Path,
    Kind,
    BodySha256,
    /// Of a URL.
    Url,
    Origin,
    Boundary,
}

/// A set of attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs(u32);

use Attribute::*;

/// The words that each attribute is read by. A record that has an attribute is read by a word of its own.
const WORDS: [(Attribute, &[&str]); 31] = [
    (Name, &["name"]),
    (Depth, &["depth"]),
    (Roles, &["roles"]),
    (Owner, &["owner"]),
    (Tenant, &["tenant"]),
    (Parents, &["Tenant", "Role"]),
    (Peer, &["peer"]),
    (Uid, &["uid"]),
    (Pinned, &["pinned"]),
    (Unit, &["unit"]),
    (Invocation, &["invocation"]),
    (ExeSha256, &["exe_sha256"]),
    (Posture, &["posture"]),
    (Time, &["time"]),
    (Instant, &["instant"]),
    (Hour, &["hour"]),
    (Minute, &["minute"]),
    (Weekday, &["weekday"]),
    (Scopes, &["scopes"]),
    (Ttl, &["ttl"]),
    (Assurance, &["assurance"]),
    (Binding, &["binding"]),
    (Approved, &["approved"]),
    (Usage, &["usage"]),
    (Method, &["method"]),
    (Path, &["path"]),
    (Kind, &["kind"]),
    (BodySha256, &["body_sha256"]),
    (Url, &["url"]),
    (Origin, &["origin"]),
    (Boundary, &["boundary"]),
];
/// Attributes of entities.
const OF_ENTITIES: Needs = Needs::of(&[Name, Depth, Roles, Owner, Tenant, Parents, Url, Origin]);
const OF_PEER: Needs = Needs::of(&[Peer, Uid, Pinned, Unit, Invocation, ExeSha256, Boundary]);
const OF_TIME: Needs = Needs::of(&[Time, Instant, Hour, Minute, Weekday]);
const OF_CONTEXT: Needs = OF_PEER.and(OF_TIME).and(Needs::of(&[
    Posture, Scopes, Ttl, Assurance, Binding, Approved, Usage, Method, Path, Kind, BodySha256,
]));

impl Needs {
    /// All attributes.
    pub(super) const ALL: Needs = OF_CONTEXT.and(OF_ENTITIES);

    const fn of(attributes: &[Attribute]) -> Needs {
        let (mut bits, mut at) = (0, 0);
        while at < attributes.len() {
            bits |= 1 << attributes[at] as u32;
            at += 1;
        }
        Needs(bits)
    }

    /// Those of both.
    pub(super) const fn and(self, other: Needs) -> Needs {
        Needs(self.0 | other.0)
    }

    /// What a policy with this text can read, or more.
    pub(super) fn of_text(text: &str) -> Needs {
        if text.contains('\\') {
            return Needs::ALL;
        }
        let mut needs = Needs::default();
        for (attribute, words) in WORDS {
            if words.iter().any(|word| text.contains(word)) {
                needs = needs.and(Needs::of(&[attribute]));
            }
        }
        for (record, members) in [("context", OF_CONTEXT), ("peer", OF_PEER), ("time", OF_TIME)] {
            if is_used_as_a_whole(text, record) {
                needs = needs.and(members);
            }
        }
        needs
    }

    /// Whether the attribute can be read.
    pub(super) const fn has(self, attribute: Attribute) -> bool {
        self.0 & Needs::of(&[attribute]).0 != 0
    }

    /// Whether an attribute of an entity can be read, or what it is in.
    pub(super) const fn has_entities(self) -> bool {
        self.0 & OF_ENTITIES.0 != 0
    }
}

/// Whether a record stands anywhere without an access to one of its members, or a test of one.
fn is_used_as_a_whole(text: &str, record: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    text.match_indices(record).any(|(at, _)| {
        let rest = text[at + record.len()..].trim_start();
        let is_test =
            rest.strip_prefix("has").is_some_and(|rest| !rest.as_bytes().first().is_some_and(is_word));
        !rest.starts_with(['.', '[']) && !is_test
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attribute_has_its_words_once() {
        for (at, (attribute, words)) in WORDS.iter().enumerate() {
            assert_eq!((*attribute as usize, words.is_empty()), (at, false));
        }
        assert_eq!(Needs::ALL.0.count_ones() as usize, WORDS.len());
    }

    #[test]
    fn a_text_needs_what_it_names() {
        for (text, expected) in [
            ("permit (principal, action, resource);", Needs::default()),
            ("forbid (principal == Agent::\"a\", action, resource);", Needs::default()),
            ("when { context.ttl > 60 || context.posture == \"stale\" }", Needs::of(&[Ttl, Posture])),
            ("when { context has method }", Needs::of(&[Method])),
            ("when { context.peer.uid == 0 }", Needs::of(&[Peer, Uid])),
            ("when { context.peer has unit }", Needs::of(&[Peer, Unit])),
            ("when { context has peer.unit }", Needs::of(&[Peer, Unit])),
            ("when { context\n  .time\n  .hour < 6 }", Needs::of(&[Time, Hour])),
            ("when { context[\"ttl\"] > 60 }", Needs::of(&[Ttl])),
            ("principal in Role::\"a\"", Needs::of(&[Parents])),
            ("resource.name == \"x\"", Needs::of(&[Name])),
            ("principal has owner", Needs::of(&[Owner])),
            // The record as a whole, or what may be it.
            ("when { context.peer == context.peer }", OF_PEER),
            ("when { context[\"time\"].hour < 6 }", OF_TIME),
            ("when { (if true then context else context).ttl > 60 }", OF_CONTEXT),
            ("when { context /* why */ .ttl > 60 }", OF_CONTEXT),
            ("when { context hash }", OF_CONTEXT),
            ("when { context[\"tt\\u{6c}\"] > 60 }", Needs::ALL),
        ] {
            assert_eq!(Needs::of_text(text), expected, "{text}");
        }
        assert!(Needs::of(&[Name]).has_entities() && !OF_CONTEXT.has_entities());
    }
}
