//! What a reload changes in the policies, and which of it makes rights wider.
//!
//! A change widens unless it is certain that it does not: a `forbid` that is removed or changed, a `permit` that is
//! new or changed where requests need one, and a `permit` that is removed or changed and whose evaluation may have
//! failed, since a failure refuses. A new `forbid` narrows, and so does one that loses its last conditions, and a
//! `permit` that gets further ones.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use cedar_policy::{Effect, Policy};

use crate::agents::{EvaluatedAttributes, RightsCollector, RightsDiff};

use super::meaning::Meaning;
use super::needs::Attribute;
use super::policy_set::{PolicyInfo, PolicySet};

/// Length of a policy's name in a description, in characters: the rest of it is for what changed.
const MAX_LABEL_LEN: usize = 100;

/// The policies that a reload adds, changes and removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChanges {
    /// The labels ([`PolicyInfo::label`]) of policies that are new, in the order of files and lines.
    pub added: Vec<String>,
    /// Those of policies that are written otherwise.
    pub changed: Vec<String>,
    /// Those of policies that are gone.
    pub removed: Vec<String>,
    /// The same with what changed, and which of it makes rights wider.
    pub rights: RightsDiff,
}

/// A policy of one of the sets.
struct Seen<'a> {
    policy: &'a Policy,
    info: &'a PolicyInfo,
    meaning: OnceCell<Meaning>,
}

/// A policy that was written otherwise: as it was, and as it is.
type Pair<'a> = (Seen<'a>, Seen<'a>);

impl PolicyChanges {
    /// Whether no policy was added, changed or removed.
    pub fn is_empty(&self) -> bool {
        self.rights.count == 0
    }

    /// Compares two sets. `requires_permit` says whether a request needs a policy that permits it. Blocking.
    pub(super) fn between(
        previous: Option<&PolicySet>,
        current: Option<&PolicySet>,
        requires_permit: bool,
    ) -> PolicyChanges {
        if let (Some(previous), Some(current)) = (previous, current)
            && previous.sha256() == current.sha256()
        {
            return PolicyChanges::default();
        }
        let (mut old, mut new) = (seen(previous), seen(current));
        remove_common(&mut old, &mut new);
        let pairs = pair(&mut old, &mut new);
        let (mut changes, mut rights) = (PolicyChanges::default(), RightsCollector::default());
        for one in new {
            let widens = requires_permit && one.info.effect == Effect::Permit;
            rights.add(&holder(one.info), &format!("new {}", one.info.effect), widens);
            changes.added.push(one.info.label());
        }
        for (old, new) in pairs {
            let Some((what, widens)) = compare(&old, &new, requires_permit) else { continue };
            rights.add(&holder(new.info), &what, widens);
            changes.changed.push(new.info.label());
        }
        for one in old {
            rights.add(&holder(one.info), &format!("{} removed", one.info.effect), one.refuses());
            changes.removed.push(one.info.label());
        }
        changes.rights = rights.finish();
        changes
    }
}

impl PolicySet {
    /// The attributes of agents that a policy may evaluate.
    pub fn evaluated_attributes(&self) -> EvaluatedAttributes {
        let needs = self.needs();
        EvaluatedAttributes {
            roles: needs.has(Attribute::Roles) || needs.has(Attribute::Parents),
            owner: needs.has(Attribute::Owner),
            posture: needs.has(Attribute::Posture),
            assurance: needs.has(Attribute::Assurance),
            binding: needs.has(Attribute::Binding),
            approved: needs.has(Attribute::Approved),
            exe_sha256: needs.has(Attribute::ExeSha256),
            scopes: needs.has(Attribute::Scopes),
            ttl: needs.has(Attribute::Ttl),
        }
    }
}

impl<'a> Seen<'a> {
    fn meaning(&self) -> &Meaning {
        self.meaning.get_or_init(|| Meaning::of(self.policy))
    }

