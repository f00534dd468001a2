//! A whole list, and the part of it that a quoted PCR 10 proves.

use std::collections::BTreeSet;

use super::entry::{EntryError, ImaEntry, parse_entry};
use crate::verify::error::Error;
use crate::verify::pcr::PcrDigest;

/// The longest list that is parsed, in bytes.
const MAX_LIST_SIZE: usize = 64 * 1024 * 1024;

/// A well-formed list. Its entries are proven only as far as they replay to a quoted PCR 10.
#[derive(Clone, Debug)]
pub struct MeasurementList<'a> {
    entries: Vec<ImaEntry<'a>>,
}

/// The first entries of a list, which a PCR 10 proves.
#[derive(Clone, Copy, Debug)]
pub struct ProvenEntries<'l> {
    entries: &'l [ImaEntry<'l>],
}

impl<'a> MeasurementList<'a> {
    /// Parses a list of at most 64 MiB.
    ///
    /// # Errors
    ///
    /// [`Error::ImaListTooLong`], or [`Error::Ima`] for the first malformed entry.
    pub fn parse(bytes: &'a [u8]) -> Result<MeasurementList<'a>, Error> {
        if bytes.len() > MAX_LIST_SIZE {
            return Err(Error::ImaListTooLong { max_len: MAX_LIST_SIZE });
        }
        let (mut entries, mut rest, mut order) = (Vec::new(), bytes, None);
        while !rest.is_empty() {
            let entry = parse_entry(rest, &mut order)
                .and_then(|entry| entry.ok_or(EntryError::Truncated))
                .map_err(|error| Error::Ima { entry: entries.len() + 1, error })?;
            rest = &rest[entry.encoded_len()..];
            entries.push(entry);
        }
        Ok(MeasurementList { entries })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of PCR 10 of the SHA-256 bank after all entries.
    pub fn replay(&self) -> PcrDigest {
        self.entries.iter().fold([0; 32], |pcr, entry| entry.extend_pcr(&pcr))
    }

    /// The shortest run of first entries that replays to this value of PCR 10, if there is one.
    pub fn proven_by(&self, pcr: &PcrDigest) -> Option<ProvenEntries<'_>> {
        let mut replayed = [0; 32];
        let mut proven = 0;
        while replayed != *pcr {
            replayed = self.entries.get(proven)?.extend_pcr(&replayed);
            proven += 1;
        }
        Some(ProvenEntries { entries: &self.entries[..proven] })
    }
}

impl<'l> ProvenEntries<'l> {
    /// The proven entries, in the order of the list.
    pub fn entries(&self) -> &'l [ImaEntry<'l>] {
        self.entries
    }

    /// The path, algorithm and digest of each measured file, without repetitions.
    pub fn digests(&self) -> BTreeSet<(&'l [u8], &'l str, &'l [u8])> {
        let files = self.entries.iter().filter(|entry| entry.is_file_measurement());
        files.map(|entry| (entry.path, entry.algorithm, entry.digest)).collect()
    }

