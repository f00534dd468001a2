//! The list of files that the kernel measured, as Linux gives it in binary_runtime_measurements.
//!
//! Each entry is the PCR's number, the SHA-1 over its data, the length and the name of its template, and the length of its
//! data and the data, which are fields with their lengths. Numbers have 32 bits in the order of the host. All lengths are
//! given, so that no name of a file makes an entry another.
//!
//! The list is hostile, and long: it is read with the quote's PCR 10 at hand, which proves its first so many entries, since
//! a host goes on measuring while it is asked. Formats: the kernel's Documentation/security/IMA-templates.rst, and
//! ima_measurements_show() in security/integrity/ima/ima_fs.c.

use std::collections::BTreeSet;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::Error;
use super::eventlog::{Digest, extend, sha256};

const LONGEST: usize = 64 * 1024 * 1024;
/// One entry's data. A path has at most 4096 bytes, a signature some hundreds; a buffer that the kernel names may be longer.
const LONGEST_DATA: usize = 1024 * 1024;
/// A template's name, or the description of one of the host's own.
const LONGEST_NAME: usize = 256;
/// An entry is not longer than this, in bytes.
pub const LONGEST_ENTRY: usize = 4 + 20 + 4 + LONGEST_NAME + 4 + LONGEST_DATA;
const PCR: u32 = 10;

/// A list in which every entry is what its own digest says. Its replay proves it.
#[derive(Clone, Debug)]
pub struct List<'a> {
    entries: Vec<Entry<'a>>,
}

#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The file's name where it was opened, with the kernel's underscores for its spaces. Any bytes: escape before showing.
    pub path: &'a [u8],
    /// The algorithm's name, such as "sha256" or "verity:sha256".
    pub algorithm: &'a str,
    /// The file's digest by that.
    pub digest: &'a [u8],
    /// A file that changed while it was measured: nothing of this entry is proven but that there is one.
    pub violation: bool,
    /// Of a file, rather than of something else that the kernel names so.
    file: bool,
    extended: Digest,
    /// In bytes.
    length: usize,
}

/// The entries that a PCR 10 proves.
#[derive(Clone, Copy, Debug)]
pub struct Proven<'l> {
    entries: &'l [Entry<'l>],
}

/// In which order the bytes of a host's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Little,
    Big,
}

impl<'a> List<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<List<'a>, Error> {
        if bytes.len() > LONGEST {
            return Err(fault(1, "the list is longer than 64 MiB"));
        }
        let (mut entries, mut rest, mut order) = (Vec::new(), bytes, None);
        while !rest.is_empty() {
            let at = entries.len() + 1;
            let entry = next(rest, &mut order).map_err(|what| fault(at, what))?;
            let entry = entry.ok_or_else(|| fault(at, "it breaks off"))?;
            rest = &rest[entry.length..];
            entries.push(entry);
        }
        Ok(List { entries })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What PCR 10 of the SHA-256 bank holds after all of the list. The kernel extends that bank with the SHA-256 of the
    /// same data since Linux 5.8.
    pub fn replay(&self) -> Digest {
        self.entries.iter().fold([0; 32], |pcr, entry| extend(&pcr, &entry.extended))
    }

    /// The first entries, up to where their replay gives this PCR 10. None if it never does.
    pub fn proven_by(&self, pcr: &Digest) -> Option<Proven<'_>> {
        let mut replayed = [0; 32];
        let mut proven = 0;
        while replayed != *pcr {
            replayed = extend(&replayed, &self.entries.get(proven)?.extended);
            proven += 1;
        }
        Some(Proven { entries: &self.entries[..proven] })
    }
}

impl Entry<'_> {
    /// The file's SHA-256, if that is what the kernel took of it.
    pub fn sha256(&self) -> Option<Digest> {
        match self.algorithm {
            "sha256" | "ima:sha256" if self.is_of_file() => self.digest.try_into().ok(),
            _ => None,
        }
    }

    /// PCR 10 of the SHA-256 bank after this entry.
    pub fn extend(&self, pcr: &Digest) -> Digest {
        extend(pcr, &self.extended)
    }

    /// In bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    fn is_of_file(&self) -> bool {
        self.file && !self.violation
    }
}

