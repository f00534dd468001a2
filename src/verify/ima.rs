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
use super::eventlog::{PcrDigest, extend_pcr, sha256};

const MAX_LIST_SIZE: usize = 64 * 1024 * 1024;
/// One entry's data. A path has at most 4096 bytes, a signature some hundreds; a buffer that the kernel names may be longer.
const MAX_DATA_LEN: usize = 1024 * 1024;
/// A template's name, or the description of one of the host's own.
const MAX_TEMPLATE_NAME_LEN: usize = 256;
/// An entry is not longer than this, in bytes.
pub const MAX_ENTRY_LEN: usize = 4 + 20 + 4 + MAX_TEMPLATE_NAME_LEN + 4 + MAX_DATA_LEN;
const IMA_PCR: u32 = 10;

/// A list in which every entry is what its own digest says. Its replay proves it.
#[derive(Clone, Debug)]
pub struct MeasurementList<'a> {
    entries: Vec<ImaEntry<'a>>,
}

#[derive(Clone, Debug)]
pub struct ImaEntry<'a> {
    /// The file's name where it was opened, with the kernel's underscores for its spaces. Any bytes: escape before showing.
    pub path: &'a [u8],
    /// The algorithm's name, such as "sha256" or "verity:sha256".
    pub algorithm: &'a str,
    /// The file's digest by that.
    pub digest: &'a [u8],
    /// A file that changed while it was measured: nothing of this entry is proven but that there is one.
    pub violation: bool,
    /// Of a file, rather than of something else that the kernel names so.
    is_file: bool,
    pcr_digest: PcrDigest,
    /// In bytes.
    encoded_len: usize,
}

/// The entries that a PCR 10 proves.
#[derive(Clone, Copy, Debug)]
pub struct ProvenEntries<'l> {
    entries: &'l [ImaEntry<'l>],
}

/// In which order the bytes of a host's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

impl<'a> MeasurementList<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<MeasurementList<'a>, Error> {
        if bytes.len() > MAX_LIST_SIZE {
            return Err(list_error(1, "the list is longer than 64 MiB"));
        }
        let (mut entries, mut rest, mut order) = (Vec::new(), bytes, None);
        while !rest.is_empty() {
            let at = entries.len() + 1;
            let entry = parse_entry(rest, &mut order).map_err(|what| list_error(at, what))?;
            let entry = entry.ok_or_else(|| list_error(at, "it breaks off"))?;
            rest = &rest[entry.encoded_len..];
            entries.push(entry);
        }
        Ok(MeasurementList { entries })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What PCR 10 of the SHA-256 bank holds after all of the list. The kernel extends that bank with the SHA-256 of the
    /// same data since Linux 5.8.
    pub fn replay(&self) -> PcrDigest {
        self.entries.iter().fold([0; 32], |pcr, entry| extend_pcr(&pcr, &entry.pcr_digest))
    }

    /// The first entries, up to where their replay gives this PCR 10. None if it never does.
    pub fn proven_by(&self, pcr: &PcrDigest) -> Option<ProvenEntries<'_>> {
        let mut replayed = [0; 32];
        let mut proven = 0;
        while replayed != *pcr {
            replayed = extend_pcr(&replayed, &self.entries.get(proven)?.pcr_digest);
            proven += 1;
        }
        Some(ProvenEntries { entries: &self.entries[..proven] })
    }
}

impl ImaEntry<'_> {
    /// The file's SHA-256, if that is what the kernel took of it.
    pub fn sha256(&self) -> Option<PcrDigest> {
        match self.algorithm {
            "sha256" | "ima:sha256" if self.is_file_measurement() => self.digest.try_into().ok(),
            _ => None,
        }
    }

    /// PCR 10 of the SHA-256 bank after this entry.
    pub fn extend_pcr(&self, pcr: &PcrDigest) -> PcrDigest {
        extend_pcr(pcr, &self.pcr_digest)
    }

    /// In bytes.
    pub fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    fn is_file_measurement(&self) -> bool {
        self.is_file && !self.violation
    }
}

