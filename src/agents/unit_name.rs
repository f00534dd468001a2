//! Names of systemd units in `[match]`: those that a process can be in, by systemd's own rules.
//!
//! systemd.unit(5) and `unit_name_is_valid()`: at most 255 bytes; letters, digits and `:-_.\@`; then a dot
//! and the type. `@` stands before the instance of a template. `systemd-escape` writes other characters as
//! `\xNN`, and the name of such a unit has these four characters literally.

use std::fmt;
use std::ops::Range;

/// Length of the longest unit name, in bytes (`UNIT_NAME_MAX` without the NUL).
const MAX_LEN: usize = 255;
/// Types of units that processes run in (`peer/cgroup.rs` recognizes them).
const TYPES_WITH_PROCESSES: [&str; 5] = ["service", "scope", "socket", "mount", "swap"];
/// The other types. Of them, a slice has processes only in the units below it.
const OTHER_TYPES: [&str; 6] = ["slice", "timer", "target", "path", "device", "automount"];

/// Why no process is in a unit of this name, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImpossibleUnit(String);

impl fmt::Display for ImpossibleUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks the name of a unit as TOML gives it.
pub(super) fn check(unit: &str) -> Result<(), ImpossibleUnit> {
    let fault = |message: String| Err(ImpossibleUnit(message));
    if unit.is_empty() {
        return fault("unit is empty; write a complete unit name, like \"researcher.service\"".into());
    }
    if unit != unit.trim() {
        return fault(format!(
            "unit = {unit:?} begins or ends with blanks, which no unit name has; write {:?}",
            unit.trim()
        ));
    }
    if let Some((_, last)) = unit.rsplit_once('/') {
        let hint = if check(last).is_ok() { format!("; write {last:?}") } else { String::new() };
        return fault(format!("unit must be the name of a unit, without its path or slice{hint}"));
    }
    if unit.contains(['*', '?', '[', ']']) {
        return fault(
            "unit is compared as it is: *, ? and [] stand for themselves, and no unit name has them; write \
             one file for each unit, or match by user or group"
                .into(),
        );
    }
    if unit.contains('%') {
        return fault(
            "unit is compared as it is: specifiers such as %i are not replaced, and no unit name has them; \
             write the name that systemctl list-units shows"
                .into(),
        );
    }
    if unit.len() > MAX_LEN {
        return fault(format!("unit has {} bytes; systemd's names have at most {MAX_LEN}", unit.len()));
    }
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    if let Some(c) = unit.chars().find(|c| !is_name_char(*c)) {
        return fault(format!(
            "unit has {c:?}, which no unit name has: they consist of letters, digits and : - _ . \\ @, and \
             systemd-escape writes other characters as \\xNN"
        ));
    }
    let Some((stem, suffix)) = unit.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()) else {
        return fault(format!(
            "unit must be a complete unit name; write \"{unit}.service\" if it is a service"
        ));
    };
    if OTHER_TYPES.contains(&suffix) {
        let hint = match suffix {
            "slice" => "its units have; write one file for each of them",
            _ => "the unit that it starts has; write that one, which is often a service",
        };
        return fault(format!("no process is in a unit of the type {suffix} itself: {hint}"));
    }
    if !TYPES_WITH_PROCESSES.contains(&suffix) {
        return fault(format!(
            "unit must end in the type of the unit, such as .service or .scope, and .{suffix} is none; write \
             \"{unit}.service\" if it is a service"
        ));
    }
    match stem.split_once('@') {
        Some(("", _)) => fault("unit begins with @, and a template has a name before it".into()),
        Some((template, "")) => fault(format!(
            "{unit} is a template, and no process is in it; write an instance, such as \
             \"{template}@NAME.{suffix}\", or match by user or group"
        )),
        _ => Ok(()),
    }
}

/// Checks how a unit name is written in the file. `span` is that of the value in `text`, and `unit` what TOML
/// makes of it. In double quotes TOML replaces `\x2d`, `\u002d` and the like, so that the text names another
/// unit than the one that it shows.
pub(super) fn check_spelling(text: &str, span: Range<usize>, unit: &str) -> Result<(), ImpossibleUnit> {
    let written = text.get(span).unwrap_or_default();
    let Some(inner) = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Ok(());
    };
    // What is left after each escaped backslash begins an escape that TOML replaces.
    let Some(at) = inner.replace("\\\\", "  ").find('\\') else { return Ok(()) };
    let escape: String = inner[at..].chars().take(escape_length(&inner[at..])).collect();
    Err(ImpossibleUnit(format!(
        "unit = {written} is ambiguous: TOML reads {escape} in double quotes as a character, which makes the \
         unit {unit}. Write unit = '{inner}' in single quotes for the unit whose name has {escape} \
         literally, as systemctl shows it, or unit = '{unit}' for the other one"
    )))
}

