//! What may be used once is used twice: a nonce, and a token at `introspect --once`.

use serde_json::{Value, json};

use super::attempts::Attempts;
use super::context::Context;

pub(super) fn run(context: &Context, attempts: &mut Attempts) {
    let uses: [(_, fn(&Context) -> _); 2] =
        [("a nonce of this host, used twice", nonce_twice), ("a token, used up twice", token_twice)];
    for (attempt, uses) in uses {
        if attempts.has_time(attempt) {
            judge(attempts, attempt, uses(context));
        }
    }
}

/// The first use has to be valid, or nothing was tried.
fn judge(attempts: &mut Attempts, attempt: &str, uses: Result<[bool; 2], String>) {
    match uses {
        Err(why) => attempts.skipped(attempt, why),
        Ok([false, _]) => attempts.skipped(attempt, "the first use was refused"),
        Ok([true, second]) => {
            attempts.judge(
                attempt,
                !second,
                if second { "valid both times" } else { "valid the first time only" },
            );
        }
    }
}

fn nonce_twice(context: &Context) -> Result<[bool; 2], String> {
    let nonce = context.ask_as_agent("/v1/nonce", &json!({}))?;
    let body = json!({ "nonce": nonce["nonce"] });
    twice(|| said(&context.ask_as_agent("/v1/nonce/use", &body)?, "valid"))
}

fn token_twice(context: &Context) -> Result<[bool; 2], String> {
    let body = json!({ "token": context.token()?, "once": true });
    twice(|| said(&context.ask_as_agent("/v1/introspect", &body)?, "active"))
}

fn twice(mut once: impl FnMut() -> Result<bool, String>) -> Result<[bool; 2], String> {
    Ok([once()?, once()?])
}

/// A member of an answer. Without it, the answer is no refusal.
pub(super) fn said(answer: &Value, member: &str) -> Result<bool, String> {
    answer[member].as_bool().ok_or_else(|| format!("the answer has no member {member}"))
}

#[cfg(test)]
mod tests {
    use super::super::attempts::Outcome;
    use super::*;

    #[test]
    fn a_second_use_that_is_valid_is_a_hole() {
        for (uses, outcome) in [
            (Ok([true, false]), Outcome::Held),
            (Ok([true, true]), Outcome::Hole),
            (Ok([false, false]), Outcome::Skipped),
            (Err("no agent".to_owned()), Outcome::Skipped),
        ] {
            let mut attempts = Attempts::new();
            judge(&mut attempts, "x", uses);
            assert_eq!(attempts.results("x"), [outcome]);
        }
    }

    #[test]
    fn an_answer_that_does_not_say_it_is_no_refusal() {
        assert_eq!(said(&json!({ "valid": false }), "valid"), Ok(false));
        for answer in [json!({}), json!(null), json!({ "valid": "false" })] {
            assert!(said(&answer, "valid").is_err(), "{answer}");
        }
    }
}