impl<'l> ProvenEntries<'l> {
    pub fn entries(&self) -> &'l [ImaEntry<'l>] {
        self.entries
    }

    /// Each file that was measured, by path, algorithm and digest.
    pub fn digests(&self) -> BTreeSet<(&'l [u8], &'l str, &'l [u8])> {
        let files = self.entries.iter().filter(|entry| entry.is_file_measurement());
        files.map(|entry| (entry.path, entry.algorithm, entry.digest)).collect()
    }

    pub fn violations(&self) -> usize {
        self.entries.iter().filter(|entry| entry.violation).count()
    }
}

/// The first entry; none where it is not there whole. The error is for people.
///
/// `order` is the host's, and is found with the first entry of a list.
pub fn parse_entry<'a>(
    bytes: &'a [u8],
    order: &mut Option<ByteOrder>,
) -> Result<Option<ImaEntry<'a>>, String> {
    let Some((pcr, mut rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let detected = order.unwrap_or(if pcr[0] == 0 { ByteOrder::Big } else { ByteOrder::Little });
    if detected.decode_u32(pcr) != IMA_PCR {
        return Err("not of PCR 10 in the kernel's binary format, the only one that is read".to_owned());
    }
    *order = Some(detected);
    let (Some(template_digest), Some(name), Some(data)) = (
        read_bytes(&mut rest, 20),
        read_sized(&mut rest, detected, MAX_TEMPLATE_NAME_LEN)?,
        read_sized(&mut rest, detected, MAX_DATA_LEN)?,
    ) else {
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
    let has_file_fields = matches!(name, b"ima-ng" | b"ima-ngv2" | b"ima-sig" | b"ima-sigv2" | b"ima-modsig");
    let fields = if has_file_fields { parse_file_fields(data, detected) } else { None };
    let (algorithm, digest, path) = fields.unwrap_or_default();
    let pcr_digest = if violation { [0xff; 32] } else { sha256(data) };
    let encoded_len = bytes.len() - rest.len();
    Ok(Some(ImaEntry {
        path,
        algorithm,
        digest,
        violation,
        is_file: fields.is_some(),
        pcr_digest,
        encoded_len,
    }))
}

/// The first two fields of a file's entry: the digest behind its algorithm's name, a colon and a NUL, and the path with a
/// NUL behind it.
fn parse_file_fields(mut data: &[u8], order: ByteOrder) -> Option<(&str, &[u8], &[u8])> {
    let algorithm_and_digest = read_sized(&mut data, order, MAX_DATA_LEN).ok()??;
    let path = read_sized(&mut data, order, MAX_DATA_LEN).ok()??.strip_suffix(b"\0")?;
    let end = algorithm_and_digest.iter().position(|byte| *byte == 0)?;
    let algorithm = std::str::from_utf8(algorithm_and_digest[..end].strip_suffix(b":")?).ok()?;
    Some((algorithm, &algorithm_and_digest[end + 1..], path))
}

/// Some bytes behind their length; none where they are not there whole.
fn read_sized<'a>(rest: &mut &'a [u8], order: ByteOrder, max_len: usize) -> Result<Option<&'a [u8]>, String> {
    let Some((length, remainder)) = rest.split_first_chunk::<4>() else {
        *rest = &[];
        return Ok(None);
    };
    *rest = remainder;
    let length = usize::try_from(order.decode_u32(length)).unwrap_or(usize::MAX);
    if length > max_len {
        return Err(format!("a part of it has {length} bytes, more than {max_len}"));
    }
    Ok(read_bytes(rest, length))
}

fn read_bytes<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, remainder) = rest.split_at_checked(length).unzip();
    *rest = remainder.unwrap_or_default();
    taken
}

impl ByteOrder {
    fn decode_u32(self, bytes: &[u8; 4]) -> u32 {
        match self {
            ByteOrder::Little => u32::from_le_bytes(*bytes),
            ByteOrder::Big => u32::from_be_bytes(*bytes),
        }
    }
}

