//! Records whose requests were refused after the record was written, because it was not known to be on the disk in
//! time. A later record names them, so that nobody takes them for what was handed out.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Ranges of numbers that one record names: at most 45 bytes each of the 4096 that a detail has.
const MAX_RANGES: usize = 64;
/// Numbers that are remembered until the record that names them is on the disk. More requests cannot wait for the disk
/// at the same time.
const MAX_REMEMBERED: usize = 16 * 1024;

/// Numbers of records without a reply.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// Those that no record names.
    unnamed: BTreeSet<u64>,
    /// Those that a record names which may not be on the disk.
    named: BTreeSet<u64>,
    /// The number of the last record that names some.
    named_by: u64,
}

impl Unanswered {
    /// The request of this record was refused.
    pub(super) fn note(&mut self, seq: u64) {
        self.unnamed.insert(seq);
    }

    /// All lines up to `synced` are on the disk.
    pub(super) fn confirm(&mut self, synced: u64) {
        if synced >= self.named_by {
            self.named.clear();
        }
    }

    /// A new file was started, because the one before cannot be synced. What a record of that file names is named
    /// again.
    pub(super) fn begin_file(&mut self) {
        self.unnamed.append(&mut self.named);
    }

    /// The text of the record `seq`, which names up to 64 ranges of numbers; `None` if there is nothing to name.
    pub(super) fn take_detail(&mut self, seq: u64) -> Option<String> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut taken = Vec::new();
        for seq in &self.unnamed {
            let is_full = ranges.len() == MAX_RANGES;
            match ranges.last_mut().filter(|(_, to)| *to + 1 == *seq) {
                Some((_, to)) => *to = *seq,
                None if is_full => break,
                None => ranges.push((*seq, *seq)),
            }
            taken.push(*seq);
        }
        if taken.is_empty() {
            return None;
        }
        self.unnamed.retain(|seq| taken.last().is_some_and(|last| seq > last));
        self.named.extend(taken);
        self.named_by = seq;
        while self.named.len() > MAX_REMEMBERED {
            self.named.pop_first();
        }
        let mut numbers = String::new();
        for (from, to) in ranges {
            let separator = if numbers.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = match from == to {
                true => write!(numbers, "{separator}{from}"),
                false => write!(numbers, "{separator}{from} to {to}"),
            };
        }
        Some(format!(
            "what these records say was not handed out or done, because they, or other records of the same requests, \
             were not on the disk in time: {numbers}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(numbers: impl IntoIterator<Item = u64>) -> Unanswered {
        let mut unanswered = Unanswered::default();
        numbers.into_iter().for_each(|seq| unanswered.note(seq));
        unanswered
    }

    #[test]
    fn each_number_is_named_once_where_the_record_gets_to_the_disk() {
        let mut unanswered = noted([9, 5, 6, 7]);
        assert!(unanswered.take_detail(10).unwrap().ends_with("in time: 5 to 7, 9"));
        unanswered.confirm(10);
        unanswered.begin_file();
        assert_eq!(unanswered.take_detail(11), None);
    }

    #[test]
    fn numbers_are_named_again_in_the_next_file_where_the_record_does_not() {
        let mut unanswered = noted([5]);
        assert!(unanswered.take_detail(6).is_some());
        assert_eq!(unanswered.take_detail(7), None);
        unanswered.note(7);
        unanswered.confirm(4);
        for seq in [8, 9] {
            unanswered.begin_file();
            assert!(unanswered.take_detail(seq).unwrap().ends_with("in time: 5, 7"), "{seq}");
        }
        unanswered.confirm(9);
        unanswered.begin_file();
        assert_eq!(unanswered.take_detail(10), None);
    }

    #[test]
    fn a_text_is_bounded_and_the_next_one_has_the_rest() {
        let highest = 1 << 53;
        let mut unanswered = noted((0..100).flat_map(|n| [highest - 3 * n, highest - 3 * n - 1]));
        let first = unanswered.take_detail(1).unwrap();
        assert!(first.len() < 4000, "{}", first.len());
        let second = unanswered.take_detail(2).unwrap();
        assert_eq!(first.matches(" to ").count() + second.matches(" to ").count(), 100);
        assert_eq!(unanswered.take_detail(3), None);
    }
}
