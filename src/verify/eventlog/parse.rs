//! The bytes of the log, hostile until they are events.

use std::borrow::Cow;

use super::fields::Fields;
use super::{Event, Log, kind};
use crate::verify::Error;

/// What firmware sets aside for the log is a hundredth of this.
const LONGEST: usize = 16 * 1024 * 1024;
const MOST_EVENTS: usize = 65_536;
/// TPMs have a handful of banks.
const MOST_BANKS: u32 = 16;

/// TPM_ALG_SHA256 (TCG Algorithm Registry).
const ALG_SHA256: u16 = 0x000b;

pub(super) fn log(bytes: &[u8]) -> Result<Log<'_>, Error> {
    if bytes.len() > LONGEST {
        return Err(fault(LONGEST, "the log is longer than 16 MiB"));
    }
    let mut fields = Fields::new(bytes);
    let banks = header(&mut fields)?;
    let (mut events, mut locality) = (Vec::new(), None);
    while !padding(fields.rest()) {
        let offset = fields.at();
        if events.len() == MOST_EVENTS {
            return Err(fault(offset, "more than 65,536 events"));
        }
        let event = event(&mut fields, &banks)?;
        if let Some(said) = startup_locality(&event) {
            if !matches!(said, 0 | 3 | 4) {
                return Err(fault(offset, format!("a TPM is not started from locality {said}")));
            }
            if locality.replace(said).is_some() {
                return Err(fault(offset, "a second StartupLocality event"));
            }
        }
        events.push(event);
    }
    Ok(Log { events, locality: locality.unwrap_or(0) })
}

/// The first event (sections 10.2.1 and 10.4.5.1), in the old format: TCG_PCClientPCREvent around TCG_EfiSpecIDEvent.
/// Gives the log's algorithms, and the sizes of their digests.
fn header(fields: &mut Fields<'_>) -> Result<Vec<(u16, usize)>, Error> {
    const SIGNATURE: &[u8] = b"Spec ID Event03\0";
    let cut = || fault(0, "the log ends within its header");
    let (pcr, kind) = (fields.u32().ok_or_else(cut)?, fields.u32().ok_or_else(cut)?);
    fields.take(20).ok_or_else(cut)?;
    let size = fields.u32().ok_or_else(cut)?;
    let start = fields.at();
    let data = fields.take(size as usize).ok_or_else(cut)?;
    if pcr != 0 || kind != kind::NO_ACTION || !data.starts_with(SIGNATURE) {
        return Err(fault(
            0,
            "no Spec ID Event03 header: this is no event log, or one in the old format with SHA-1 digests alone, which \
             prove nothing; let the firmware use the TPM as TPM 2.0, with its SHA-256 bank",
        ));
    }

    let mut fields = Fields::new(data);
    let cut = || fault(start + data.len(), "the header ends within its list of algorithms");
    // The signature; platform class, version and word size decide nothing here.
    fields.take(SIGNATURE.len() + 8).ok_or_else(cut)?;
    let count = fields.u32().ok_or_else(cut)?;
    if !(1..=MOST_BANKS).contains(&count) {
        return Err(fault(
            start + 24,
            format!("the header lists {count} algorithms, rather than 1 to {MOST_BANKS}"),
        ));
    }
    let mut banks: Vec<(u16, usize)> = Vec::new();
    for _ in 0..count {
        let offset = start + fields.at();
        let (algorithm, size) = (fields.u16().ok_or_else(cut)?, fields.u16().ok_or_else(cut)?);
        if banks.iter().any(|(listed, _)| *listed == algorithm) {
            return Err(fault(offset, format!("the header lists algorithm {algorithm:#06x} twice")));
        }
        if algorithm == ALG_SHA256 && size != 32 {
            return Err(fault(offset, format!("the header gives SHA-256 digests {size} bytes, not 32")));
        }
        banks.push((algorithm, size.into()));
    }
    if !banks.iter().any(|(algorithm, _)| *algorithm == ALG_SHA256) {
        return Err(fault(start + 24, "no SHA-256 digests in this log: enable the TPM's SHA-256 bank"));
    }
    let vendor = fields.u8().ok_or_else(cut)?;
    if fields.rest().len() != usize::from(vendor) {
        return Err(fault(start + fields.at(), "the header's vendor information is not as long as it says"));
    }
    Ok(banks)
}

