//! The difference between the logs of two boots.

use std::fmt;

use super::describe::{describe_event, pcr_usage};
use super::event::BootEvent;
use super::log::EventLog;

/// The largest table for the longest common subsequence, in cells. Longer lists are compared pairwise, which
/// takes linear time and aligns them less well.
const MAX_TABLE_CELLS: usize = 1 << 20;

/// An event that is in one log only, or two events of which one replaced the other. `Display` describes it in
/// one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventChange<'l> {
    /// The PCR that the event extended, below 24.
    pub pcr: u32,
    /// The event's position among the events of this PCR, from 1: in the new log, or in the old log if it was
    /// removed.
    pub position: usize,
    /// The event in the old log; `None` if it was added.
    pub old: Option<&'l BootEvent<'l>>,
    /// The event in the new log; `None` if it was removed.
    pub new: Option<&'l BootEvent<'l>>,
}

/// The events that are in one log only, by PCR and position. Events are compared by their digests alone, so
/// that unproven claims of a log do not influence the result.
pub fn diff<'l>(old: &'l EventLog<'_>, new: &'l EventLog<'_>) -> Vec<EventChange<'l>> {
    (0..24).flat_map(|pcr| diff_pcr(pcr, &events_in_pcr(old, pcr), &events_in_pcr(new, pcr))).collect()
}

fn events_in_pcr<'l>(log: &'l EventLog<'_>, pcr: u32) -> Vec<&'l BootEvent<'l>> {
    log.extended_events().filter(|event| event.pcr == pcr).map(|event| event as &'l BootEvent<'l>).collect()
}

fn diff_pcr<'l>(pcr: u32, old: &[&'l BootEvent<'l>], new: &[&'l BootEvent<'l>]) -> Vec<EventChange<'l>> {
    let mut changes = Vec::new();
    let (mut from_old, mut from_new) = (0, 0);
    for (to_old, to_new) in common_positions(old, new) {
        // Between two common events, the added ones are taken as replacements of the removed ones, in order.
        let (removed, added) = (&old[from_old..to_old], &new[from_new..to_new]);
        for at in 0..removed.len().max(added.len()) {
            let position = if at < added.len() { from_new + at } else { from_old + at } + 1;
            changes.push(EventChange {
                pcr,
                position,
                old: removed.get(at).copied(),
                new: added.get(at).copied(),
            });
        }
        (from_old, from_new) = (to_old + 1, to_new + 1);
    }
    changes
}

/// The positions of common events, ascending in both lists, and last the ends of both lists.
fn common_positions(old: &[&BootEvent<'_>], new: &[&BootEvent<'_>]) -> Vec<(usize, usize)> {
    let same = |(old, new): &(&&BootEvent<'_>, &&BootEvent<'_>)| old.digest == new.digest;
    let prefix_len = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (&old[prefix_len..], &new[prefix_len..]);
    let suffix_len = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(same).count();
    let middle = longest_common_subsequence(
        &old_rest[..old_rest.len() - suffix_len],
        &new_rest[..new_rest.len() - suffix_len],
    );

    let mut pairs: Vec<(usize, usize)> = (0..prefix_len).map(|at| (at, at)).collect();
    pairs.extend(middle.into_iter().map(|(o, n)| (prefix_len + o, prefix_len + n)));
    pairs.extend((0..=suffix_len).rev().map(|left| (old.len() - left, new.len() - left)));
    pairs
}

/// The positions of the longest common subsequence, by dynamic programming from the end.
fn longest_common_subsequence(old: &[&BootEvent<'_>], new: &[&BootEvent<'_>]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > MAX_TABLE_CELLS {
        let pairs = old.iter().zip(new).enumerate();
        return pairs.filter(|(_, (o, n))| o.digest == n.digest).map(|(at, _)| (at, at)).collect();
    }
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    for o in (0..old.len()).rev() {
        for n in (0..new.len()).rev() {
            lengths[o * width + n] = if old[o].digest == new[n].digest {
                lengths[(o + 1) * width + n + 1] + 1
            } else {
                lengths[(o + 1) * width + n].max(lengths[o * width + n + 1])
            };
        }
    }
    let mut pairs = Vec::new();
    let (mut o, mut n) = (0, 0);
    while o < old.len() && n < new.len() {
        if old[o].digest == new[n].digest {
            pairs.push((o, n));
            (o, n) = (o + 1, n + 1);
        } else if lengths[(o + 1) * width + n] >= lengths[o * width + n + 1] {
            o += 1;
        } else {
            n += 1;
        }
    }
    pairs
}

