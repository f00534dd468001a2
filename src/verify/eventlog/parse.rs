//! The parser of the log's untrusted bytes.

use super::event::BootEvent;
use super::event_types;
use super::log::EventLog;
use crate::verify::byte_reader::{ByteOrder, ByteReader};
use crate::verify::error::Error;

/// The longest log that is parsed, in bytes: a hundred times what firmware reserves for it.
const MAX_LOG_SIZE: usize = 16 * 1024 * 1024;
const MAX_EVENTS: usize = 65_536;
/// The most digests of an event. TPMs have a handful of banks.
const MAX_BANKS: u32 = 16;

/// TPM_ALG_SHA256 (TCG Algorithm Registry).
const ALG_SHA256: u16 = 0x000b;

impl<'a> EventLog<'a> {
    /// Parses a log of at most 16 MiB.
    ///
    /// # Errors
    ///
    /// [`Error::EventLog`] if the log is malformed, has no SHA-256 digests, or breaks off within an event.
    pub fn parse(bytes: &'a [u8]) -> Result<EventLog<'a>, Error> {
        if bytes.len() > MAX_LOG_SIZE {
            return Err(log_error(MAX_LOG_SIZE, "the log is longer than 16 MiB"));
        }
        let mut reader = ByteReader::new(bytes, ByteOrder::Little);
        let banks = parse_header(&mut reader)?;
        let (mut events, mut locality) = (Vec::new(), None);
        while !is_padding(reader.rest()) {
            let offset = reader.offset();
            if events.len() == MAX_EVENTS {
                return Err(log_error(offset, "more than 65,536 events"));
            }
            let event = parse_event(&mut reader, &banks)?;
            if let Some(value) = startup_locality(&event) {
                if !matches!(value, 0 | 3 | 4) {
                    return Err(log_error(offset, format!("a TPM is not started from locality {value}")));
                }
                if locality.replace(value).is_some() {
                    return Err(log_error(offset, "a second StartupLocality event"));
                }
            }
            events.push(event);
        }
        Ok(EventLog { events, startup_locality: locality.unwrap_or(0) })
    }
}

/// Parses the first event (sections 10.2.1 and 10.4.5.1): a TCG_PCClientPCREvent, the old format, that
/// contains a TCG_EfiSpecIDEvent. Returns the algorithms of the log's digests, each with the digest's size in
/// bytes.
fn parse_header(reader: &mut ByteReader<'_>) -> Result<Vec<(u16, usize)>, Error> {
    const SIGNATURE: &[u8] = b"Spec ID Event03\0";
    let truncated = || log_error(0, "the log ends within its header");
    let (pcr, event_type) = (reader.u32().ok_or_else(truncated)?, reader.u32().ok_or_else(truncated)?);
    reader.take(20).ok_or_else(truncated)?;
    let size = reader.u32().ok_or_else(truncated)?;
    let start = reader.offset();
    let data = reader.take(size as usize).ok_or_else(truncated)?;
    if pcr != 0 || event_type != event_types::NO_ACTION || !data.starts_with(SIGNATURE) {
        return Err(log_error(
            0,
            "no Spec ID Event03 header: this is not an event log, or it is in the old format with SHA-1 digests \
             alone, which prove nothing; configure the firmware to use the TPM as TPM 2.0, with its SHA-256 bank",
        ));
    }

    let mut header_reader = ByteReader::new(data, ByteOrder::Little);
    let truncated = || log_error(start + data.len(), "the header ends within its list of algorithms");
    // The signature, then platform class, version and word size, which are not needed.
    header_reader.take(SIGNATURE.len() + 8).ok_or_else(truncated)?;
    let count = header_reader.u32().ok_or_else(truncated)?;
    if !(1..=MAX_BANKS).contains(&count) {
        return Err(log_error(
            start + 24,
            format!("the header lists {count} algorithms, not 1 to {MAX_BANKS}"),
        ));
    }
    let mut banks: Vec<(u16, usize)> = Vec::new();
    for _ in 0..count {
        let offset = start + header_reader.offset();
        let (algorithm, size) =
            (header_reader.u16().ok_or_else(truncated)?, header_reader.u16().ok_or_else(truncated)?);
        if banks.iter().any(|(listed, _)| *listed == algorithm) {
            return Err(log_error(offset, format!("the header lists algorithm {algorithm:#06x} twice")));
        }
        if algorithm == ALG_SHA256 && size != 32 {
            return Err(log_error(
                offset,
                format!("the header says that SHA-256 digests have {size} bytes, not 32"),
            ));
        }
        banks.push((algorithm, size.into()));
    }
    if !banks.iter().any(|(algorithm, _)| *algorithm == ALG_SHA256) {
        return Err(log_error(
            start + 24,
            "no SHA-256 digests in this log: enable the TPM's SHA-256 bank in the firmware",
        ));
    }
    let vendor = header_reader.u8().ok_or_else(truncated)?;
    if header_reader.rest().len() != usize::from(vendor) {
        return Err(log_error(
            start + header_reader.offset(),
            "the header's vendor information is not as long as it says",
        ));
    }
    Ok(banks)
}

/// Parses a TCG_PCR_EVENT2 (section 10.2.2).
fn parse_event<'a>(reader: &mut ByteReader<'a>, banks: &[(u16, usize)]) -> Result<BootEvent<'a>, Error> {
    let offset = reader.offset();
    let truncated = || log_error(offset, "the log ends within this event");
    let (pcr, event_type) = (reader.u32().ok_or_else(truncated)?, reader.u32().ok_or_else(truncated)?);
    if pcr > 23 && event_type != event_types::NO_ACTION {
        return Err(log_error(offset, format!("there is no PCR {pcr}")));
    }

    let count = reader.u32().ok_or_else(truncated)? as usize;
    if count > banks.len() {
        let listed = banks.len();
        return Err(log_error(
            offset,
            format!("{count} digests, where the header lists {listed} algorithms"),
        ));
    }
    let mut algorithms: Vec<u16> = Vec::with_capacity(count);
    let mut sha256 = None;
    for _ in 0..count {
        let algorithm = reader.u16().ok_or_else(truncated)?;
        let Some((_, size)) = banks.iter().find(|(listed, _)| *listed == algorithm) else {
            return Err(log_error(
                offset,
                format!("a digest of algorithm {algorithm:#06x}, which the header lacks"),
            ));
        };
        if algorithms.contains(&algorithm) {
            return Err(log_error(offset, format!("two digests of algorithm {algorithm:#06x}")));
        }
        algorithms.push(algorithm);
        let digest = reader.take(*size).ok_or_else(truncated)?;
        if algorithm == ALG_SHA256 {
            sha256 = digest.try_into().ok();
        }
    }
    let digest = sha256.ok_or_else(|| log_error(offset, "no SHA-256 digest"))?;

    let size = reader.u32().ok_or_else(truncated)? as usize;
    let left = reader.rest().len();
    let data = reader
        .take(size)
        .ok_or_else(|| log_error(offset, format!("{size} bytes of data, where {left} bytes are left")))?;
    Ok(BootEvent { pcr, event_type, digest, data })
}