fn list_error(entry: usize, reason: impl Into<String>) -> Error {
    Error::Ima { entry, what: reason.into() }
}

#[cfg(test)]
pub(crate) mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// What five entries replay to before the third and at the end; made by another program.
    pub(crate) const PCR_AFTER_TWO: &str = "c0c7aee9e892ec59ac0138db20f2ab48c7b77703f6a06fd4ee1ddb6f763b7575";
    pub(crate) const PCR_AFTER_ALL: &str = "0990025ae0fbc779230321fd4e404e5bcebe5d9520352a2cf530a653314841a8";
    const BOOT_SHA256: &str = "4509beb0ab401d71fa4a5cd94a55c9a74f13332776ae4019c5bfc4c2005157ff";
    const DASH_SHA256: &str = "89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50";
    const PYTHON_SHA256: &str = "6e491c02882ac36e3bcaaac4d151d4b2793135d4482adf227b1b730cdd90b46d";
    const AGENT_SHA256: &str = "d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824";
    const ZERO_SHA256: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    /// Five entries, a violation and a newline among them.
    pub(crate) fn sample_entries() -> [Vec<u8>; 5] {
        let mut violation = entry("ima-sig", "sha256", ZERO_SHA256, b"/etc/passwd", Some(&[]));
        violation[4..24].fill(0);
        [
            entry("ima-ng", "sha256", BOOT_SHA256, b"boot_aggregate", None),
            entry("ima-sig", "sha256", DASH_SHA256, b"/usr/bin/dash", Some(&[])),
            entry("ima-sig", "sha256", PYTHON_SHA256, b"/usr/bin/python3", Some(&[3, 2, 4])),
            violation,
            entry("ima-ngv2", "ima:sha256", AGENT_SHA256, b"/opt/a\ngent", None),
        ]
    }

    fn pcr(hex: &str) -> PcrDigest {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    fn assert_rejected(list: &[u8], why: &str) {
        let error = MeasurementList::parse(list).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.chars().any(char::is_control), "{error}");
    }

    fn push_sized(data: &mut Vec<u8>, big: bool, bytes: &[u8]) {
        let length = bytes.len() as u32;
        data.extend(if big { length.to_be_bytes() } else { length.to_le_bytes() });
        data.extend(bytes);
    }

    /// What the kernel would write.
    fn entry(template: &str, algorithm: &str, hex: &str, path: &[u8], signature: Option<&[u8]>) -> Vec<u8> {
        entry_with_order(false, template, algorithm, hex, path, signature)
    }

    fn entry_with_order(
        big: bool,
        template: &str,
        algorithm: &str,
        hex: &str,
        path: &[u8],
        signature: Option<&[u8]>,
    ) -> Vec<u8> {
        let mut data = Vec::new();
        let digest_field = [algorithm.as_bytes(), b":\0", &HEXLOWER.decode(hex.as_bytes()).unwrap()].concat();
        push_sized(&mut data, big, &digest_field);
        push_sized(&mut data, big, &[path, b"\0"].concat());
        signature.iter().for_each(|signature| push_sized(&mut data, big, signature));
        let mut bytes = if big { vec![0, 0, 0, 10] } else { vec![10, 0, 0, 0] };
        bytes.extend(digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref());
        push_sized(&mut bytes, big, template.as_bytes());
        push_sized(&mut bytes, big, &data);
        bytes
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

    /// It has grown since the quote.
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

    /// But for a violation's, of which nothing is proven.
    #[test]
    fn changed_byte_is_detected() {
        let bytes = sample_entries().concat();
        let whole = MeasurementList::parse(&bytes).unwrap().replay();
        let violation = sample_entries()[..3].concat().len()..sample_entries()[..4].concat().len();
        let mut template = 0..0;
        for at in (0..bytes.len()).filter(|at| !violation.contains(at)) {
            // The template's name is not in the digest, but says how to read what is: another gives no file's digest.
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

    /// A name that anyone can give to a file neither hides entries, nor adds any, nor makes the list unreadable; not even
    /// that of a file that changed while it was measured.
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
