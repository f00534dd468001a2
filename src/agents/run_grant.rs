//! The table `[run]`: which users may start commands as sub-agents of an agent.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Diagnostic, Key, Kind, RawDuration, SourceFile};
use crate::names::{Name, NameTable, Resolution};
use crate::peer::PeerInfo;

use super::match_tag::MatchTag;
use super::raw_selectors::check_name;
use super::sub_agent_limits::{self, MAX_MAX};

/// Users and groups of one table.
const MAX_NAMES: usize = 64;

/// Permission to start commands as sub-agents of an agent without being it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunGrant {
    /// Names of the users who may, in alphabetical order.
    pub users: Vec<String>,
    /// Names of the groups whose members may, in alphabetical order.
    pub groups: Vec<String>,
    /// How many commands of all these users may run at once, with their sub-agents: at most 256, by default 16.
    pub max: u32,
    /// The longest time until a command has to be delegated again: at most 24 hours, by default 1 hour.
    pub ttl: Duration,
}

/// Whether a process may start commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunCheck {
    Permitted,
    Refused,
    /// The number of a user or group is not known.
    Unknown,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRun {
    #[serde(default)]
    users: Vec<Spanned<String>>,
    #[serde(default)]
    groups: Vec<Spanned<String>>,
    max: Option<Spanned<u32>>,
    ttl: Option<Spanned<RawDuration>>,
}

impl RawRun {
    /// The keys of the table.
    pub(super) const KEYS: &[Key] = &[
        Key::optional("users", Kind::TextList("[\"alice\"]")),
        Key::optional("groups", Kind::TextList("[\"analysts\"]")),
        Key::optional("max", Kind::Integer(MAX_MAX)),
        Key::optional("ttl", Kind::Duration("\"1h\"")),
    ];

    /// Checks the table, at `span`, and appends its faults.
    pub(super) fn validate(
        self,
        source: &SourceFile,
        span: std::ops::Range<usize>,
        faults: &mut Vec<Diagnostic>,
    ) -> RunGrant {
        if self.users.is_empty() && self.groups.is_empty() {
            let message =
                "[run] names no users and no groups, so no user may start commands; add users = [\"alice\"]";
            faults.push(source.diagnostic(span.clone(), message));
        }
        if self.users.len() + self.groups.len() > MAX_NAMES {
            faults
                .push(source.diagnostic(span, format!("[run] names more than {MAX_NAMES} users and groups")));
        }
        let mut names = |raw: Vec<Spanned<String>>, what: &str| -> Vec<String> {
            for name in &raw {
                if let Err(message) = check_name(name.get_ref(), what) {
                    faults.push(source.diagnostic(name.span(), message));
                }
            }
            let names: BTreeSet<String> = raw.into_iter().map(Spanned::into_inner).collect();
            names.into_iter().collect()
        };
        let (users, groups) = (names(self.users, "a user"), names(self.groups, "a group"));
        let max = sub_agent_limits::max(self.max, source, faults);
        let ttl = sub_agent_limits::ttl(self.ttl, source, faults);
        RunGrant { users, groups, max, ttl }
    }
}

impl RunGrant {
    /// Whether a process may start commands, by its effective user and its groups. Groups beyond those that the daemon reads
    /// do not count.
    pub(super) fn check(&self, peer: &PeerInfo, names: &NameTable) -> RunCheck {
        let mut is_unknown = false;
        let mut is_met = |resolution: Resolution, holds: &dyn Fn(u32) -> bool| match resolution {
            Resolution::Number(number) => holds(number),
            Resolution::Missing => false,
            Resolution::Unknown => {
                is_unknown = true;
                false
            }
        };
        let is_user = self.users.iter().any(|user| is_met(names.user(user).current, &|uid| uid == peer.uid));
        let in_group = |gid| peer.in_group(gid);
        if is_user || self.groups.iter().any(|group| is_met(names.group(group).current, &in_group)) {
            return RunCheck::Permitted;
        }
        if is_unknown { RunCheck::Unknown } else { RunCheck::Refused }
    }

