//! What each agent was given in a period, by the audit log: for which audiences, with which scopes and for how long,
//! and which credentials.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::event::{Event, Outcome};
use super::used_record::UsedRecord;
use crate::clock::Timestamp;
use crate::policy::ErrorCode;

/// The mark with which a text of the log ends that was cut.
const CUT_MARK: &str = "… (";

/// The detail of a release to a service manager, which loads credentials when a unit starts.
pub(super) const LOADED: &str = "loaded by the service manager for the unit";

/// What was not used for a shorter time says nothing.
pub const MIN_USAGE_PERIOD: Duration = Duration::from_secs(86_400);

/// What one agent was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentUsage {
    /// Earlier records do not count.
    pub since: Timestamp,
    /// When the agent got or was refused something last.
    pub last_seen: Option<Timestamp>,
    /// When the agent got something last: a token, a certificate, a credential or evidence.
    pub last_given: Option<Timestamp>,
    /// What was issued for each audience.
    pub by_audience: HashMap<String, AudienceUsage>,
    /// Whether a record does not name all audiences.
    pub is_cut: bool,
    /// The credentials that were released, by name.
    pub credentials: BTreeMap<String, CredentialUsage>,
    /// What the agent asked for and was refused, although it may be granted.
    pub refused: RefusedUsage,
    /// Whether the service manager has loaded a credential when the agent's unit started.
    pub has_loaded: bool,
    /// Whether the agent's unit was started in the period: records have more than one invocation of it.
    pub has_started: bool,
    /// The invocation of one record.
    invocation: Option<String>,
}

/// What an agent asked for and did not get. A request for what it has no grant for does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedUsage {
    /// The audiences.
    pub audiences: BTreeSet<String>,
    /// The names of the credentials.
    pub credentials: BTreeSet<String>,
    /// Whether further requests were refused of which it is not recorded what they were for.
    pub has_others: bool,
}

/// What was issued to one agent for one audience.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudienceUsage {
    /// Tokens and JWT-SVIDs.
    pub count: u64,
    /// When the last one, or the last proof, was issued.
    pub last: Option<Timestamp>,
    /// Scopes that a token had.
    pub scopes: BTreeSet<String>,
    /// Whether a record does not have all scopes.
    pub is_cut: bool,
    /// The longest lifetime, in seconds.
    pub lifetime: u64,
    /// The latest expiry, as a NumericDate.
    pub expires: u64,
    /// Proofs that its grant gave.
    pub proofs: u64,
    /// Whether JWT-SVIDs are among them, which have no scope and are decided with all scopes of the grant.
    pub has_svids: bool,
}

/// The releases of one credential to one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialUsage {
    /// How often it was released.
    pub count: u64,
    /// When it was released last.
    pub last: Option<Timestamp>,
}

impl AgentUsage {
    /// The usage of an agent of which no record was read yet; records before this time do not count.
    pub fn from_time(since: Timestamp) -> AgentUsage {
        AgentUsage {
            since,
            last_seen: None,
            last_given: None,
            by_audience: HashMap::new(),
            is_cut: false,
            credentials: BTreeMap::new(),
            refused: RefusedUsage::default(),
            has_loaded: false,
            has_started: false,
            invocation: None,
        }
    }

    /// Adds what other records have.
    pub(super) fn join(&mut self, other: AgentUsage) {
        self.last_seen = self.last_seen.max(other.last_seen);
        self.last_given = self.last_given.max(other.last_given);
        self.is_cut |= other.is_cut;
        for (audience, other) in other.by_audience {
            let usage = self.by_audience.entry(audience).or_default();
            usage.count += other.count;
            usage.last = usage.last.max(other.last);
            usage.scopes.extend(other.scopes);
            usage.is_cut |= other.is_cut;
            usage.lifetime = usage.lifetime.max(other.lifetime);
            usage.expires = usage.expires.max(other.expires);
            usage.has_svids |= other.has_svids;
            usage.proofs += other.proofs;
        }
        for (name, other) in other.credentials {
            let usage = self.credentials.entry(name).or_default();
            usage.count += other.count;
            usage.last = usage.last.max(other.last);
        }
        self.refused.audiences.extend(other.refused.audiences);
        self.refused.credentials.extend(other.refused.credentials);
        self.refused.has_others |= other.refused.has_others;
        self.has_loaded |= other.has_loaded;
        self.has_started |= other.has_started;
        other.invocation.iter().for_each(|invocation| self.add_invocation(invocation));
    }

