//! The table `[anomaly]`: what the daemon does when an agent behaves as it has not before.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::durations::{DAY, HOUR, bounded_duration};
use super::schema::{Key, Kind};

/// The values of a rule's key.
const ACTION: Kind = Kind::Choice(&["off", "alert", "suspend"]);

macro_rules! rules {
    ($($variant:ident $field:ident $default:ident $doc:literal,)*) => {
        /// A rule that compares what an agent does with what it did before.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AnomalyRule {
            $(#[doc = $doc] $variant,)*
        }

        impl AnomalyRule {
            /// All rules.
            pub const ALL: &'static [AnomalyRule] = &[$(AnomalyRule::$variant,)*];

            /// The name, which is also the rule's key in `[anomaly]`.
            pub fn name(self) -> &'static str {
                match self { $(AnomalyRule::$variant => stringify!($field),)* }
            }

            /// What happens unless the configuration says otherwise.
            pub fn default_action(self) -> AnomalyAction {
                match self { $(AnomalyRule::$variant => AnomalyAction::$default,)* }
            }
        }

        /// What rules do, where a file says it.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct AnomalyActions {
            $(#[doc = $doc] pub $field: Option<AnomalyAction>,)*
        }

        impl AnomalyActions {
            /// What the file says of this rule.
            pub fn get(&self, rule: AnomalyRule) -> Option<AnomalyAction> {
                match rule { $(AnomalyRule::$variant => self.$field,)* }
            }
        }

        /// The table `[anomaly]`.
        #[derive(Clone, Debug, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct AnomalySection {
            /// How long an agent is observed before it is compared with itself, from 1 h to 90 d. Default: 7 d.
            #[serde(deserialize_with = "learning_time")]
            pub learn: Duration,
            $(#[doc = $doc] pub $field: Option<AnomalyAction>,)*
        }

        impl AnomalySection {
            /// The keys of the table.
            pub(super) const KEYS: &'static [Key] = &[
                Key::optional("learn", Kind::Duration("\"7d\"")),
                $(Key::optional(stringify!($field), ACTION),)*
            ];

            /// What rules do on this host.
            pub fn actions(&self) -> AnomalyActions {
                AnomalyActions { $($field: self.$field,)* }
            }
        }

        impl Default for AnomalySection {
            fn default() -> Self {
                AnomalySection { learn: DAY * 7, $($field: None,)* }
            }
        }

        /// The table `[anomaly]` of an agent's file, as written.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct RawAgentAnomaly {
            /// The hours at which the agent is expected to be used; it may be used at others.
            pub stated_hours: Option<toml::Spanned<String>>,
            $(#[doc = $doc] pub $field: Option<AnomalyAction>,)*
        }

        impl RawAgentAnomaly {
            /// The keys of the table.
            pub const KEYS: &'static [Key] = &[
                Key::optional("stated_hours", Kind::Text("\"Mon-Fri 08:00-18:00 Europe/Berlin\"")),
                $(Key::optional(stringify!($field), ACTION),)*
            ];

            /// What rules do for this agent.
            pub fn actions(&self) -> AnomalyActions {
                AnomalyActions { $($field: self.$field,)* }
            }
        }
    };
}

rules! {
    Refresh refresh Alert "More is issued in an hour than the agent's own hours explain.",
    Hours hours Alert "The agent is used at an hour at which it was not, or that is not among its stated ones.",
    FirstUse first_use Alert "An audience or a credential is used for the first time.",
    Executable executable Alert "The executable is another one, or its file has changed.",
    UnitFile unit_file Alert "The unit's file or a drop-in of it has changed.",
    Refusals refusals Alert "Many requests of the agent are refused.",
    UnusedTokens unused_tokens Alert "Tokens that relying parties introspected before are not seen used any more.",
    Lifetime lifetime Alert "The longest lifetime is asked each time, by an agent that asked for shorter ones.",
    SharedKey shared_key Alert "A key in a certificate request was used in another invocation before.",
    Canary canary Suspend "A canary credential is asked for.",
}

/// What the daemon does when a rule finds something, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnomalyAction {
    /// Nothing.
    Off,
    /// There is an alert.
    Alert,
    /// There is an alert, and the agent is revoked until an administrator resumes it.
    Suspend,
}

impl AnomalyRule {
    /// The rule of this name.
    pub fn from_name(name: &str) -> Option<AnomalyRule> {
        AnomalyRule::ALL.iter().copied().find(|rule| rule.name() == name)
    }
}

impl AnomalyAction {
    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            AnomalyAction::Off => "off",
            AnomalyAction::Alert => "alert",
            AnomalyAction::Suspend => "suspend",
        }
    }
}

fn learning_time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    bounded_duration(deserializer, HOUR, DAY * 90, "from \"1h\" to \"90d\", such as \"7d\"")
}

#[cfg(test)]
mod tests {
    use super::super::tests::read_config;
    use super::*;

    #[test]
    fn the_actions_of_rules_are_read_and_have_defaults() {
        let section =
            read_config("[anomaly]\nlearn = \"14d\"\nhours = \"off\"\ncanary = \"alert\"\n").unwrap().anomaly;
        assert_eq!(section.learn, DAY * 14);
        let actions = section.actions();
        assert_eq!(actions.get(AnomalyRule::Hours), Some(AnomalyAction::Off));
        assert_eq!(actions.get(AnomalyRule::Canary), Some(AnomalyAction::Alert));
        assert_eq!(actions.get(AnomalyRule::Refresh), None);
        assert_eq!(AnomalyRule::Canary.default_action(), AnomalyAction::Suspend);
        for (text, expected) in [
            ("[anomaly]\nlearn = \"1m\"", "from \"1h\" to \"90d\""),
            ("[anomaly]\nhours = \"kill\"", "hours must be \"off\" or \"alert\" or \"suspend\""),
            ("[anomaly]\nhuors = \"off\"", "did you mean `hours`?"),
        ] {
            let error = read_config(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn rules_are_found_by_their_names() {
        for rule in AnomalyRule::ALL {
            assert_eq!(AnomalyRule::from_name(rule.name()), Some(*rule));
        }
        assert_eq!(AnomalyRule::from_name("learn"), None);
    }
}
