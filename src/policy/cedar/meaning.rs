//! What a policy means, apart from its text: whether it means the same as another one, whether it applies less
//! often, and whether its evaluation can fail.
//!
//! Only what can be shown counts: of a policy that is long or uses anything that is not listed here, nothing is.

use cedar_policy::{Effect, Policy};
use serde_json::{Map, Value};

use super::nesting::is_simple;

/// A policy without its annotations, in Cedar's JSON form.
pub(super) struct Meaning {
    effect: Effect,
    /// Principal, action and resource of the scope; `None` if nothing can be shown.
    head: Option<[Value; 3]>,
    conditions: Vec<Value>,
}

impl Meaning {
    /// Blocking: parses the policy again.
    pub(super) fn of(policy: &Policy) -> Meaning {
        let effect = policy.effect();
        // Cedar's conversion and the walk below recurse.
        let json = is_simple(&policy.to_string()).then(|| policy.to_json().ok()).flatten();
        let Some(Value::Object(mut json)) = json else {
            return Meaning { effect, head: None, conditions: Vec::new() };
        };
        let mut part = |name: &str| json.remove(name).unwrap_or(Value::Null);
        let head = Some([part("principal"), part("action"), part("resource")]);
        match part("conditions") {
            Value::Array(conditions) => Meaning { effect, head, conditions },
            _ => Meaning { effect, head: None, conditions: Vec::new() },
        }
    }

    /// The same for policies that mean the same; `None` if nothing can be shown.
    pub(super) fn text(&self) -> Option<String> {
        let head = self.head.as_ref()?;
        serde_json::to_string(&(self.effect.to_string(), head, &self.conditions)).ok()
    }

    /// Whether both certainly mean the same.
    pub(super) fn is_same(&self, other: &Meaning) -> bool {
        self.has_same_head(other) && self.conditions == other.conditions
    }

    /// Whether this policy, put in the place of `old`, certainly allows nothing that `old` did not: a `permit` with
    /// further conditions, or a `forbid` without the last ones. Conditions are evaluated in their order, so a
    /// failure of the common ones is the same for both, and a failure refuses.
    pub(super) fn narrows(&self, old: &Meaning) -> bool {
        self.has_same_head(old)
            && match self.effect {
                Effect::Permit => self.conditions.starts_with(&old.conditions),
                Effect::Forbid => old.conditions.starts_with(&self.conditions),
            }
    }

    /// Whether the evaluation can fail, which refuses the request: the policy then acts as a `forbid`.
    pub(super) fn may_fail(&self) -> bool {
        let is_total = |condition: &Value| condition.get("body").is_some_and(is_total);
        self.head.is_none() || !self.conditions.iter().all(is_total)
    }

    fn has_same_head(&self, other: &Meaning) -> bool {
        self.effect == other.effect && self.head.is_some() && self.head == other.head
    }
}

/// Whether an expression that the strict check accepts certainly has a value. Arithmetic can overflow, and entities
/// other than the request's own have no attributes.
fn is_total(expression: &Value) -> bool {
    let Some((operator, operands)) = only_member(expression) else { return false };
    let all = |names: &[&str]| names.iter().all(|name| operands.get(*name).is_some_and(is_total));
    match operator.as_str() {
        "Value" | "Var" => true,
        "!" | "isEmpty" => all(&["arg"]),
        "&&" | "||" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "contains" | "containsAll"
        | "containsAny" => all(&["left", "right"]),
        "has" | "like" => all(&["left"]),
        "is" => all(&["left"]) && operands.get("in").is_none_or(is_total),
        "." => is_path(expression),
        "if-then-else" => all(&["if", "then", "else"]),
        "Set" => operands.as_array().is_some_and(|members| members.iter().all(is_total)),
        "Record" => operands.as_object().is_some_and(|record| record.values().all(is_total)),
        // The strict check has parsed the literal.
        "datetime" | "duration" | "decimal" | "ip" => {
            let is_literal = |operand: &Value| only_member(operand).is_some_and(|(kind, _)| kind == "Value");
            operands.as_array().is_some_and(|operands| operands.iter().all(is_literal))
        }
        _ => false,
    }
}