    pub(super) fn add(&mut self, record: &UsedRecord<'_>) {
        let event = Event::from_name(&record.event);
        let outcome = event.map(Event::outcome);
        if !matches!(outcome, Some(Outcome::Granted | Outcome::Refused)) {
            return;
        }
        let latest = |known: Option<Timestamp>| known.max(Some(record.time));
        self.last_seen = latest(self.last_seen);
        if let Some(invocation) = record.peer.as_ref().and_then(|peer| peer.invocation.as_deref()) {
            self.add_invocation(invocation);
        }
        match outcome {
            Some(Outcome::Refused) => self.add_refusal(record),
            _ if event.is_some_and(is_given) => self.last_given = latest(self.last_given),
            _ => {}
        }
        match event {
            Some(Event::TokenIssued) => self.add_token(record, false),
            Some(Event::SvidIssued) => self.add_token(record, true),
            Some(Event::ProofIssued) if record.credential.is_some() => self.add_credential(record),
            Some(Event::ProofIssued) => self.add_proof(record),
            Some(Event::CredentialReleased) => {
                self.has_loaded |= record.detail.as_deref() == Some(LOADED);
                self.add_credential(record);
            }
            _ => {}
        }
    }

    /// The records of one invocation do not show when it began. The second one began after the first.
    fn add_invocation(&mut self, invocation: &str) {
        match self.invocation.as_deref() {
            None => self.invocation = Some(invocation.to_owned()),
            Some(known) => self.has_started |= known != invocation,
        }
    }

    fn add_refusal(&mut self, record: &UsedRecord<'_>) {
        let refused = &mut self.refused;
        // Those that have no record can have been for anything.
        refused.has_others |= record.suppressed > 0;
        let reason = record.reason.as_deref();
        let is_not_granted = [ErrorCode::InvalidTarget, ErrorCode::InvalidScope]
            .iter()
            .any(|code| reason == Some(code.as_str()));
        if is_not_granted {
            return;
        }
        if let Some(audiences) = record.audience.as_deref() {
            refused.has_others |= audiences.contains(CUT_MARK);
            refused.audiences.extend(audiences.split(' ').map(str::to_owned));
        }
        refused.credentials.extend(record.credential.as_deref().map(str::to_owned));
    }

    /// A credential that was released or has signed.
    fn add_credential(&mut self, record: &UsedRecord<'_>) {
        let Some(name) = record.credential.as_deref() else { return };
        let usage = self.credentials.entry(name.to_owned()).or_default();
        usage.count += 1;
        usage.last = usage.last.max(Some(record.time));
    }

    /// A grant that gives proofs alone is in use without tokens.
    fn add_proof(&mut self, record: &UsedRecord<'_>) {
        let audience = record.audience.as_deref().unwrap_or_default();
        self.is_cut |= audience.contains(CUT_MARK);
        let usage = self.by_audience.entry(audience.to_owned()).or_default();
        usage.proofs += 1;
        usage.last = usage.last.max(Some(record.time));
    }

    fn add_token(&mut self, record: &UsedRecord<'_>, is_svid: bool) {
        let audiences = record.audience.as_deref().unwrap_or_default();
        self.is_cut |= audiences.contains(CUT_MARK);
        // A JWT-SVID has several audiences, an access token one.
        for audience in audiences.split(' ') {
            let usage = self.by_audience.entry(audience.to_owned()).or_default();
            let scope = record.scope.as_deref().unwrap_or_default();
            usage.count += 1;
            usage.has_svids |= is_svid;
            usage.last = usage.last.max(Some(record.time));
            usage.is_cut |= scope.contains(CUT_MARK);
            usage.scopes.extend(scope.split(' ').map(str::to_owned));
            usage.expires = usage.expires.max(record.exp.unwrap_or_default());
            let lifetime = record.exp.unwrap_or_default().saturating_sub(record.time.as_secs());
            usage.lifetime = usage.lifetime.max(lifetime);
        }
    }
}

/// Whether the event gives an agent something: a token, a proof, a certificate, a credential or evidence.
fn is_given(event: Event) -> bool {
    matches!(
        event,
        Event::Attested
            | Event::CertificateIssued
            | Event::CredentialReleased
            | Event::ProofIssued
            | Event::SvidIssued
            | Event::TokenIssued
            | Event::WitSvidIssued
    )
}

#[cfg(test)]
mod tests {
    use super::super::usage_reader::{KnownBound, KnownPeriod, read_usage};
    use super::*;
    use crate::audit::chain::open as open_log;