    /// Distinguishes the users and groups under which commands were started: what one started ends when they change.
    pub(crate) fn tag(&self) -> MatchTag {
        MatchTag::new([
            ("run users", Some(self.users.join("\n"))),
            ("run groups", Some(self.groups.join("\n"))),
        ])
    }

    /// The names of the users and groups.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> + '_ {
        let users = self.users.iter().cloned().map(Name::User);
        users.chain(self.groups.iter().cloned().map(Name::Group))
    }

    /// Whether everything that this permits is permitted by `other`.
    pub(super) fn is_within(&self, other: &RunGrant) -> bool {
        let is_part = |names: &[String], of: &[String]| names.iter().all(|name| of.contains(name));
        is_part(&self.users, &other.users)
            && is_part(&self.groups, &other.groups)
            && self.max <= other.max
            && self.ttl <= other.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::super::agent_set::tests::read;
    use super::*;

    fn run_grant(table: &str) -> Result<RunGrant, String> {
        let text = format!("name = \"a\"\n[match]\nuser = 0\n[run]\n{table}");
        read(&[("a.toml", &text)]).map(|agents| agents.get("a").unwrap().run.clone().unwrap())
    }

    #[test]
    fn a_table_names_users_and_groups() {
        let one = run_grant("users = [\"alice\"]\n").unwrap();
        let hour = Duration::from_secs(3600);
        let expected = RunGrant { users: vec!["alice".to_owned()], groups: Vec::new(), max: 16, ttl: hour };
        assert_eq!(one, expected);
        let more =
            run_grant("users = [\"bob\", \"alice\"]\ngroups = [\"x\"]\nmax = 17\nttl = \"2h\"\n").unwrap();
        assert!(one.is_within(&more) && !more.is_within(&one) && more.is_within(&more));
        assert_ne!(one.tag(), more.tag());
        assert_eq!(one.tag(), run_grant("users = [\"alice\"]\nmax = 1\n").unwrap().tag());
        let names = [Name::User("alice".into()), Name::User("bob".into()), Name::Group("x".into())];
        assert_eq!(more.names().collect::<Vec<_>>(), names);
    }

    #[test]
    fn what_names_no_user_or_too_much_is_a_fault() {
        let many = format!("users = {:?}\n", (0..65).map(|n| format!("u{n}")).collect::<Vec<_>>());
        for (table, expected) in [
            ("", "[run] names no users and no groups"),
            ("users = [\"\"]\n", "a user must be a name of 1 to 256 bytes"),
            ("groups = [\"1000\"]\n", "a group cannot have a name of digits only"),
            ("users = [\"a\"]\nmax = 0\n", "max must be 1 to 256"),
            ("users = [\"a\"]\nttl = \"25h\"\n", "ttl must be a duration of at least 1s"),
            (&many, "[run] names more than 64"),
        ] {
            let fault = run_grant(table).unwrap_err();
            assert!(fault.contains(expected), "{table}: {fault}");
        }
    }

    #[test]
    fn a_user_or_a_member_of_a_group_may() {
        let me = nix::unistd::geteuid().as_raw();
        let socket = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = crate::peer::PeerTracker::from_socket(&socket.0).unwrap().current_peer().unwrap();
        let names =
            |uid, gid| NameTable::of_test([(Name::User("u".into()), uid), (Name::Group("g".into()), gid)]);
        let of = |table: &str, names: NameTable| run_grant(table).unwrap().check(&peer, &names);
        let (user, group) = ("users = [\"u\"]\n", "groups = [\"g\"]\n");
        assert_eq!(of(user, names(Some(me), None)), RunCheck::Permitted);
        assert_eq!(of(user, names(Some(me + 1), None)), RunCheck::Refused);
        assert_eq!(of(user, names(None, None)), RunCheck::Refused);
        assert_eq!(of(group, names(Some(me), Some(peer.gid))), RunCheck::Permitted);
        assert_eq!(of(group, names(Some(me), None)), RunCheck::Refused);
        assert_eq!(of(user, NameTable::default()), RunCheck::Unknown);
    }
}