/// Whether an expression is an attribute of the request's own: `principal.owner`, `context.peer.uid`. The strict
/// check has found that the attribute is there.
fn is_path(expression: &Value) -> bool {
    match only_member(expression) {
        Some((operator, operands)) if operator == "." => operands.get("left").is_some_and(is_path),
        Some((operator, _)) => operator == "Var",
        None => false,
    }
}

fn only_member(value: &Value) -> Option<(&String, &Value)> {
    let members: &Map<String, Value> = value.as_object()?;
    members.iter().next().filter(|_| members.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &str) -> Meaning {
        Meaning::of(&text.parse().unwrap())
    }

    fn rule(conditions: &str) -> String {
        format!("forbid (principal, action == Action::\"token\", resource) {conditions};")
    }

    #[test]
    fn layout_comments_and_annotations_have_no_meaning() {
        let one = meaning(&rule("when { context.ttl > 60 }"));
        let other = format!("@id(\"x\")\n{}", rule("// why\nwhen\n{\n  context.ttl>60\n}"));
        assert!(one.is_same(&meaning(&other)));
        for other in [
            rule("when { context.ttl > 61 }"),
            rule("unless { context.ttl > 60 }"),
            rule("when { context.ttl > 60 } when { true }"),
            rule("when { context.ttl > 60 }").replace("forbid", "permit"),
            rule("when { context.ttl > 60 }").replace("principal,", "principal == Agent::\"a\","),
        ] {
            assert!(!one.is_same(&meaning(&other)), "{other}");
        }
    }

    #[test]
    fn a_permit_with_more_conditions_and_a_forbid_with_fewer_narrow() {
        let (few, many) =
            ("when { context.ttl > 60 }", "when { context.ttl > 60 } unless { context.ttl > 90 }");
        let forbid = |conditions: &str| meaning(&rule(conditions));
        let permit = |conditions: &str| meaning(&rule(conditions).replace("forbid", "permit"));
        assert!(permit(many).narrows(&permit(few)) && !permit(few).narrows(&permit(many)));
        assert!(forbid(few).narrows(&forbid(many)) && !forbid(many).narrows(&forbid(few)));
        assert!(forbid("").narrows(&forbid(few)) && permit(few).narrows(&permit("")));
        assert!(!forbid(few).narrows(&permit(few)) && !permit(few).narrows(&forbid(few)));
        // The first condition can fail where the second does not hold.
        let turned = "unless { context.ttl > 90 } when { context.ttl > 60 }";
        assert!(!permit(turned).narrows(&permit(few)));
    }

    #[test]
    fn what_can_fail_is_told_from_what_cannot() {
        for conditions in [
            "",
            "when { context.scopes.contains(\"a\") && context.posture != \"off\" }",
            "unless { principal has owner && principal.owner like \"*@example.com\" }",
            "when { if context.ttl < 5 then true else [1, 2].contains(context.time.hour) }",
            "when { context.time.instant < datetime(\"2027-01-01\") || principal in Role::\"r\" }",
            "when { resource is Audience && {a: 1} == {a: context.ttl} && !principal.roles.isEmpty() }",
        ] {
            assert!(!meaning(&rule(conditions)).may_fail(), "{conditions}");
        }
        for conditions in [
            "when { context.ttl + 1 > 60 }",
            "when { context.ttl * 2 > 60 }",
            "when { -context.ttl < 60 }",
            "when { Agent::\"a\".depth == 0 }",
            "when { context.time.instant.offset(duration(\"1d\")) < datetime(\"2027-01-01\") }",
        ] {
            assert!(meaning(&rule(conditions)).may_fail(), "{conditions}");
        }
    }

    #[test]
    fn of_a_long_policy_nothing_is_shown() {
        let long = rule(&format!("when {{ true{} }}", " && context.posture != \"off\"".repeat(300)));
        let meaning = meaning(&long);
        assert!(!meaning.is_same(&meaning) && !meaning.narrows(&meaning) && meaning.may_fail());
    }
}