impl<'l> Proven<'l> {
    pub fn entries(&self) -> &'l [Entry<'l>] {
        self.entries
    }

    /// Each file that was measured, by path, algorithm and digest.
    pub fn digests(&self) -> BTreeSet<(&'l [u8], &'l str, &'l [u8])> {
        let files = self.entries.iter().filter(|entry| entry.is_of_file());
        files.map(|entry| (entry.path, entry.algorithm, entry.digest)).collect()
    }

    pub fn violations(&self) -> usize {
        self.entries.iter().filter(|entry| entry.violation).count()
    }
}

/// The first entry; none where it is not there whole. The error is for people.
///
/// `order` is the host's, and is found with the first entry of a list.
pub fn next<'a>(bytes: &'a [u8], order: &mut Option<Order>) -> Result<Option<Entry<'a>>, String> {
    let Some((pcr, mut rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let found = order.unwrap_or(if pcr[0] == 0 { Order::Big } else { Order::Little });
    if found.number(pcr) != PCR {
        return Err("not of PCR 10 in the kernel's binary format, the only one that is read".to_owned());
    }
    *order = Some(found);
    let (Some(template_digest), Some(name), Some(data)) =
        (take(&mut rest, 20), sized(&mut rest, found, LONGEST_NAME)?, sized(&mut rest, found, LONGEST_DATA)?)
    else {
        return Ok(None);
    };
    if name == b"ima" {
        return Err("template \"ima\" is too old to prove anything; boot with ima_template=ima-ng".to_owned());
    }
    let violation = template_digest.iter().all(|byte| *byte == 0);
    if !violation && digest(&SHA1_FOR_LEGACY_USE_ONLY, data).as_ref() != template_digest {
        return Err("its digest is not that of its data".to_owned());
    }
    // What the kernel measured by a template that is not known here is proven like all else, and is no file.
    let known = matches!(name, b"ima-ng" | b"ima-ngv2" | b"ima-sig" | b"ima-sigv2" | b"ima-modsig");
    let fields = if known { fields(data, found) } else { None };
    let (algorithm, digest, path) = fields.unwrap_or_default();
    let extended = if violation { [0xff; 32] } else { sha256(data) };
    let length = bytes.len() - rest.len();
    Ok(Some(Entry { path, algorithm, digest, violation, file: fields.is_some(), extended, length }))
}

/// The first two fields of a file's entry: the digest behind its algorithm's name, a colon and a NUL, and the path with a
/// NUL behind it.
fn fields(mut data: &[u8], order: Order) -> Option<(&str, &[u8], &[u8])> {
    let named = sized(&mut data, order, LONGEST_DATA).ok()??;
    let path = sized(&mut data, order, LONGEST_DATA).ok()??.strip_suffix(b"\0")?;
    let end = named.iter().position(|byte| *byte == 0)?;
    let algorithm = std::str::from_utf8(named[..end].strip_suffix(b":")?).ok()?;
    Some((algorithm, &named[end + 1..], path))
}

/// Some bytes behind their length; none where they are not there whole.
fn sized<'a>(rest: &mut &'a [u8], order: Order, most: usize) -> Result<Option<&'a [u8]>, String> {
    let Some((length, behind)) = rest.split_first_chunk::<4>() else {
        *rest = &[];
        return Ok(None);
    };
    *rest = behind;
    let length = usize::try_from(order.number(length)).unwrap_or(usize::MAX);
    if length > most {
        return Err(format!("a part of it has {length} bytes, more than {most}"));
    }
    Ok(take(rest, length))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(length).unzip();
    *rest = behind.unwrap_or_default();
    taken
}

impl Order {
    fn number(self, bytes: &[u8; 4]) -> u32 {
        match self {
            Order::Little => u32::from_le_bytes(*bytes),
            Order::Big => u32::from_be_bytes(*bytes),
        }
    }
}