    #[test]
    fn what_was_given_and_what_is_not_known_of_it_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open_log(dir.path());
        let at = Timestamp::from_secs;
        let mut append = |secs: u64, members: &str| {
            let body = format!("\"time\":\"{}\",\"agent\":\"a\",{members}}}", at(secs));
            log.append([body.as_bytes()].into_iter()).unwrap();
        };
        append(1_000, r#""event":"token-issued","audience":"x","scope":"r","exp":1100"#);
        append(2_000, r#""event":"token-issued","audience":"x","scope":"r s","exp":2030"#);
        append(3_000, r#""event":"svid-issued","audience":"x y… (9000 bytes, sha256 00)","exp":3300"#);
        append(4_000, r#""event":"credential-released","credential":"c""#);
        append(4_500, r#""event":"proof-issued","audience":"p","exp":4560"#);
        append(5_000, r#""event":"request-refused","audience":"z","reason":"invalid_target""#);
        append(5_100, r#""event":"introspected","peer":{"uid":1,"invocation":"i"}"#);
        append(6_000, r#""event":"agent-suspended""#);
        let read = |since: u64| {
            let mut usages = HashMap::from([("a", AgentUsage::from_time(at(since)))]);
            let known = read_usage(dir.path(), &mut usages, at(since), &mut |_, _| {}).unwrap();
            (usages.remove("a").unwrap(), known)
        };
        let (usage, known) = read(1_500);
        assert_eq!(known, KnownPeriod { from: at(1_500), missing: 0, bound: None });
        assert_eq!((usage.last_seen, usage.last_given), (Some(at(5_100)), Some(at(4_500))));
        let p = &usage.by_audience["p"];
        assert_eq!((p.proofs, p.count, p.lifetime, p.last), (1, 0, 0, Some(at(4_500))));
        assert_eq!(usage.refused, RefusedUsage::default());
        assert!(!usage.has_loaded && !usage.has_started);
        assert!(usage.is_cut && !usage.by_audience.contains_key("z"));
        let x = &usage.by_audience["x"];
        assert_eq!((x.count, x.last, x.lifetime, x.is_cut), (2, Some(at(3_000)), 300, false));
        assert!(x.scopes.contains("r") && x.scopes.contains("s"));
        assert_eq!(usage.credentials["c"], CredentialUsage { count: 1, last: Some(at(4_000)) });
        // The log is younger than the period.
        let (usage, known) = read(0);
        assert_eq!((usage.by_audience["x"].count, known.from), (3, at(1_000)));
        assert_eq!(known.bound, Some(KnownBound::Log));
        assert!(usage.by_audience["x"].has_svids);
    }

    #[test]
    fn what_was_refused_and_what_starts_loaded_are_noted() {
        let read = |members: &[&str]| {
            let mut usage = AgentUsage::from_time(Timestamp::from_secs(0));
            for members in members {
                let text = format!("{{\"time\":\"2026-11-27T00:00:00Z\",{members}}}");
                usage.add(&serde_json::from_str(&text).unwrap());
            }
            usage
        };
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        let usage = read(&[
            r#""event":"request-refused","audience":"x y","reason":"access_denied""#,
            r#""event":"approval-requested","credential":"c","reason":"authorization_pending""#,
            r#""event":"request-refused","audience":"z","reason":"invalid_scope""#,
        ]);
        let refused =
            RefusedUsage { audiences: set(&["x", "y"]), credentials: set(&["c"]), has_others: false };
        assert_eq!((&usage.refused, usage.last_given), (&refused, None));
        let counted = read(&[r#""event":"request-refused","reason":"slow_down","suppressed":3"#]);
        assert!(counted.refused.has_others);
        let cut = read(&[r#""event":"request-refused","audience":"x… (900 bytes, sha256 00)""#]);
        assert!(cut.refused.has_others);
        let loaded = format!(r#""event":"credential-released","credential":"c","detail":"{LOADED}""#);
        assert!(read(&[&loaded]).has_loaded);
        let of = |invocation: &str| {
            format!(r#""event":"introspected","peer":{{"uid":1,"invocation":"{invocation}"}}"#)
        };
        assert!(!read(&[&of("i"), &of("i")]).has_started);
        assert!(read(&[&of("i"), &of("j")]).has_started);
        let mut joined = read(&[&of("i")]);
        joined.join(read(&[&of("j"), &loaded]));
        assert!(joined.has_started && joined.has_loaded && joined.credentials["c"].count == 1);
    }
}
