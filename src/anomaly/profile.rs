//! What one agent did, as far as rules compare it, and what differs from it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::MAX_LEARNT_PAUSE;
use super::alert::repeats_after;
use super::executable::{Difference, KnownFiles};
use super::first_use::KnownNames;
use super::hours::LearntHours;
use super::lifetime::Lifetimes;
use super::observation::{Act, Executable, Observation, name_digest};
use super::rate::{REFRESH, REFUSALS, Rate};
use super::unused_tokens::TokenUse;
use crate::clock::{BootTime, Timestamp, Zone};
use crate::config::{AnomalyRule, escape_unprintable};

/// What the kernel appends to the path of an executable whose file was removed.
const DELETED: &str = " (deleted)";
/// Length of the longest name in an alert's text, in bytes.
const MAX_SHOWN: usize = 200;

/// What one agent did. Its size is bounded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Profile {
    /// The latest observation.
    pub last_seen: Timestamp,
    /// How much of the learning time has passed.
    pub learnt: Duration,
    pub refresh: Rate,
    pub refusals: Rate,
    pub hours: LearntHours,
    pub names: KnownNames,
    pub executables: KnownFiles,
    /// The same files, by what stays the same when a file's name is removed. Earlier releases stored none.
    #[serde(default)]
    pub lasting_executables: KnownFiles,
    pub unit_files: KnownFiles,
    pub lifetimes: Lifetimes,
    pub tokens: TokenUse,
    /// What does not outlive the process.
    #[serde(skip)]
    present: Present,
}

#[derive(Clone, Debug, Default)]
struct Present {
    /// The executable that was seen last, which needs no digest.
    exe: Option<(PathBuf, [u8; 8])>,
    /// For each rule, the last alert, and what was found since.
    alerts: [Option<(BootTime, u32)>; AnomalyRule::ALL.len()],
}

/// What a profile does not know.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// The zone of hours.
    pub zone: &'a Zone,
    /// The learning time.
    pub learn: Duration,
    /// Whether the clock was set a short time ago.
    pub is_clock_resting: bool,
    /// Whether the credential of the observation is a canary.
    pub is_canary: bool,
}

/// What a rule found in one observation.
pub(super) type Finding = (AnomalyRule, String);

impl Profile {
    /// A profile of an agent that is observed from now on.
    pub fn new(now: Timestamp) -> Profile {
        Profile {
            last_seen: now,
            learnt: Duration::ZERO,
            refresh: Rate::default(),
            refusals: Rate::default(),
            hours: LearntHours::default(),
            names: KnownNames::default(),
            executables: KnownFiles::default(),
            lasting_executables: KnownFiles::default(),
            unit_files: KnownFiles::default(),
            lifetimes: Lifetimes::default(),
            tokens: TokenUse::default(),
            present: Present::default(),
        }
    }

    /// Whether the numbers are usable and bounded, of a file.
    pub fn is_valid(&self) -> bool {
        self.refresh.is_valid()
            && self.refusals.is_valid()
            && self.names.is_valid()
            && self.executables.is_valid()
            && self.lasting_executables.is_valid()
            && self.unit_files.is_valid()
            && self.lifetimes.is_valid()
            && self.tokens.is_valid()
    }

    /// Compares an observation, and learns from it. Returns what was found, of each rule at most one.
    pub fn observe(&mut self, seen: &Observation<'_>, context: Context<'_>) -> Vec<Finding> {
        let mut found = Vec::new();
        if !context.is_clock_resting {
            let pause = seen.time.since(self.last_seen).min(MAX_LEARNT_PAUSE);
            self.learnt = self.learnt.saturating_add(pause);
        }
        self.last_seen = seen.time;
        let is_learnt = self.learnt >= context.learn;
        if context.is_canary {
            found.push((AnomalyRule::Canary, canary(seen.act)));
        }
        self.compare_process(seen, is_learnt, &mut found);
        if let Act::Refused { count, .. } = seen.act
            && count > 0
        {
            // From the first observation on: an agent that is new has a mean of zero.
            if let Some(excess) = self.refusals.observe(count, seen.boot, REFUSALS, true) {
                let minutes = REFUSALS.period.as_secs() / 60;
                let text = format!(
                    "{} of its requests were refused within {minutes} minutes, more than {}",
                    excess.count, excess.threshold
                );
                found.push((AnomalyRule::Refusals, text));
            }
        }
        if seen.act.is_use() {
            self.compare_use(seen, context, is_learnt, &mut found);
        }
        found
    }

    /// Takes note of a unit's file and drop-ins.
    pub fn observe_unit(&mut self, unit: &str, digest: [u8; 8], learn: Duration) -> Option<Finding> {
        let is_learnt = self.learnt >= learn;
        let difference =
            self.unit_files.observe(name_digest("unit", unit), u64::from_be_bytes(digest), is_learnt)?;
        // Another unit is what an administrator has written into the agent's file.
        let text = format!("the file or a drop-in of its unit {} has changed", shown(unit));
        (difference == Difference::Changed).then_some((AnomalyRule::UnitFile, text))
    }

    /// Whether a finding of this rule has an alert of its own. Returns the findings since the last one.
    pub fn begin_alert(&mut self, rule: AnomalyRule, boot: BootTime) -> Option<u32> {
        let last = &mut self.present.alerts[rule as usize];
        match last {
            Some((at, repeats)) if boot.since(*at) < repeats_after(rule) => {
                *repeats = repeats.saturating_add(1);
                None
            }
            _ => Some(last.replace((boot, 0)).map_or(0, |(_, repeats)| repeats)),
        }
    }

    /// The next finding has an alert, as if there had been none.
    pub fn withdraw_alert(&mut self, rule: AnomalyRule) {
        self.present.alerts[rule as usize] = None;
    }

