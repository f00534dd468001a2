//! Descriptions of the differences between two states of a host.

use data_encoding::HEXLOWER;

use crate::tpm::PcrValues;
use crate::verify::eventlog::{self, EventChange, EventLog};

/// The most lines of one description. A boot with more changes is a different boot as a whole.
const MAX_LINES: usize = 64;

/// Describes the changes between two states, each with its boot event log: one line for each event that
/// changed, and one for each changed PCR without such an event. Empty if the values are the same.
///
/// Only PCRs in `before` are compared; one that is missing in `after` has changed. Where the replay of a log
/// does not give a PCR's value, the lines for this PCR say that the log's claims are not proven.
pub fn describe_pcr_changes(
    before: &PcrValues,
    before_log: Option<&[u8]>,
    after: &PcrValues,
    after_log: Option<&[u8]>,
) -> Vec<String> {
    let changed: Vec<u8> = changed_pcrs(before, after).collect();
    if changed.is_empty() {
        return Vec::new();
    }
    let logs = match (before_log.map(EventLog::parse), after_log.map(EventLog::parse)) {
        (Some(Ok(old)), Some(Ok(new))) => Ok((old, new)),
        (None, None) => Err("this host has no boot event log".to_owned()),
        (None, _) => Err("the earlier state was recorded without a boot event log".to_owned()),
        (_, None) => Err("there is no boot event log now".to_owned()),
        (Some(Err(e)), _) => Err(format!("the earlier boot event log cannot be read ({e})")),
        (_, Some(Err(e))) => Err(format!("the present boot event log cannot be read ({e})")),
    };
    let (old, new) = match logs {
        Ok(logs) => logs,
        Err(reason) => {
            return changed.iter().map(|number| unexplained_line(*number, before, after, &reason)).collect();
        }
    };
    let (replayed_before, replayed_after) = (old.replay(), new.replay());
    let changes = eventlog::diff(&old, &new);
    let mut lines = Vec::new();
    for number in changed {
        let events: Vec<&EventChange<'_>> =
            changes.iter().filter(|change| change.pcr == u32::from(number)).collect();
        if events.is_empty() {
            let reason = "something that keeps no log extended it";
            lines.push(unexplained_line(number, before, after, reason));
            continue;
        }
        let index = usize::from(number);
        let verified = before.get(&number) == replayed_before.get(index)
            && after.get(&number) == replayed_after.get(index);
        let caveat = if verified { "" } else { " (the log claims this, and does not give the PCR's value)" };
        lines.extend(events.iter().map(|change| format!("{change}{caveat}")));
    }
    if lines.len() > MAX_LINES {
        let omitted = lines.len() - (MAX_LINES - 1);
        lines.truncate(MAX_LINES - 1);
        lines.push(format!("and {omitted} more"));
    }
    lines
}

/// The numbers of the PCRs in `before` whose value is different or missing in `after`.
pub fn changed_pcrs<'a>(before: &'a PcrValues, after: &'a PcrValues) -> impl Iterator<Item = u8> + 'a {
    before.iter().filter(|(number, value)| after.get(number) != Some(value)).map(|(number, _)| *number)
}

fn unexplained_line(number: u8, before: &PcrValues, after: &PcrValues, reason: &str) -> String {
    let abbreviate = |pcrs: &PcrValues| match pcrs.get(&number) {
        Some(value) => HEXLOWER.encode(&value[..6]),
        None => "nothing".to_owned(),
    };
    let usage = eventlog::pcr_usage(number.into());
    format!("PCR {number} ({usage}) changed from {} to {}: {reason}", abbreviate(before), abbreviate(after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::eventlog::sample_boot_log;

    fn pcrs(log: &[u8]) -> PcrValues {
        let values = EventLog::parse(log).unwrap().replay();
        (0..=9).map(|number| (number, values[usize::from(number)])).collect()
    }

    #[test]
    fn changes_name_events_or_else_pcr_numbers() {
        let (old, new) =
            (sample_boot_log("vmlinuz-6.1", "quiet", 1), sample_boot_log("vmlinuz-6.2", "quiet", 0));
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
        let lines = describe_pcr_changes(&before, Some(b"corrupt"), &now, Some(&new));
        assert!(lines[0].contains("the earlier boot event log cannot be read"), "{lines:?}");
    }

    #[test]
    fn unverified_log_entries_are_marked() {
        let (old, new) =
            (sample_boot_log("vmlinuz-6.1", "quiet", 1), sample_boot_log("vmlinuz-6.1", "quiet", 0));
        let (before, mut now) = (pcrs(&old), pcrs(&new));
        now.insert(7, [7; 32]);
        let lines = describe_pcr_changes(&before, Some(&old), &now, Some(&new));
        assert!(lines.iter().all(|line| line.contains("does not give the PCR's value")), "{lines:?}");
        // A PCR that was extended after the boot, with the same logs.
        let mut later = before.clone();
        later.insert(7, [7; 32]);
        let lines = describe_pcr_changes(&before, Some(&old), &later, Some(&old));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("keeps no log"), "{lines:?}");
        later.remove(&7);
        assert!(describe_pcr_changes(&before, None, &later, None)[0].contains("to nothing"));
    }
}