/// TCG_PCR_EVENT2 (section 10.2.2).
fn event<'a>(fields: &mut Fields<'a>, banks: &[(u16, usize)]) -> Result<Event<'a>, Error> {
    let offset = fields.at();
    let cut = || fault(offset, "the log ends within this event");
    let (pcr, kind) = (fields.u32().ok_or_else(cut)?, fields.u32().ok_or_else(cut)?);
    if pcr > 23 && kind != kind::NO_ACTION {
        return Err(fault(offset, format!("there is no PCR {pcr}")));
    }

    let count = fields.u32().ok_or_else(cut)? as usize;
    if count > banks.len() {
        let listed = banks.len();
        return Err(fault(offset, format!("{count} digests, where the header lists {listed} algorithms")));
    }
    let mut seen: Vec<u16> = Vec::with_capacity(count);
    let mut sha256 = None;
    for _ in 0..count {
        let algorithm = fields.u16().ok_or_else(cut)?;
        let Some((_, size)) = banks.iter().find(|(listed, _)| *listed == algorithm) else {
            return Err(fault(
                offset,
                format!("a digest of algorithm {algorithm:#06x}, which the header lacks"),
            ));
        };
        if seen.contains(&algorithm) {
            return Err(fault(offset, format!("two digests of algorithm {algorithm:#06x}")));
        }
        seen.push(algorithm);
        let digest = fields.take(*size).ok_or_else(cut)?;
        if algorithm == ALG_SHA256 {
            sha256 = digest.try_into().ok();
        }
    }
    let digest = sha256.ok_or_else(|| fault(offset, "no SHA-256 digest"))?;

    let size = fields.u32().ok_or_else(cut)? as usize;
    let left = fields.rest().len();
    let data = fields
        .take(size)
        .ok_or_else(|| fault(offset, format!("{size} bytes of data, where {left} bytes are left")))?;
    Ok(Event { pcr, kind, digest, data })
}

/// Section 10.4.5.3.
fn startup_locality(event: &Event<'_>) -> Option<u8> {
    match event.data.strip_prefix(b"StartupLocality\0")? {
        [locality] if event.kind == kind::NO_ACTION && event.pcr == 0 => Some(*locality),
        _ => None,
    }
}

/// Nothing, or what firmware fills the room with that is left. An event ends the look at its first bytes.
fn padding(rest: &[u8]) -> bool {
    rest.iter().all(|byte| *byte == 0xff)
}

