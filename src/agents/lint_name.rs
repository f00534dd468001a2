//! The stable names of lints, with which every text of a lint ends.

use crate::config::Diagnostic;

macro_rules! lints {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// What can be found in agents that are valid. Names do not change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Lint { $($(#[$doc])* $variant,)* }

        impl Lint {
            /// All lints, in the order of the guide.
            pub const ALL: &[Lint] = &[$(Lint::$variant,)*];

            /// The name, such as `no-owner`.
            pub const fn name(self) -> &'static str {
                match self { $(Lint::$variant => $name,)* }
            }
        }
    };
}

lints! {
    /// `owner` is missing.
    NoOwner "no-owner",
    /// Nothing but the user tells the agent's processes from others.
    NoUnit "no-unit",
    /// The executable is an interpreter, and no unit is named.
    InterpreterAlone "interpreter-alone",
    /// The agent's processes run as root.
    RootUser "root-user",
    /// Agents have the same user.
    SharedUid "shared-uid",
    /// `unit` without a user or group.
    UnitAlone "unit-alone",
    /// Users start processes in the unit.
    SharedUnit "shared-unit",
    /// A unit of the user's own service manager.
    UserUnit "user-unit",
    /// A login session.
    Session "session",
    /// A container that the user may run.
    UserContainer "user-container",
    /// `container` without a user, group or unit.
    ContainerAlone "container-alone",
    /// Conditions that exclude each other.
    NeverMatches "never-matches",
    /// Agents have the same conditions.
    SameProcesses "same-processes",
    /// The conditions of one agent are a part of those of another.
    IncludedProcesses "included-processes",
    /// A user or group does not exist.
    UnknownUser "unknown-user",
    /// No file describes the unit.
    UnknownUnit "unknown-unit",
    /// A backslash in a unit's name that is no escape.
    UnitEscape "unit-escape",
    /// The unit is an alias of another.
    UnitAlias "unit-alias",
    /// The executable does not exist.
    MissingExecutable "missing-executable",
    /// The executable is a link, a script or no file.
    OtherExecutable "other-executable",
    /// `files` without a unit that starts them.
    FilesAlone "files-alone",
    /// One of `files` does not count.
    UnusableFile "unusable-file",
    /// Others than root can change libraries of the agent's interpreter.
    WritableLibraries "writable-libraries",
    /// An asterisk or bracket that stands for itself.
    LiteralPattern "literal-pattern",
    /// An audience that does not name one relying party.
    WildcardAudience "wildcard-audience",
    /// A credential that this version cannot use in the way that the file says.
    UnusableCredential "unusable-credential",
    /// A secret in a unit file.
    SecretInUnit "secret-in-unit",
    /// A secret in a file that others can read.
    ReadableSecret "readable-secret",
    /// The directory has no agents.
    NoAgents "no-agents",
    /// The host has no recovery key.
    NoRecoveryKey "no-recovery-key",
    /// Tokens have no status in a status list.
    NoStatusList "no-status-list",
    /// The agent requested nothing.
    UnusedAgent "unused-agent",
    /// Nothing was issued for an audience.
    UnusedGrant "unused-grant",
    /// No token had a scope.
    UnusedScope "unused-scope",
    /// No token lived as long as the grant allows.
    LongLifetime "long-lifetime",
}

impl Lint {
    /// The text of a lint: what was found and what to do, and the name.
    pub fn about(self, text: impl std::fmt::Display) -> String {
        format!("{text} [{}]", self.name())
    }

    /// The lint that a text is of, and the text without its name. `None` for other diagnostics.
    pub fn of(diagnostic: &Diagnostic) -> Option<(Lint, &str)> {
        let (text, name) = diagnostic.message.strip_suffix(']')?.rsplit_once(" [")?;
        let lint = Lint::ALL.iter().find(|lint| lint.name() == name)?;
        Some((*lint, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_ends_the_text() {
        let diagnostic = |message: String| Diagnostic { file: "/a.toml".into(), line: None, message };
        let found = diagnostic(Lint::NoOwner.about("add owner [x]"));
        assert_eq!(Lint::of(&found), Some((Lint::NoOwner, "add owner [x]")));
        for other in ["add owner", "add owner [unknown]", "add owner[no-owner]", "]"] {
            assert_eq!(Lint::of(&diagnostic(other.to_owned())), None, "{other}");
        }
    }

    #[test]
    fn names_are_kebab_case_and_in_the_guide() {
        let guide = include_str!("../../docs/guide/agents.md");
        for lint in Lint::ALL {
            let name = lint.name();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
            assert!(guide.contains(&format!("| `{name}` |")), "docs/guide/agents.md does not list {name}");
        }
    }
}
