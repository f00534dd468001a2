//! The list of files that the kernel measured, as Linux gives it in ascii_runtime_measurements.
//!
//! The list is hostile, and long: it is read with the quote's PCR 10 at hand, which proves its first so many lines, since a
//! host goes on measuring while it is asked. Formats: the kernel's Documentation/security/IMA-templates.rst.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::Error;
use super::eventlog::{Digest, extend, sha256};

const LONGEST: usize = 64 * 1024 * 1024;
/// A path has at most 4096 bytes, and a signature a few hundred.
const LONGEST_LINE: usize = 8 * 1024;
/// So many newlines may be in a path: each costs two digests of a line.
const MOST_NEWLINES: usize = 16;

/// A list in which every line is what its own digest says. Its replay proves it.
#[derive(Clone, Debug)]
pub struct List<'a> {
    entries: Vec<Entry<'a>>,
}

#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The file's name where it was opened, with the kernel's underscores for its spaces. Any bytes: escape before showing.
    pub path: &'a [u8],
    /// The file's digest in hexadecimal, behind the algorithm's name and a colon.
    pub digest: &'a str,
    /// A file that changed while it was measured: nothing of this line is proven but that there is one.
    pub violation: bool,
    /// Not a file's, but of something that the kernel names so.
    buffer: bool,
    extended: Digest,
    /// In bytes, with its newline.
    length: usize,
}

/// The lines that a PCR 10 proves.
#[derive(Clone, Copy, Debug)]
pub struct Proven<'l> {
    entries: &'l [Entry<'l>],
}

impl<'a> List<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<List<'a>, Error> {
        if bytes.len() > LONGEST {
            return Err(fault(1, "the list is longer than 64 MiB"));
        }
        let (mut entries, mut rest, mut line) = (Vec::new(), bytes, 1);
        while !rest.is_empty() {
            let (mut entry, length) = first(rest).map_err(|what| fault(line, what))?;
            entry.length = length;
            line += rest[..length].iter().filter(|byte| **byte == b'\n').count();
            rest = &rest[length..];
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

    /// The first lines, up to where their replay gives this PCR 10. None if it never does.
    pub fn proven_by(&self, pcr: &Digest) -> Option<Proven<'_>> {
        self.proven_after(&[0; 32], pcr)
    }

    /// The same for a list that goes on where PCR 10 was `before`: with the end of a list alone.
    pub fn proven_after(&self, before: &Digest, pcr: &Digest) -> Option<Proven<'_>> {
        let mut replayed = *before;
        let mut lines = 0;
        while replayed != *pcr {
            replayed = extend(&replayed, &self.entries.get(lines)?.extended);
            lines += 1;
        }
        Some(Proven { entries: &self.entries[..lines] })
    }
}

impl Entry<'_> {
    /// The file's SHA-256, if that is what the kernel took of it.
    pub fn sha256(&self) -> Option<Digest> {
        if self.violation || self.buffer {
            return None;
        }
        let hex = self.digest.strip_prefix("sha256:").or_else(|| self.digest.strip_prefix("ima:sha256:"))?;
        HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
    }
}

impl<'l> Proven<'l> {
    pub fn entries(&self) -> &'l [Entry<'l>] {
        self.entries
    }

    /// Each file that was measured, by path and digest.
    pub fn digests(&self) -> BTreeSet<(&'l [u8], &'l str)> {
        let files = self.entries.iter().filter(|entry| !entry.violation && !entry.buffer);
        files.map(|entry| (entry.path, entry.digest)).collect()
    }

    /// How many bytes of the list these lines are.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.length).sum()
    }

    pub fn violations(&self) -> usize {
        self.entries.iter().filter(|entry| entry.violation).count()
    }
}

