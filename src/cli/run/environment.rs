//! The environment of the command: that of this process, without secrets.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::secrets::secret_variable;

/// Names the directory with the tokens of the command.
pub(super) const DIR_VARIABLE: &str = "HOSTBADGE_RUN_DIR";

/// What of an environment the command gets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Environment {
    /// The names of variables that look like secrets, which it does not get, sorted.
    pub removed: Vec<OsString>,
    /// The names of those that it gets nevertheless, sorted.
    pub kept: Vec<OsString>,
}

impl Environment {
    /// Looks for secrets in these variables. Those in `keep` stay.
    pub(super) fn of(
        variables: impl Iterator<Item = (OsString, OsString)>,
        keep: &[OsString],
    ) -> Environment {
        let mut environment = Environment::default();
        for (name, value) in variables.filter(|(name, value)| is_secret(name, value)) {
            drop(value);
            match keep.contains(&name) {
                true => environment.kept.push(name),
                false => environment.removed.push(name),
            }
        }
        environment.removed.sort();
        environment.kept.sort();
        environment
    }
}

fn is_secret(name: &OsString, value: &OsString) -> bool {
    let mut assignment = String::from_utf8_lossy(name.as_bytes()).into_owned();
    assignment.push('=');
    assignment.push_str(&String::from_utf8_lossy(value.as_bytes()));
    secret_variable(&assignment).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_removed_by_name_and_by_form_unless_they_are_kept() {
        let variables = [
            ("OPENAI_API_KEY", "sk-0123456789abcdef0123"),
            ("HOME", "/root"),
            ("X", "ghp_0123456789abcdefghijklmnopqrstuvwxyz"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIK7MDENGbPxRfiCYzzzzzzzzzzzz"),
            ("TOKEN_FILE", "/run/token"),
            ("PATH", "/usr/bin"),
        ];
        let variables =
            || variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let environment = Environment::of(variables(), &["X".into()]);
        assert_eq!(environment.removed, ["AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"]);
        assert_eq!(environment.kept, ["X"]);
        assert_eq!(Environment::of(variables(), &[]).removed.len(), 3);
    }
}