    /// Whether the policy may refuse a request by what it says.
    fn refuses(&self) -> bool {
        self.info.effect == Effect::Forbid || self.meaning().may_fail()
    }

    fn place(&self) -> (&'a str, usize, &'a str) {
        (&self.info.file, self.info.line, &self.info.id)
    }
}

/// The policies in the order of files and lines.
fn seen(set: Option<&PolicySet>) -> Vec<Seen<'_>> {
    let policies = set.into_iter().flat_map(PolicySet::cedar_policies);
    let mut all: Vec<Seen<'_>> =
        policies.map(|(policy, info)| Seen { policy, info, meaning: OnceCell::new() }).collect();
    all.sort_by_key(Seen::place);
    all
}

/// Removes what both have with the same text, wherever it stands.
fn remove_common(old: &mut Vec<Seen<'_>>, new: &mut Vec<Seen<'_>>) {
    let mut of_old: HashMap<String, usize> = HashMap::new();
    for one in &*old {
        *of_old.entry(one.policy.to_string()).or_default() += 1;
    }
    let mut common: HashMap<String, usize> = HashMap::new();
    new.retain(|one| {
        let text = one.policy.to_string();
        let is_common = take_one(&mut of_old, &text);
        if is_common {
            *common.entry(text).or_default() += 1;
        }
        !is_common
    });
    old.retain(|one| !take_one(&mut common, &one.policy.to_string()));
}

fn take_one(counts: &mut HashMap<String, usize>, text: &str) -> bool {
    let count = counts.get_mut(text).filter(|count| **count > 0);
    count.map(|count| *count -= 1).is_some()
}

/// Takes out the policies that are probably the same ones, written otherwise: those that mean the same, those with
/// the same `@id`, and in a file with as many old as new ones the others, in their order. Which old one a new one is
/// compared with does not matter for what widens: each counts once.
fn pair<'a>(old: &mut Vec<Seen<'a>>, new: &mut Vec<Seen<'a>>) -> Vec<Pair<'a>> {
    if old.is_empty() || new.is_empty() {
        return Vec::new();
    }
    let mut pairs = pair_by_key(old, new, |one| one.meaning().text());
    pairs.extend(pair_by_key(old, new, |one| one.info.name.clone()));
    pairs.extend(pair_by_key(old, new, |one| one.info.name.is_none().then(|| one.info.file.clone())));
    pairs.sort_by_key(|(_, new)| new.place());
    old.sort_by_key(Seen::place);
    new.sort_by_key(Seen::place);
    pairs
}

/// Takes out the policies of each key that has as many old as new ones.
fn pair_by_key<'a>(
    old: &mut Vec<Seen<'a>>,
    new: &mut Vec<Seen<'a>>,
    key: impl Fn(&Seen<'a>) -> Option<String>,
) -> Vec<Pair<'a>> {
    let mut by_key: BTreeMap<String, (Vec<Seen<'a>>, Vec<Seen<'a>>)> = BTreeMap::new();
    for one in std::mem::take(old) {
        match key(&one) {
            None => old.push(one),
            Some(key) => by_key.entry(key).or_default().0.push(one),
        }
    }
    for one in std::mem::take(new) {
        match key(&one) {
            None => new.push(one),
            Some(key) => by_key.entry(key).or_default().1.push(one),
        }
    }
    let mut pairs = Vec::new();
    for (olds, news) in by_key.into_values() {
        if olds.len() == news.len() {
            pairs.extend(olds.into_iter().zip(news));
        } else {
            old.extend(olds);
            new.extend(news);
        }
    }
    pairs
}

/// What is different, and whether it widens; `None` if it is only the layout.
fn compare(old: &Seen<'_>, new: &Seen<'_>, requires_permit: bool) -> Option<(String, bool)> {
    let (before, after) = (old.meaning(), new.meaning());
    if before.is_same(after) {
        let is_annotated_otherwise = !old.policy.annotations().eq(new.policy.annotations());
        return is_annotated_otherwise.then(|| ("other annotations".to_owned(), false));
    }
    let permits = requires_permit && new.info.effect == Effect::Permit;
    let widens = (permits || old.refuses()) && !after.narrows(before);
    let what = match (old.info.effect, new.info.effect) {
        (one, other) if one == other => format!("{one} changed"),
        (one, other) => format!("{one} changed to {other}"),
    };
    Some((what, widens))
}