fn fault(entry: usize, what: impl Into<String>) -> Error {
    Error::Ima { entry, what: what.into() }
}

#[cfg(test)]
pub(crate) mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// What five entries replay to before the third and at the end; made by another program.
    pub(crate) const AFTER_TWO: &str = "c0c7aee9e892ec59ac0138db20f2ab48c7b77703f6a06fd4ee1ddb6f763b7575";
    pub(crate) const AFTER_ALL: &str = "0990025ae0fbc779230321fd4e404e5bcebe5d9520352a2cf530a653314841a8";
    const BOOT: &str = "4509beb0ab401d71fa4a5cd94a55c9a74f13332776ae4019c5bfc4c2005157ff";
    const DASH: &str = "89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50";
    const PYTHON: &str = "6e491c02882ac36e3bcaaac4d151d4b2793135d4482adf227b1b730cdd90b46d";
    const AGENT: &str = "d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824";
    const NONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    /// Five entries, a violation and a newline among them.
    pub(crate) fn entries() -> [Vec<u8>; 5] {
        let mut violation = entry("ima-sig", "sha256", NONE, b"/etc/passwd", Some(&[]));
        violation[4..24].fill(0);
        [
            entry("ima-ng", "sha256", BOOT, b"boot_aggregate", None),
            entry("ima-sig", "sha256", DASH, b"/usr/bin/dash", Some(&[])),
            entry("ima-sig", "sha256", PYTHON, b"/usr/bin/python3", Some(&[3, 2, 4])),
            violation,
            entry("ima-ngv2", "ima:sha256", AGENT, b"/opt/a\ngent", None),
        ]
    }

    fn pcr(hex: &str) -> Digest {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    fn refused(list: &[u8], why: &str) {
        let error = List::parse(list).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.chars().any(char::is_control), "{error}");
    }

    fn put(data: &mut Vec<u8>, big: bool, bytes: &[u8]) {
        let length = bytes.len() as u32;
        data.extend(if big { length.to_be_bytes() } else { length.to_le_bytes() });
        data.extend(bytes);
    }

    /// What the kernel would write.
    fn entry(template: &str, algorithm: &str, hex: &str, path: &[u8], signature: Option<&[u8]>) -> Vec<u8> {
        entry_of(false, template, algorithm, hex, path, signature)
    }

    fn entry_of(
        big: bool,
        template: &str,
        algorithm: &str,
        hex: &str,
        path: &[u8],
        signature: Option<&[u8]>,
    ) -> Vec<u8> {
        let mut data = Vec::new();
        let digest_field = [algorithm.as_bytes(), b":\0", &HEXLOWER.decode(hex.as_bytes()).unwrap()].concat();
        put(&mut data, big, &digest_field);
        put(&mut data, big, &[path, b"\0"].concat());
        signature.iter().for_each(|signature| put(&mut data, big, signature));
        let mut bytes = if big { vec![0, 0, 0, 10] } else { vec![10, 0, 0, 0] };
        bytes.extend(digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref());
        put(&mut bytes, big, template.as_bytes());
        put(&mut bytes, big, &data);
        bytes
    }

    #[test]
    fn a_replay_gives_what_the_tpm_holds() {
        let bytes = entries().concat();
        let list = List::parse(&bytes).unwrap();
        assert_eq!(list.replay(), pcr(AFTER_ALL));
        let all = list.proven_by(&pcr(AFTER_ALL)).unwrap();
        assert_eq!((all.entries.len(), all.violations()), (5, 1));
        let files: Vec<_> = all.digests().into_iter().map(|(path, ..)| path).collect();
        assert_eq!(files, [&b"/opt/a\ngent"[..], b"/usr/bin/dash", b"/usr/bin/python3", b"boot_aggregate"]);
        assert_eq!((all.entries[4].algorithm, all.entries[4].sha256()), ("ima:sha256", Some(pcr(AGENT))));
        assert_eq!(all.entries[3].sha256(), None);
    }

    /// It has grown since the quote.
    #[test]
    fn only_the_entries_that_a_pcr_proves_are_given() {
        let bytes = entries().concat();
        let list = List::parse(&bytes).unwrap();
        assert_eq!(list.proven_by(&pcr(AFTER_TWO)).unwrap().digests().len(), 2);
        assert_eq!(list.proven_by(&[0; 32]).unwrap().entries.len(), 0);
        assert!(list.proven_by(&[1; 32]).is_none());
        assert!(List::parse(b"").unwrap().proven_by(&pcr(AFTER_TWO)).is_none());
    }

    #[test]
    fn every_template_that_carries_a_digest_is_read_and_every_other_is_proven() {
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
                let bytes = entry_of(big, template, algorithm, DASH, b"/a", signature);
                let list = List::parse(&bytes).unwrap();
                assert_eq!(list.proven_by(&list.replay()).unwrap().digests().len(), files, "{template}");
            }
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let bytes = entries().concat();
        let whole = List::parse(&bytes).unwrap().replay();
        let ends: Vec<usize> = (1..=4).map(|many| entries()[..many].concat().len()).collect();
        for end in 1..bytes.len() {
            match List::parse(&bytes[..end]) {
                Ok(list) => assert!(ends.contains(&end) && list.replay() != whole, "{end}"),
                Err(error) => assert!(error.to_string().contains("breaks off"), "{end}: {error}"),
            }
        }
    }

    /// But for a violation's, of which nothing is proven.
    #[test]
    fn every_changed_byte_is_found() {
        let bytes = entries().concat();
        let whole = List::parse(&bytes).unwrap().replay();
        let violation = entries()[..3].concat().len()..entries()[..4].concat().len();
        let mut template = 0..0;
        for at in (0..bytes.len()).filter(|at| !violation.contains(at)) {
            // The template's name is not in the digest, but says how to read what is: another gives no file's digest.
            template = entries()
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
                if let Ok(list) = List::parse(&changed) {
                    assert!(list.replay() != whole || template.contains(&at), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn each_lie_is_named_with_its_entry() {
        let good = entry("ima-ng", "sha256", DASH, b"/a", None);
        let lie = |at: usize, byte: u8, why: &str| {
            let mut bad = good.clone();
            bad[at] = byte;
            refused(&[good.clone(), bad.clone()].concat(), why);
            refused(&[good.clone(), bad].concat(), "entry 2: ");
        };
        lie(0, 11, "not of PCR 10");
        lie(4, good[4] ^ 1, "not that of its data");
        lie(good.len() - 1, 1, "not that of its data");
        lie(26, 1, "a part of it has 65542 bytes, more than 256");
        lie(37, 1, "a part of it has");
        refused(
            &[good.clone(), entry_of(true, "ima-ng", "sha256", DASH, b"/a", None)].concat(),
            "not of PCR 10",
        );
        refused(&entry("ima", "sha256", DASH, b"/a", None), "ima_template=ima-ng");
        refused(b"10 01fb2f8a6d60 ima-ng", "binary format");
        assert!(
            List::parse(&vec![b'\n'; LONGEST + 1]).unwrap_err().to_string().contains("longer than 64 MiB")
        );
    }

    /// A name that anyone can give to a file neither hides entries, nor adds any, nor makes the list unreadable; not even
    /// that of a file that changed while it was measured.
    #[test]
    fn any_name_of_a_file_is_part_of_its_entry() {
        let forged = entry("ima-ng", "sha256", DASH, b"/usr/bin/forged", None);
        for path in [b"/tmp/x\n10 00".repeat(40), forged.clone(), b"\n".repeat(4095), vec![0xff; 4096]] {
            let mut violation = entry("ima-sig", "sha256", NONE, &path, Some(&[]));
            violation[4..24].fill(0);
            let bytes =
                [entry("ima-sig", "sha256", DASH, &path, Some(&[])), violation, forged.clone()].concat();
            let list = List::parse(&bytes).unwrap();
            assert_eq!(list.len(), 3);
            assert!(list.entries[0].path == path && list.entries[1].violation);
            assert_eq!(list.entries[2].path, b"/usr/bin/forged");
        }
    }
}