    /// The number of files that were changed while they were measured.
    pub fn violations(&self) -> usize {
        self.entries.iter().filter(|entry| entry.violation).count()
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::super::sample_list::{
        AGENT_SHA256, DASH_SHA256, PCR_AFTER_ALL, PCR_AFTER_TWO, ZERO_SHA256, entry, entry_with_order,
        sample_entries,
    };
    use super::*;

    fn pcr(hex: &str) -> PcrDigest {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    fn assert_rejected(list: &[u8], why: &str) {
        let error = MeasurementList::parse(list).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.chars().any(char::is_control), "{error}");
    }

    #[test]
    fn replay_matches_tpm_pcr() {
        let bytes = sample_entries().concat();
        let list = MeasurementList::parse(&bytes).unwrap();
        assert_eq!(list.replay(), pcr(PCR_AFTER_ALL));
        let all = list.proven_by(&pcr(PCR_AFTER_ALL)).unwrap();
        assert_eq!((all.entries.len(), all.violations()), (5, 1));
        let files: Vec<_> = all.digests().into_iter().map(|(path, ..)| path).collect();
        assert_eq!(files, [&b"/opt/a\ngent"[..], b"/usr/bin/dash", b"/usr/bin/python3", b"boot_aggregate"]);
        assert_eq!(
            (all.entries[4].algorithm, all.entries[4].sha256()),
            ("ima:sha256", Some(pcr(AGENT_SHA256)))
        );
        assert_eq!(all.entries[3].sha256(), None);
    }

    /// The host added entries after the quote.
    #[test]
    fn only_proven_entries_are_returned() {
        let bytes = sample_entries().concat();
        let list = MeasurementList::parse(&bytes).unwrap();
        assert_eq!(list.proven_by(&pcr(PCR_AFTER_TWO)).unwrap().digests().len(), 2);
        assert_eq!(list.proven_by(&[0; 32]).unwrap().entries.len(), 0);
        assert!(list.proven_by(&[1; 32]).is_none());
        assert!(MeasurementList::parse(b"").unwrap().proven_by(&pcr(PCR_AFTER_TWO)).is_none());
    }

    #[test]
    fn file_templates_yield_digests_and_others_only_replay() {
        for (template, algorithm, signature, files) in [
            ("ima-ng", "sha512", None, 1),
            ("ima-sig", "sha1", Some(&[1, 2][..]), 1),
            ("ima-ngv2", "verity:sha256", None, 1),
            ("ima-sigv2", "ima:sha3-256", Some(&[]), 1),
            ("ima-modsig", "sha256", Some(&[7]), 1),
            ("ima-buf", "sha256", Some(b"root=/dev/vda"), 0),
            ("d-ng|n-ng|iuid", "sha256", Some(&[0, 0, 0, 0]), 0),
        ] {
            for big in [false, true] {
                let bytes = entry_with_order(big, template, algorithm, DASH_SHA256, b"/a", signature);
                let list = MeasurementList::parse(&bytes).unwrap();
                assert_eq!(list.proven_by(&list.replay()).unwrap().digests().len(), files, "{template}");
            }
        }
    }

    #[test]
    fn truncation_is_detected() {
        let bytes = sample_entries().concat();
        let whole = MeasurementList::parse(&bytes).unwrap().replay();
        let ends: Vec<usize> = (1..=4).map(|many| sample_entries()[..many].concat().len()).collect();
        for end in 1..bytes.len() {
            match MeasurementList::parse(&bytes[..end]) {
                Ok(list) => assert!(ends.contains(&end) && list.replay() != whole, "{end}"),
                Err(error) => assert!(error.to_string().contains("breaks off"), "{end}: {error}"),
            }
        }
    }

    /// Except for the bytes of a violation, whose data is not proven.
    #[test]
    fn changed_byte_is_detected() {
        let bytes = sample_entries().concat();
        let whole = MeasurementList::parse(&bytes).unwrap().replay();
        let violation = sample_entries()[..3].concat().len()..sample_entries()[..4].concat().len();
        let mut template = 0..0;
        for at in (0..bytes.len()).filter(|at| !violation.contains(at)) {
            // No digest covers the template's name, which says how to parse the data: another name gives no
            // file's digest.
            template = sample_entries()
                .iter()
                .scan(0, |start, entry| {
                    *start += entry.len();
                    Some(*start - entry.len())
                })
                .map(|start| start + 24..start + 24 + 4 + 8)
                .find(|name| name.contains(&at))
                .unwrap_or(template);
            for bit in [0x01, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                if let Ok(list) = MeasurementList::parse(&changed) {
                    assert!(list.replay() != whole || template.contains(&at), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn invalid_entry_is_reported_by_number() {
        let good = entry("ima-ng", "sha256", DASH_SHA256, b"/a", None);
        let assert_corruption_rejected = |at: usize, byte: u8, why: &str| {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_rejected(&[good.clone(), bad.clone()].concat(), why);
            assert_rejected(&[good.clone(), bad].concat(), "entry 2: ");
        };
        assert_corruption_rejected(0, 11, "not of PCR 10");
        assert_corruption_rejected(4, good[4] ^ 1, "not that of its data");
        assert_corruption_rejected(good.len() - 1, 1, "not that of its data");
        assert_corruption_rejected(26, 1, "a part of it has 65542 bytes, more than 256");
        assert_corruption_rejected(37, 1, "a part of it has");
        assert_rejected(
            &[good.clone(), entry_with_order(true, "ima-ng", "sha256", DASH_SHA256, b"/a", None)].concat(),
            "not of PCR 10",
        );
        assert_rejected(&entry("ima", "sha256", DASH_SHA256, b"/a", None), "ima_template=ima-ng");
        assert_rejected(b"10 01fb2f8a6d60 ima-ng", "binary format");
        assert!(
            MeasurementList::parse(&vec![b'\n'; MAX_LIST_SIZE + 1])
                .unwrap_err()
                .to_string()
                .contains("longer than 64 MiB")
        );
    }

    /// A file name that any user can choose does not hide entries, add entries or make the list unreadable,
    /// even in the entry of a violation.
    #[test]
    fn file_name_cannot_forge_entries() {
        let forged = entry("ima-ng", "sha256", DASH_SHA256, b"/usr/bin/forged", None);
        for path in [b"/tmp/x\n10 00".repeat(40), forged.clone(), b"\n".repeat(4095), vec![0xff; 4096]] {
            let mut violation = entry("ima-sig", "sha256", ZERO_SHA256, &path, Some(&[]));
            violation[4..24].fill(0);
            let bytes =
                [entry("ima-sig", "sha256", DASH_SHA256, &path, Some(&[])), violation, forged.clone()]
                    .concat();
            let list = MeasurementList::parse(&bytes).unwrap();
            assert_eq!(list.len(), 3);
            assert!(list.entries[0].path == path && list.entries[1].violation);
            assert_eq!(list.entries[2].path, b"/usr/bin/forged");
        }
    }
}
