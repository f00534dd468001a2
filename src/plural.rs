//! Numbers with their nouns, for messages.

use std::fmt::Display;

/// A number of things: "1 agent", "2 agents". The plural of the noun ends with an "s".
pub(crate) fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let ending = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(0, "agent"), "0 agents");
        assert_eq!(counted(1, "agent"), "1 agent");
        assert_eq!(counted(2, "fault"), "2 faults");
    }
}