/// The locality that a StartupLocality event gives (section 10.4.5.3).
fn startup_locality(event: &BootEvent<'_>) -> Option<u8> {
    match event.data.strip_prefix(b"StartupLocality\0")? {
        [locality] if event.event_type == event_types::NO_ACTION && event.pcr == 0 => Some(*locality),
        _ => None,
    }
}

/// Whether no event is left: firmware may fill the rest of the log's memory with ones. Where an event
/// follows, its first bytes end the comparison.
fn is_padding(rest: &[u8]) -> bool {
    rest.iter().all(|byte| *byte == 0xff)
}

fn log_error(offset: usize, reason: impl Into<String>) -> Error {
    Error::EventLog { offset, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::super::event::EventContent;
    use super::super::sample_log::{EventLogBuilder, sample_boot_log};
    use super::*;
    use crate::digest::sha256;

    fn assert_rejected(bytes: &[u8], why: &str) {
        let error = EventLog::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.chars().any(char::is_control), "{error}");
    }

    /// A log that ends between two events is well-formed, and has another replay.
    #[test]
    fn truncation_is_detected() {
        let bytes = sample_boot_log("vmlinuz-6.1", "quiet", 1);
        let original = EventLog::parse(&bytes).unwrap();
        let mut shorter = 0;
        for end in 0..bytes.len() {
            match EventLog::parse(&bytes[..end]) {
                Ok(log) => {
                    shorter += 1;
                    assert!(log.events().len() < original.events().len());
                    assert_ne!(log.replay(), original.replay());
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(["end", "left", "long"].iter().any(|why| text.contains(why)), "{text}");
                }
            }
        }
        assert_eq!(shorter, original.events().len());
    }

    #[test]
    fn invalid_header_is_rejected() {
        assert_rejected(b"", "ends within its header");
        assert_rejected(&[0; 4096], "no Spec ID Event03");
        let old = EventLogBuilder { bytes: Vec::new() }
            .u32s(&[0, event_types::S_CRTM_VERSION])
            .raw(&[7; 20])
            .sized_data(b"1.0");
        assert_rejected(&old.bytes, "SHA-1 digests alone");
        assert_rejected(&EventLogBuilder::with_banks(&[(4, 20)]).bytes, "enable the TPM's SHA-256 bank");
        assert_rejected(&EventLogBuilder::with_banks(&[(11, 32), (11, 32)]).bytes, "0x000b twice");
        assert_rejected(&EventLogBuilder::with_banks(&[(11, 20)]).bytes, "20 bytes, not 32");
        assert_rejected(&EventLogBuilder::with_banks(&[]).bytes, "lists 0 algorithms");
        let many: Vec<_> = (0..17).map(|algorithm| (algorithm, 32)).collect();
        assert_rejected(&EventLogBuilder::with_banks(&many).bytes, "lists 17 algorithms");
        let mut vendor = EventLogBuilder::new().bytes;
        let at = vendor.len() - 4;
        vendor[at] = 200;
        assert_rejected(&vendor, "vendor information");
    }

    #[test]
    fn invalid_event_is_rejected() {
        let one = |sample: EventLogBuilder| sample.raw(&[0; 32]).sized_data(b"").bytes;
        assert_rejected(&EventLogBuilder::new().event(24, event_types::IPL, [0; 32], b"").bytes, "no PCR 24");
        assert_rejected(
            &EventLogBuilder::new().u32s(&[0, 1, 3]).bytes,
            "3 digests, where the header lists 2",
        );
        assert_rejected(
            &one(EventLogBuilder::new().u32s(&[0, 1, 1]).raw(&[12, 0])),
            "0x000c, which the header lacks",
        );
        assert_rejected(
            &one(EventLogBuilder::new().u32s(&[0, 1, 2]).raw(&[11, 0]).raw(&[0; 32]).raw(&[11, 0])),
            "two digests",
        );
        assert_rejected(
            &EventLogBuilder::new().u32s(&[0, 1, 1]).raw(&[4, 0]).raw(&[0; 20]).sized_data(b"").bytes,
            "no SHA-256 digest",
        );
        let long = EventLogBuilder::new().u32s(&[0, 1, 1]).raw(&[11, 0]).raw(&[0; 32]).u32s(&[u32::MAX]);
        assert_rejected(&long.raw(b"data").bytes, "4294967295 bytes of data, where 4 bytes are left");
        let start = |locality| {
            EventLogBuilder::new().event(
                0,
                event_types::NO_ACTION,
                [0; 32],
                &[b"StartupLocality\0", &[locality][..]].concat(),
            )
        };
        assert_rejected(&start(1).bytes, "from locality 1");
        assert_rejected(
            &start(3).event(0, event_types::NO_ACTION, [0; 32], b"StartupLocality\0\0").bytes,
            "second StartupLocality",
        );
    }

    #[test]
    fn unknown_banks_are_skipped() {
        let log = EventLogBuilder::with_banks(&[(0x7001, 5), (11, 32), (0x7002, 0)]).u32s(&[4, 5, 3]);
        let log = log
            .raw(&[1, 0x70])
            .raw(&[9; 5])
            .raw(&[2, 0x70])
            .raw(&[11, 0])
            .raw(&sha256(b"it"))
            .sized_data(b"it");
        assert_eq!(EventLog::parse(&log.bytes).unwrap().events()[0].content(), EventContent::Proven(b"it"));
    }

    #[test]
    fn only_padding_may_follow_the_events() {
        let sample = || EventLogBuilder::new().measure(4, event_types::ACTION, b"it");
        for length in [1, 3, 8, 4096] {
            assert_eq!(EventLog::parse(&sample().raw(&vec![0xff; length]).bytes).unwrap().events().len(), 1);
            assert_rejected(&sample().raw(&vec![0; length]).bytes, "");
        }
        assert_rejected(&sample().raw(&[0xff; 100]).raw(b"x").bytes, "no PCR 4294967295");
    }

    #[test]
    fn sizes_are_bounded() {
        assert_rejected(&vec![0; MAX_LOG_SIZE + 1], "longer than 16 MiB");
        let event = EventLogBuilder { bytes: Vec::new() }.measure(4, event_types::ACTION, b"").bytes;
        let full = EventLogBuilder::new().raw(&event.repeat(MAX_EVENTS));
        assert_eq!(EventLog::parse(&full.bytes).unwrap().events().len(), MAX_EVENTS);
        assert_rejected(&full.raw(&event).bytes, "more than 65,536 events");
    }
}
