//! What differs between two states of a host, in words.

use data_encoding::HEXLOWER;

pub use crate::tpm::PcrValues;
use crate::verify::eventlog::{self, EventChange, EventLog};

/// Lines that one difference comes to at most. A boot with more is another boot, and more lines would not say it better.
const MAX_LINES: usize = 64;

/// One line for each event that changed where the boot logs explain it, and one for each PCR that they do not explain.
/// Nothing where the values are the same.
///
/// Only PCRs of `before` are looked at: one that is not in `now` has changed. A log is believed for a PCR where its replay
/// gives the value; where it does not, the line says so, since whoever wrote the log could have written anything.
pub fn describe_pcr_changes(
    before: &PcrValues,
    before_log: Option<&[u8]>,
    now: &PcrValues,
    now_log: Option<&[u8]>,
) -> Vec<String> {
    let changed: Vec<u8> = changed_pcrs(before, now).collect();
    if changed.is_empty() {
        return Vec::new();
    }
    let logs = match (before_log.map(EventLog::parse), now_log.map(EventLog::parse)) {
        (Some(Ok(old)), Some(Ok(new))) => Ok((old, new)),
        (None, None) => Err("this host has no boot event log".to_owned()),
        (None, _) => Err("the state before was taken without a boot event log".to_owned()),
        (_, None) => Err("there is no boot event log now".to_owned()),
        (Some(Err(e)), _) => Err(format!("the log of before cannot be read ({e})")),
        (_, Some(Err(e))) => Err(format!("the log of now cannot be read ({e})")),
    };
    let (old, new) = match logs {
        Ok(logs) => logs,
        Err(why) => {
            return changed.iter().map(|number| unexplained_line(*number, before, now, &why)).collect();
        }
    };
    let (replayed_before, replayed_now) = (old.replay(), new.replay());
    let changes = eventlog::diff(&old, &new);
    let mut lines = Vec::new();
    for number in changed {
        let events: Vec<&EventChange<'_>> =
            changes.iter().filter(|change| change.pcr == u32::from(number)).collect();
        if events.is_empty() {
            let why = "it was extended by something that keeps no log";
            lines.push(unexplained_line(number, before, now, why));
            continue;
        }
        let index = usize::from(number);
        let verified =
            before.get(&number) == replayed_before.get(index) && now.get(&number) == replayed_now.get(index);
        let caveat = if verified { "" } else { " (as the log says; it does not give the PCR's value)" };
        lines.extend(events.iter().map(|change| format!("{change}{caveat}")));
    }
    if lines.len() > MAX_LINES {
        let omitted = lines.len() - (MAX_LINES - 1);
        lines.truncate(MAX_LINES - 1);
        lines.push(format!("and {omitted} more"));
    }
    lines
}

/// Numbers of the PCRs of `before` that have another value now, or none.
pub fn changed_pcrs<'a>(before: &'a PcrValues, now: &'a PcrValues) -> impl Iterator<Item = u8> + 'a {
    before.iter().filter(|(number, value)| now.get(number) != Some(value)).map(|(number, _)| *number)
}

fn unexplained_line(number: u8, before: &PcrValues, now: &PcrValues, reason: &str) -> String {
    let abbreviate = |pcrs: &PcrValues| match pcrs.get(&number) {
        Some(value) => HEXLOWER.encode(&value[..6]),
        None => "nothing".to_owned(),
    };
    let area = eventlog::pcr_usage(number.into());
    format!("PCR {number} ({area}) changed from {} to {}: {reason}", abbreviate(before), abbreviate(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::eventlog::sample_boot;

    fn pcrs(log: &[u8]) -> PcrValues {
        let values = EventLog::parse(log).unwrap().replay();
        (0..=9).map(|number| (number, values[usize::from(number)])).collect()
    }

    #[test]
    fn changes_name_events_or_else_pcr_numbers() {
        let (old, new) = (sample_boot("vmlinuz-6.1", "quiet", 1), sample_boot("vmlinuz-6.2", "quiet", 0));
        let (before, now) = (pcrs(&old), pcrs(&new));
        assert!(describe_pcr_changes(&before, Some(&old), &before, Some(&old)).is_empty());
        let lines = describe_pcr_changes(&before, Some(&old), &now, Some(&new));
        assert!(
            lines.iter().any(|line| line.contains("kernel") && line.contains("vmlinuz-6.2")),
            "{lines:?}"
        );
        assert!(lines.iter().any(|line| line.contains("Secure Boot variable")), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("does not give")), "{lines:?}");

        let lines = describe_pcr_changes(&before, Some(&old), &now, None);
        assert_eq!(lines.len(), changed_pcrs(&before, &now).count());
        assert!(lines.iter().all(|line| line.contains("no boot event log now")), "{lines:?}");
        let lines = describe_pcr_changes(&before, Some(b"torn"), &now, Some(&new));
        assert!(lines[0].contains("the log of before cannot be read"), "{lines:?}");
    }

    #[test]
    fn unverified_log_entries_are_marked() {
        let (old, new) = (sample_boot("vmlinuz-6.1", "quiet", 1), sample_boot("vmlinuz-6.1", "quiet", 0));
        let (before, mut now) = (pcrs(&old), pcrs(&new));
        now.insert(7, [7; 32]);
        let lines = describe_pcr_changes(&before, Some(&old), &now, Some(&new));
        assert!(lines.iter().all(|line| line.contains("does not give the PCR's value")), "{lines:?}");
        // Extended after the boot: the logs are the same.
        let mut later = before.clone();
        later.insert(7, [7; 32]);
        let lines = describe_pcr_changes(&before, Some(&old), &later, Some(&old));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("keeps no log"), "{lines:?}");
        later.remove(&7);
        assert!(describe_pcr_changes(&before, None, &later, None)[0].contains("to nothing"));
    }
}