    /// Each rule has an alert at its next finding.
    pub fn reset_alerts(&mut self) {
        self.present.alerts = Default::default();
    }

    fn compare_process(&mut self, seen: &Observation<'_>, is_learnt: bool, found: &mut Vec<Finding>) {
        let Some(Executable { path, version, file }) = seen.exe else { return };
        let is_same = |(last, last_version): &(PathBuf, [u8; 8])| *last_version == version && last == path;
        if self.present.exe.as_ref().is_some_and(is_same) {
            return;
        }
        self.present.exe = Some((path.to_owned(), version));
        let path_text = path.to_string_lossy();
        let (version, file) = (u64::from_be_bytes(version), u64::from_be_bytes(file));
        if let Some(removed) = path_text.strip_suffix(DELETED)
            && self.lasting_executables.has(name_digest("exe", removed), file)
        {
            return;
        }
        let name = name_digest("exe", &path_text);
        self.lasting_executables.observe(name, file, is_learnt);
        if let Some(difference) = self.executables.observe(name, version, is_learnt) {
            let path = shown(&path_text);
            let text = match difference {
                Difference::Changed => format!("its executable {path} has changed"),
                Difference::Other => format!("its executable {path} is another one than before"),
            };
            found.push((AnomalyRule::Executable, text));
        }
    }

    fn compare_use(
        &mut self,
        seen: &Observation<'_>,
        context: Context<'_>,
        is_learnt: bool,
        found: &mut Vec<Finding>,
    ) {
        if let Some(excess) = self.refresh.observe(1, seen.boot, REFRESH, is_learnt) {
            let (count, threshold, mean) = (excess.count, excess.threshold, self.refresh.mean());
            let text = format!(
                "it got {count} tokens, certificates and credentials within an hour, more than {threshold}; \
                         an hour had {mean:.0} before"
            );
            found.push((AnomalyRule::Refresh, text));
        }
        if !context.is_clock_resting {
            self.compare_hour(seen, context.zone, is_learnt, found);
        }
        match seen.act {
            Act::Token { audiences, jti, lifetime, is_longest } => {
                for audience in each(audiences) {
                    let name = name_digest("aud", audience);
                    self.compare_name(name, "audience", audience, is_learnt, found);
                    self.follow_token(name, (audience, jti, lifetime), seen.boot, is_learnt, found);
                }
                let share = is_longest.and_then(|longest| self.lifetimes.observe(longest, is_learnt));
                if let Some(share) = share {
                    let text = format!(
                        "it asks for the longest lifetime each time, where {:.0} % of its tokens had it before",
                        share * 100.0
                    );
                    found.push((AnomalyRule::Lifetime, text));
                }
            }
            Act::JwtSvid(audiences) => {
                for audience in each(audiences) {
                    self.compare_name(name_digest("aud", audience), "audience", audience, is_learnt, found);
                }
            }
            Act::Credential(name) => {
                self.compare_name(name_digest("cred", name), "credential", name, is_learnt, found);
            }
            _ => {}
        }
    }

    fn compare_hour(
        &mut self,
        seen: &Observation<'_>,
        zone: &Zone,
        is_learnt: bool,
        found: &mut Vec<Finding>,
    ) {
        let local = zone.local_time(seen.time);
        let is_unusual = self.hours.observe(seen.time, local, is_learnt);
        let text = match seen.stated_hours {
            // Stated hours stand in place of learnt ones, from the first observation on.
            Some(hours) if hours.contain(seen.time) => return,
            Some(hours) => format!("it is used outside of its stated hours, {hours}"),
            None if is_unusual => {
                let (hour, minute, weekday) = (local.hour, local.minute, local.weekday.as_str());
                format!(
                    "it is used on a {weekday} at {hour:02}:{minute:02}, near which it was not used before"
                )
            }
            None => return,
        };
        found.push((AnomalyRule::Hours, text));
    }

    fn compare_name(
        &mut self,
        digest: u64,
        kind: &str,
        name: &str,
        is_learnt: bool,
        found: &mut Vec<Finding>,
    ) {
        if self.names.observe(digest, is_learnt) {
            found.push((
                AnomalyRule::FirstUse,
                format!("it uses the {kind} {} for the first time", shown(name)),
            ));
        }
    }

    fn follow_token(
        &mut self,
        digest: u64,
        (audience, jti, lifetime): (&str, &str, Duration),
        boot: BootTime,
        is_learnt: bool,
        found: &mut Vec<Finding>,
    ) {
        if !self.tokens.is_following() {
            return;
        }
        if let Some(unused) = self.tokens.issued(digest, name_digest("jti", jti), lifetime, boot, is_learnt) {
            let text = format!(
                "{} tokens in a row were not seen used, where relying parties introspected {:.0} % of those before; \
                 the latest token is for {}",
                unused.in_a_row,
                unused.share * 100.0,
                shown(audience)
            );
            found.push((AnomalyRule::UnusedTokens, text));
        }
    }
}

/// The audiences of a list with spaces between them.
fn each(audiences: &str) -> impl Iterator<Item = &str> {
    audiences.split(' ').filter(|audience| !audience.is_empty())
}

fn canary(act: Act<'_>) -> String {
    match act {
        Act::Credential(name) => format!("it got the canary credential {}", shown(name)),
        Act::Refused { credential, .. } => {
            format!("it asked for the canary credential {}", shown(credential.unwrap_or_default()))
        }
        _ => "it touched a canary credential".to_owned(),
    }
}

/// A name without control characters, shortened.
fn shown(name: &str) -> String {
    let mut end = name.len().min(MAX_SHOWN);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let more = if end < name.len() { "…" } else { "" };
    format!("{}{more}", escape_unprintable(&name[..end]))
}