/// Characters of the escape that begins `text` (TOML 1.1, section String).
fn escape_length(text: &str) -> usize {
    match text.as_bytes().get(1) {
        Some(b'x') => 4,
        Some(b'u') => 6,
        Some(b'U') => 10,
        _ => 2,
    }
}

/// Why an escape of a valid name is probably not meant: systemd-escape writes lower-case digits.
pub(super) fn warning(unit: &str) -> Option<String> {
    let suspicious = unit.match_indices('\\').find(|(at, _)| {
        let digits = unit.get(at + 2..at + 4).unwrap_or_default();
        let is_escape = unit[*at..].starts_with("\\x") && digits.len() == 2;
        !(is_escape && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    });
    suspicious.map(|_| {
        format!(
            "systemd writes escapes in unit names as \\x and two lower-case hexadecimal digits; {unit} has a \
             backslash that is none, and is compared as it is"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units_with_processes_are_accepted() {
        let long = format!("{}.service", "a".repeat(MAX_LEN - ".service".len()));
        for unit in [
            "researcher.service",
            "a@1.service",
            "a@b@c.service",
            r"foo\x2dbar.service",
            r"mnt-my\x2ddisk.mount",
            "session-4.scope",
            "docker.socket",
            "dev-sda2.swap",
            "user@1000.service",
            ".hidden.service",
            "dbus-org.freedesktop.timedate1.service",
            &long,
        ] {
            assert_eq!(check(unit), Ok(()), "{unit}");
            assert_eq!(warning(unit), None, "{unit}");
        }
    }

    #[test]
    fn names_that_match_no_process_are_faults_with_what_to_write() {
        let long = format!("{}.service", "a".repeat(MAX_LEN));
        for (unit, expected) in [
            ("", "unit is empty"),
            ("researcher.service ", "write \"researcher.service\""),
            ("\tresearcher.service", "write \"researcher.service\""),
            ("researcher.service\n", "write \"researcher.service\""),
            ("system.slice/researcher.service", "write \"researcher.service\""),
            ("researcher", "write \"researcher.service\""),
            (".service", "complete unit name"),
            ("agent@.service", "\"agent@NAME.service\""),
            ("@a.service", "begins with @"),
            ("agent@*.service", "stand for themselves"),
            ("agent?.service", "stand for themselves"),
            ("agent[12].service", "stand for themselves"),
            ("agent@%i.service", "specifiers"),
            ("agents.slice", "type slice"),
            ("agent.timer", "type timer"),
            ("agent.target", "type target"),
            ("agent.path", "type path"),
            ("agent.Service", "and .Service is none"),
            ("agent.py", "write \"agent.py.service\""),
            ("my agent.service", "' '"),
            ("agént.service", "'é'"),
            (&long, "at most 255"),
        ] {
            let fault = check(unit).unwrap_err().to_string();
            assert!(fault.contains(expected), "{unit:?}: {fault}");
        }
    }

    #[test]
    fn escapes_of_toml_are_refused_with_both_readings() {
        let spelling = |written: &str, unit: &str| check_spelling(written, 0..written.len(), unit);
        for (written, unit) in [
            (r#""foo\\x2dbar.service""#, r"foo\x2dbar.service"),
            (r"'foo\x2dbar.service'", r"foo\x2dbar.service"),
            (r#""foo-bar.service""#, "foo-bar.service"),
        ] {
            assert_eq!(spelling(written, unit), Ok(()), "{written}");
        }
        for (written, escape) in [
            (r#""foo\x2dbar.service""#, r"\x2d "),
            (r#""foo\u002dbar.service""#, r"\u002d "),
            (r#""foo\U0000002dbar.service""#, r"\U0000002d "),
        ] {
            let fault = spelling(written, "foo-bar.service").unwrap_err().to_string();
            let literal = format!("unit = '{}' in single quotes", written.trim_matches('"'));
            assert!(
                fault.contains(escape) && fault.contains(&literal) && fault.contains("'foo-bar.service'"),
                "{fault}"
            );
        }
    }

    #[test]
    fn a_backslash_that_begins_no_escape_is_a_warning() {
        for unit in [r"foo\x2Dbar.service", r"foo\d.service", r"foo\x2.service", r"foo\.service"] {
            assert!(warning(unit).is_some(), "{unit}");
        }
    }
}