fn fault(offset: usize, what: impl Into<Cow<'static, str>>) -> Error {
    Error::EventLog { offset, what: what.into().into_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Sample, boot};
    use super::super::{Content, sha256};
    use super::*;

    fn refused(bytes: &[u8], why: &str) {
        let error = Log::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.chars().any(char::is_control), "{error}");
    }

    /// Where it ends between two events, it is a shorter log, which its replay tells.
    #[test]
    fn every_truncation_is_found_by_parser_or_replay() {
        let bytes = boot("vmlinuz-6.1", "quiet", 1);
        let whole = Log::parse(&bytes).unwrap();
        let mut shorter = 0;
        for end in 0..bytes.len() {
            match Log::parse(&bytes[..end]) {
                Ok(log) => {
                    shorter += 1;
                    assert!(log.events().len() < whole.events().len());
                    assert_ne!(log.replay(), whole.replay());
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(["end", "left", "long"].iter().any(|why| text.contains(why)), "{text}");
                }
            }
        }
        assert_eq!(shorter, whole.events().len());
    }

    #[test]
    fn each_lie_in_the_header_is_named() {
        refused(b"", "ends within its header");
        refused(&[0; 4096], "no Spec ID Event03");
        let old = Sample { bytes: Vec::new() }.put(&[0, kind::S_CRTM_VERSION]).raw(&[7; 20]).data(b"1.0");
        refused(&old.bytes, "SHA-1 digests alone");
        refused(&Sample::with_banks(&[(4, 20)]).bytes, "enable the TPM's SHA-256 bank");
        refused(&Sample::with_banks(&[(11, 32), (11, 32)]).bytes, "0x000b twice");
        refused(&Sample::with_banks(&[(11, 20)]).bytes, "20 bytes, not 32");
        refused(&Sample::with_banks(&[]).bytes, "lists 0 algorithms");
        let many: Vec<_> = (0..17).map(|algorithm| (algorithm, 32)).collect();
        refused(&Sample::with_banks(&many).bytes, "lists 17 algorithms");
        let mut vendor = Sample::new().bytes;
        let at = vendor.len() - 4;
        vendor[at] = 200;
        refused(&vendor, "vendor information");
    }

    #[test]
    fn each_lie_in_an_event_is_named() {
        let one = |sample: Sample| sample.raw(&[0; 32]).data(b"").bytes;
        refused(&Sample::new().event(24, kind::IPL, [0; 32], b"").bytes, "no PCR 24");
        refused(&Sample::new().put(&[0, 1, 3]).bytes, "3 digests, where the header lists 2");
        refused(&one(Sample::new().put(&[0, 1, 1]).raw(&[12, 0])), "0x000c, which the header lacks");
        refused(&one(Sample::new().put(&[0, 1, 2]).raw(&[11, 0]).raw(&[0; 32]).raw(&[11, 0])), "two digests");
        refused(
            &Sample::new().put(&[0, 1, 1]).raw(&[4, 0]).raw(&[0; 20]).data(b"").bytes,
            "no SHA-256 digest",
        );
        let long = Sample::new().put(&[0, 1, 1]).raw(&[11, 0]).raw(&[0; 32]).put(&[u32::MAX]);
        refused(&long.raw(b"data").bytes, "4294967295 bytes of data, where 4 bytes are left");
        let start = |locality| {
            Sample::new().event(
                0,
                kind::NO_ACTION,
                [0; 32],
                &[b"StartupLocality\0", &[locality][..]].concat(),
            )
        };
        refused(&start(1).bytes, "from locality 1");
        refused(
            &start(3).event(0, kind::NO_ACTION, [0; 32], b"StartupLocality\0\0").bytes,
            "second StartupLocality",
        );
    }

    #[test]
    fn banks_that_nobody_knows_are_passed_over() {
        let log = Sample::with_banks(&[(0x7001, 5), (11, 32), (0x7002, 0)]).put(&[4, 5, 3]);
        let log =
            log.raw(&[1, 0x70]).raw(&[9; 5]).raw(&[2, 0x70]).raw(&[11, 0]).raw(&sha256(b"it")).data(b"it");
        assert_eq!(Log::parse(&log.bytes).unwrap().events()[0].content(), Content::Proven(b"it"));
    }

    #[test]
    fn padding_ends_a_log_and_nothing_else_does() {
        let sample = || Sample::new().measure(4, kind::ACTION, b"it");
        for length in [1, 3, 8, 4096] {
            assert_eq!(Log::parse(&sample().raw(&vec![0xff; length]).bytes).unwrap().events().len(), 1);
            refused(&sample().raw(&vec![0; length]).bytes, "");
        }
        refused(&sample().raw(&[0xff; 100]).raw(b"x").bytes, "no PCR 4294967295");
    }

    #[test]
    fn sizes_are_bounded() {
        refused(&vec![0; LONGEST + 1], "longer than 16 MiB");
        let event = Sample { bytes: Vec::new() }.measure(4, kind::ACTION, b"").bytes;
        let most = Sample::new().raw(&event.repeat(MOST_EVENTS));
        assert_eq!(Log::parse(&most.bytes).unwrap().events().len(), MOST_EVENTS);
        refused(&most.raw(&event).bytes, "more than 65,536 events");
    }
}