impl fmt::Display for EventChange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {} ({}), event {} ", self.pcr, pcr_usage(self.pcr), self.position)?;
        match (self.old, self.new) {
            (Some(old), Some(new)) => {
                let (was, is) = (describe_event(old), describe_event(new));
                let (old, new) = (short_digest(old), short_digest(new));
                if was == is {
                    write!(f, "changed: {is}: from {old} to {new}")
                } else {
                    write!(f, "changed: from {was}, {old}, to {is}, {new}")
                }
            }
            (Some(old), None) => write!(f, "removed: {}, {}", describe_event(old), short_digest(old)),
            (None, Some(new)) => write!(f, "added: {}, {}", describe_event(new), short_digest(new)),
            (None, None) => f.write_str("unchanged"),
        }
    }
}

/// The first 6 bytes of a digest, in hexadecimal.
fn short_digest(event: &BootEvent<'_>) -> String {
    data_encoding::HEXLOWER.encode(&event.digest[..6])
}

#[cfg(test)]
mod tests {
    use super::super::sample_log::{EventLogBuilder, sample_boot_log};
    use super::*;

    fn changes_between(old: &[u8], new: &[u8]) -> Vec<String> {
        let (old, new) = (EventLog::parse(old).unwrap(), EventLog::parse(new).unwrap());
        let changes = diff(&old, &new).iter().map(EventChange::to_string).collect();
        assert!(diff(&new, &new).is_empty());
        changes
    }

    #[test]
    fn boot_changes_are_described() {
        let old = sample_boot_log("vmlinuz-6.1", "quiet", 1);
        assert!(changes_between(&old, &old).is_empty());

        let changes = changes_between(&old, &sample_boot_log("vmlinuz-6.2", "quiet", 1));
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert!(changes[0].contains(r#"event 1 changed: from boot loader command "linux /vmlinuz-6.1" "#));
        let start = "PCR 9 (files of the boot loader, kernel, initrd), event 1 changed: \
                     from kernel \"(hd0,gpt2)/vmlinuz-6.1\" (not proven), ";
        assert!(changes[1].starts_with(start), "{}", changes[1]);

        let changes = changes_between(&old, &sample_boot_log("vmlinuz-6.1", "init=/bin/sh", 1));
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert!(changes[1].contains(r#"from kernel command line "quiet", "#), "{}", changes[1]);
        assert!(changes[1].contains(r#"to kernel command line "init=/bin/sh", "#), "{}", changes[1]);

        let changes = changes_between(&old, &sample_boot_log("vmlinuz-6.1", "quiet", 0));
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(changes[0].starts_with(
            r#"PCR 7 (Secure Boot), event 1 changed: from Secure Boot variable "SecureBoot" = on, "#
        ));
    }

    #[test]
    fn added_and_removed_events_are_aligned() {
        let log = |texts: &str| {
            let events = texts.bytes().fold(EventLogBuilder::new(), |log, text| log.measure(4, 5, &[text]));
            events.bytes
        };
        let kinds = |old: &str, new: &str| -> Vec<String> {
            let changes = changes_between(&log(old), &log(new));
            changes
                .iter()
                .map(|line| line.split(&[' ', ':'][..]).skip(4).take(4).collect::<Vec<_>>().join(" "))
                .collect()
        };
        assert_eq!(kinds("abc", "axc"), ["event 2 changed "]);
        assert_eq!(kinds("abc", "abxc"), ["event 3 added "]);
        assert_eq!(kinds("abcde", "bce"), ["event 1 removed ", "event 4 removed "]);
        assert_eq!(kinds("", "a"), ["event 1 added "]);
        assert_eq!(kinds("abcdef", "xbcyef").len(), 2);
    }

    /// Lists above the table's size are aligned less well, in bounded time.
    #[test]
    fn long_lists_are_compared_pairwise() {
        let log = |salt: u32| {
            let events = (0..2000_u32).fold(EventLogBuilder::new(), |log, n| {
                let text = if n % 500 == 0 { n ^ salt } else { n };
                log.measure(4, 5, &text.to_le_bytes())
            });
            events.bytes
        };
        assert_eq!(changes_between(&log(0), &log(0x8000_0000)).len(), 4);
    }
}