fn holder(info: &PolicyInfo) -> String {
    let label = info.label();
    match label.chars().count() > MAX_LABEL_LEN {
        true => format!("policy {}…", label.chars().take(MAX_LABEL_LEN - 1).collect::<String>()),
        false => format!("policy {label}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNCONDITIONAL: &str = "forbid (principal, action, resource);\n";

    fn set(files: &[(&str, &str)]) -> Option<PolicySet> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        PolicySet::read(dir.path()).unwrap()
    }

    fn token(effect: &str, condition: &str) -> String {
        format!("{effect} (principal, action == Action::\"token\", resource) when {{ {condition} }};\n")
    }

    /// The changes of one file's text, without the names of policies, and with two numbers of those that widen: where
    /// requests need no `permit`, and where they do.
    fn diff(old: &str, new: &str) -> (Vec<String>, usize, usize) {
        let between = |requires_permit| {
            PolicyChanges::between(
                set(&[("a.cedar", old)]).as_ref(),
                set(&[("a.cedar", new)]).as_ref(),
                requires_permit,
            )
        };
        let (free, strict) = (between(false), between(true));
        let changes = strict.rights.changes.iter();
        let texts = changes.map(|one| one.description.rsplit(": ").next().unwrap().to_owned()).collect();
        assert_eq!(free.rights.count, strict.rights.count);
        (texts, free.rights.widening, strict.rights.widening)
    }

    #[track_caller]
    fn assert_diff(old: &str, new: &str, what: &[&str], widening: [usize; 2]) {
        let (texts, free, strict) = diff(old, new);
        assert_eq!((texts, [free, strict]), (what.iter().map(ToString::to_string).collect(), widening));
    }

    #[test]
    fn a_forbid_that_goes_or_changes_widens_and_a_new_one_does_not() {
        let [short, long] =
            ["context.ttl > 60", "context.ttl > 600"].map(|condition| token("forbid", condition));
        assert_diff("", &short, &["new forbid"], [0, 0]);
        assert_diff(&short, "", &["forbid removed"], [1, 1]);
        assert_diff(&short, &long, &["forbid changed"], [1, 1]);
        assert_diff(&long, &short, &["forbid changed"], [1, 1]);
        let unless = short.replace(';', "\nunless { context.assurance == \"tpm\" };");
        assert_diff(&short, &unless, &["forbid changed"], [1, 1]);
        assert_diff(&unless, &short, &["forbid changed"], [0, 0]);
        assert_diff(&short, &format!("{short}{UNCONDITIONAL}"), &["new forbid"], [0, 0]);
    }

    #[test]
    fn a_permit_widens_where_requests_need_one() {
        let [short, long] =
            ["context.ttl <= 60", "context.ttl <= 600"].map(|condition| token("permit", condition));
        assert_diff("", &short, &["new permit"], [0, 1]);
        assert_diff(&short, "", &["permit removed"], [0, 0]);
        assert_diff(&short, &long, &["permit changed"], [0, 1]);
        let further = short.replace(';', "\nwhen { context.assurance == \"tpm\" };");
        assert_diff(&short, &further, &["permit changed"], [0, 0]);
        assert_diff(&further, &short, &["permit changed"], [0, 1]);
        // A failure had refused everything.
        let failing = token("permit", "context.ttl + 9223372036854775807 > 0");
        assert_diff(&failing, "", &["permit removed"], [1, 1]);
        assert_diff(&failing, &short, &["permit changed"], [1, 1]);
        assert_diff(&short, &short.replace("permit", "forbid"), &["permit changed to forbid"], [0, 0]);
        assert_diff(&short.replace("permit", "forbid"), &short, &["forbid changed to permit"], [1, 1]);
    }

    #[test]
    fn layout_and_place_are_no_change_and_annotations_are_one_that_does_not_widen() {
        let rule = token("forbid", "context.ttl > 60");
        assert_diff(&rule, &format!("// why\n\n{}", rule.replace(' ', "\n")), &[], [0, 0]);
        assert_diff(&rule, &format!("@id(\"short\")\n{rule}"), &["other annotations"], [0, 0]);
        let changes = |old: &[(&str, &str)], new: &[(&str, &str)]| {
            PolicyChanges::between(set(old).as_ref(), set(new).as_ref(), true)
        };
        let moved = changes(
            &[("a.cedar", &rule), ("b.cedar", UNCONDITIONAL)],
            &[("c.cedar", &format!("{UNCONDITIONAL}{rule}"))],
        );
        assert!(moved.is_empty(), "{moved:?}");
        // One of two that are the same.
        let once = changes(&[("a.cedar", &rule.repeat(2))], &[("a.cedar", &rule)]);
        assert_eq!((once.removed.len(), once.rights.widening), (1, 1));
    }

    #[test]
    fn policies_are_named_and_told_apart_by_id_and_place() {
        let named = |id: &str, ttl: u32| {
            format!("@id(\"{id}\")\n{}", token("forbid", &format!("context.ttl > {ttl}")))
        };
        let unnamed = |ttl: u32| token("forbid", &format!("context.ttl > {ttl}"));
        let old = format!("{}{}{}{}", named("a", 1), named("b", 2), unnamed(3), unnamed(4));
        let new = format!("{}{}{}{}", unnamed(3), named("b", 5), unnamed(6), named("c", 7));
        let changes = PolicyChanges::between(
            set(&[("x.cedar", &old)]).as_ref(),
            set(&[("x.cedar", &new)]).as_ref(),
            false,
        );
        let texts: Vec<String> = changes.rights.changes.iter().map(|one| one.text()).collect();
        let expected = [
            "policy \"b\" (x.cedar:2): forbid changed (wider)",
            "policy x.cedar:4: forbid changed (wider)",
            "policy \"a\" (x.cedar:1): forbid removed (wider)",
            "policy \"c\" (x.cedar:5): new forbid",
        ];
        assert_eq!(texts, expected);
        assert_eq!((changes.added.len(), changes.changed.len(), changes.removed.len()), (1, 2, 1));
        let long = named(&"é".repeat(120), 1);
        let changes = PolicyChanges::between(None, set(&[("x.cedar", &long)]).as_ref(), false);
        let description = &changes.rights.changes[0].description;
        assert!(description.ends_with("…: new forbid") && description.chars().count() < 130, "{description}");
    }

    #[test]
    fn attributes_that_a_text_may_evaluate_are_found() {
        let evaluated = |condition: &str| {
            set(&[("a.cedar", &token("forbid", condition))]).unwrap().evaluated_attributes()
        };
        let attributes =
            |roles, owner| EvaluatedAttributes { roles, owner, ..EvaluatedAttributes::default() };
        let none = attributes(false, false);
        assert_eq!(evaluated("context.time.hour > 6"), none);
        assert_eq!(evaluated("context.ttl > 60"), EvaluatedAttributes { ttl: true, ..none });
        let scopes = EvaluatedAttributes { scopes: true, ..none };
        assert_eq!(evaluated("context.scopes.contains(\"admin\")"), scopes);
        assert_eq!(evaluated("principal.roles.isEmpty()"), attributes(true, false));
        assert_eq!(evaluated("principal in Role::\"r\""), attributes(true, false));
        assert_eq!(evaluated("principal has owner"), attributes(false, true));
        assert_eq!(evaluated("principal has \"own\\u{65}r\""), EvaluatedAttributes::ALL);
        assert!(evaluated("context.posture == \"off\" || context.assurance == \"tpm\"").posture);
    }
}