/// The first entry, and how many bytes it takes.
///
/// The kernel writes a path as it is, so a newline in one divides its entry. Where a line is not what its digest says, it
/// is tried together with the next: otherwise whoever can name a file could make a host's list unreadable.
fn first(bytes: &[u8]) -> Result<(Entry<'_>, usize), String> {
    let mut wrong = None;
    let mut end = 0;
    for _ in 0..=MOST_NEWLINES {
        // One more than the longest, to tell a line that is longer from one that is not ended.
        let window = &bytes[end..bytes.len().min(LONGEST_LINE + 1)];
        let Some(length) = window.iter().position(|byte| *byte == b'\n') else {
            let cut = if bytes.len() > LONGEST_LINE { "longer than 8 KiB" } else { "not ended" };
            return Err(wrong.unwrap_or_else(|| cut.to_owned()));
        };
        end += length + 1;
        match entry(&bytes[..end - 1]) {
            Ok(entry) => return Ok((entry, end)),
            Err(Fault::Shape(what)) => return Err(wrong.unwrap_or(what)),
            Err(Fault::Digest(what)) => wrong = wrong.or(Some(what)),
        }
    }
    Err(wrong.unwrap_or_else(|| "a path of too many lines".to_owned()))
}

enum Fault {
    Shape(String),
    /// The fields are not what the template's digest is of.
    Digest(String),
}

fn entry(line: &[u8]) -> Result<Entry<'_>, Fault> {
    let shape = |what: &str| Fault::Shape(what.to_owned());
    let mut fields = line.splitn(5, |byte| *byte == b' ');
    let mut field =
        || fields.next().ok_or_else(|| shape("fewer fields than PCR, digest, template, digest, path"));
    let (pcr, template_digest, template) = (field()?, field()?, field()?);
    if pcr != b"10" {
        return Err(shape("not of PCR 10, the only one that IMA is read from"));
    }
    let template_digest = HEXLOWER
        .decode(template_digest)
        .ok()
        .filter(|digest| digest.len() == 20 || digest.len() == 32)
        .ok_or_else(|| {
            shape("the template's digest is neither SHA-1 nor SHA-256 in lower-case hexadecimal")
        })?;
    let (signed, buffer) = match template {
        b"ima-ng" | b"ima-ngv2" => (false, false),
        b"ima-sig" | b"ima-sigv2" => (true, false),
        b"ima-buf" => (true, true),
        b"ima" => {
            return Err(shape(
                "template \"ima\" is too old to prove anything; boot with ima_template=ima-ng",
            ));
        }
        other => {
            let name = String::from_utf8_lossy(&other[..other.len().min(32)]).escape_debug().to_string();
            return Err(Fault::Shape(format!(
                "template \"{name}\" is not known here; boot with ima_template=ima-ng"
            )));
        }
    };
    let (named, tail) = (field()?, field()?);

    let (algorithm, file_digest) = named
        .iter()
        .rposition(|byte| *byte == b':')
        .map(|colon| (&named[..colon], &named[colon + 1..]))
        .filter(|(algorithm, _)| {
            algorithm.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b':'))
        })
        .ok_or_else(|| shape("the file's digest does not begin with its algorithm and a colon"))?;
    let file_digest =
        HEXLOWER.decode(file_digest).map_err(|_| shape("the file's digest is not lower-case hexadecimal"))?;
    let named = std::str::from_utf8(named).map_err(|_| shape("the file's digest is not text"))?;

    // There is no space in a path: the kernel makes it an underscore before it measures.
    let mut tail = tail.splitn(2, |byte| *byte == b' ');
    let (path, signature) = (tail.next().unwrap_or_default(), tail.next());
    if signature.is_some() && !signed {
        return Err(shape("more fields than its template has"));
    }
    let signature = match HEXLOWER.decode(signature.unwrap_or_default()) {
        Ok(signature) => signature,
        Err(_) => return Err(shape("the signature is not lower-case hexadecimal")),
    };

    if template_digest.iter().all(|byte| *byte == 0) {
        return Ok(Entry { path, digest: named, violation: true, buffer, extended: [0xff; 32], length: 0 });
    }
    let mut data = Vec::with_capacity(line.len());
    put(&mut data, &[algorithm, b":\0", &file_digest]);
    put(&mut data, &[path, b"\0"]);
    if signed {
        put(&mut data, &[&signature]);
    }
    let holds = match template_digest.len() {
        20 => digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref() == template_digest,
        _ => sha256(&data) == *template_digest,
    };
    if !holds {
        return Err(Fault::Digest("its digest is not that of its fields".to_owned()));
    }
    Ok(Entry { path, digest: named, violation: false, buffer, extended: sha256(&data), length: 0 })
}

/// A field as the template's digest is over it: its length, then itself.
fn put(data: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    // A field is shorter than its line.
    data.extend((length as u32).to_le_bytes());
    parts.iter().for_each(|part| data.extend_from_slice(part));
}

fn fault(line: usize, what: impl Into<String>) -> Error {
    Error::Ima { line, what: what.into() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Lines, a violation among them, and what they replay to before it and at the end; made by another program.
    pub(crate) const LINES: &str = "\
        10 01fb2f8a6d603fd73992768a0d7275c8adb81fda ima-ng sha256:4509beb0ab401d71fa4a5cd94a55c9a74f13332776ae4019c5bfc4c2005157ff boot_aggregate\n\
        10 b89ed0945c4fad28d72f4fdaa31452e34c773fda ima-sig sha256:89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50 /usr/bin/dash \n\
        10 bd6ed0de382277722a4bfaaae56d0a11ada62b62 ima-sig sha256:6e491c02882ac36e3bcaaac4d151d4b2793135d4482adf227b1b730cdd90b46d /usr/bin/python3 030204\n\
        10 0000000000000000000000000000000000000000 ima-sig sha256:0000000000000000000000000000000000000000000000000000000000000000 /etc/passwd \n\
        10 2740f08f8915af29cfe6cc7bd9f9627c7a984981 ima-ngv2 ima:sha256:d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824 /opt/a\ngent\n";
    pub(crate) const AFTER_TWO: &str = "c0c7aee9e892ec59ac0138db20f2ab48c7b77703f6a06fd4ee1ddb6f763b7575";
    pub(crate) const AFTER_ALL: &str = "0990025ae0fbc779230321fd4e404e5bcebe5d9520352a2cf530a653314841a8";

    fn pcr(hex: &str) -> Digest {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    fn refused(list: &str, why: &str) {
        let error = List::parse(list.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.chars().any(char::is_control), "{error}");
    }

    /// The line that the kernel would write.
    fn line(template: &str, algorithm: &str, path: &str, signature: Option<&[u8]>, long: bool) -> String {
        let mut data = Vec::new();
        put(&mut data, &[algorithm.as_bytes(), b":\0", &[7; 32]]);
        put(&mut data, &[path.as_bytes(), b"\0"]);
        signature.iter().for_each(|signature| put(&mut data, &[signature]));
        let digest = match long {
            true => HEXLOWER.encode(&sha256(&data)),
            false => HEXLOWER.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref()),
        };
        let signature =
            signature.map(|signature| format!(" {}", HEXLOWER.encode(signature))).unwrap_or_default();
        format!("10 {digest} {template} {algorithm}:{} {path}{signature}\n", HEXLOWER.encode(&[7; 32]))
    }

    #[test]
    fn a_replay_gives_what_the_tpm_holds() {
        let list = List::parse(LINES.as_bytes()).unwrap();
        assert_eq!(list.replay(), pcr(AFTER_ALL));
        let all = list.proven_by(&pcr(AFTER_ALL)).unwrap();
        assert_eq!((all.entries.len(), all.violations()), (5, 1));
        let files: Vec<_> = all.digests().into_iter().map(|(path, _)| path).collect();
        assert_eq!(files, [&b"/opt/a\ngent"[..], b"/usr/bin/dash", b"/usr/bin/python3", b"boot_aggregate"]);
        assert_eq!(&all.entries[4].digest[..16], "ima:sha256:d4f0b");
    }

    /// It has grown since the quote.
    #[test]
    fn only_the_lines_that_a_pcr_proves_are_given() {
        let list = List::parse(LINES.as_bytes()).unwrap();
        let two = list.proven_by(&pcr(AFTER_TWO)).unwrap();
        assert_eq!(two.digests().len(), 2);
        assert_eq!(list.proven_by(&[0; 32]).unwrap().entries.len(), 0);
        assert!(list.proven_by(&[1; 32]).is_none());
        assert_eq!(two.bytes(), LINES.match_indices('\n').nth(1).unwrap().0 + 1);
        let rest = List::parse(&LINES.as_bytes()[two.bytes()..]).unwrap();
        assert_eq!(rest.proven_after(&pcr(AFTER_TWO), &pcr(AFTER_ALL)).unwrap().entries.len(), 3);
        assert!(rest.proven_by(&pcr(AFTER_ALL)).is_none());
        assert!(List::parse(b"").unwrap().proven_by(&pcr(AFTER_TWO)).is_none());
    }

    #[test]
    fn every_template_that_carries_a_digest_is_read() {
        for (template, algorithm, signature) in [
            ("ima-ng", "sha512", None),
            ("ima-sig", "sha1", Some(&[1, 2][..])),
            ("ima-ngv2", "verity:sha256", None),
            ("ima-sigv2", "ima:sha3-256", Some(&[])),
            ("ima-buf", "sha256", Some(b"root=/dev/vda")),
        ] {
            for long in [false, true] {
                let text = line(template, algorithm, "/a", signature, long);
                let list = List::parse(text.as_bytes()).unwrap();
                let files = list.proven_by(&list.replay()).unwrap().digests().len();
                assert_eq!(files, usize::from(template != "ima-buf"), "{text}");
            }
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let whole = List::parse(LINES.as_bytes()).unwrap().replay();
        for end in 1..LINES.len() {
            match List::parse(&LINES.as_bytes()[..end]) {
                Ok(list) => assert!(LINES[..end].ends_with('\n') && list.replay() != whole, "{end}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("not ended") || text.contains("that of its fields"), "{text}");
                }
            }
        }
    }

    /// But for a violation's, of which nothing is proven.
    #[test]
    fn every_changed_byte_is_found() {
        let whole = List::parse(LINES.as_bytes()).unwrap().replay();
        let violation = LINES.find("10 00000").unwrap()..LINES.find("10 2740").unwrap();
        for at in (0..LINES.len()).filter(|at| !violation.contains(at)) {
            for bit in [0x01, 0x20, 0x80] {
                let mut changed = LINES.as_bytes().to_vec();
                changed[at] ^= bit;
                if let Ok(list) = List::parse(&changed) {
                    assert_ne!(list.replay(), whole, "byte {at}");
                }
            }
        }
    }

    #[test]
    fn each_lie_is_named_with_its_line() {
        let good = line("ima-ng", "sha256", "/a", None, false);
        let lie = |from: &str, to: &str, why: &str| {
            refused(&format!("{good}{}", good.replacen(from, to, 1)), why);
            refused(&format!("{good}{}", good.replacen(from, to, 1)), "line 2: ");
        };
        lie("10", "11", "not of PCR 10");
        lie("/a", "/b", "not that of its fields");
        lie("/a", "/a 00", "more fields than its template");
        lie("/a", "/a ", "more fields than its template");
        lie("ima-ng", "ima", "ima_template=ima-ng");
        lie("ima-ng", "evm\u{1b}sig", "not known here");
        lie("ima-ng", "ima-sig", "not that of its fields");
        lie("sha256:", "sha256", "algorithm and a colon");
        lie("sha256:", "SHA256:", "algorithm and a colon");
        lie("sha256:07", "sha256:0", "the file's digest is not lower-case hexadecimal");
        lie("10 ", "10 0", "neither SHA-1 nor SHA-256");
        lie("/a\n", "/a", "not ended");
        refused("10 00\n", "fewer fields");
        refused("\n", "fewer fields");
        refused(&line("ima-ng", "sha256", &"a".repeat(LONGEST_LINE), None, false), "longer than 8 KiB");
        assert!(
            List::parse(&vec![b'\n'; LONGEST + 1]).unwrap_err().to_string().contains("longer than 64 MiB")
        );
    }

    /// A name that anyone can give to a file neither hides lines nor adds any.
    #[test]
    fn newlines_in_a_path_are_part_of_it() {
        let forged = line("ima-ng", "sha256", "/usr/bin/forged", None, false);
        let path = format!("/tmp/x\n{}", forged.trim_end().replace(' ', "_"));
        let text = line("ima-sig", "sha256", &path, Some(&[]), false) + &forged;
        let list = List::parse(text.as_bytes()).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list.entries[0].path, path.as_bytes());

        let most = line("ima-ng", "sha256", &"\n".repeat(MOST_NEWLINES), None, false);
        assert_eq!(List::parse(most.as_bytes()).unwrap().len(), 1);
        refused(
            &line("ima-ng", "sha256", &"\n".repeat(MOST_NEWLINES + 1), None, false),
            "not that of its fields",
        );
    }
}
