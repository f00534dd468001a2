//! A parsed log, and its replay.

use super::event::BootEvent;
use crate::verify::pcr::{PcrDigest, extend_pcr};

/// A well-formed log. Its digests are proven only if [`EventLog::replay`] gives the values of quoted PCRs.
#[derive(Clone, Debug)]
pub struct EventLog<'a> {
    pub(super) events: Vec<BootEvent<'a>>,
    /// The locality of `TPM2_Startup` (0, 3 or 4), which is the initial value of PCR 0.
    pub(super) startup_locality: u8,
}

impl<'a> EventLog<'a> {
    /// The events in the order of the log, without its header.
    pub fn events(&self) -> &[BootEvent<'a>] {
        &self.events
    }

    /// The values of PCRs 0 to 23 of the SHA-256 bank, if exactly these events were extended since the TPM's
    /// start.
    pub fn replay(&self) -> [PcrDigest; 24] {
        let mut pcrs = [[0; 32]; 24];
        // TCG PC Client Platform TPM Profile, attributes of PCRs: the start sets PCR 0 to the locality that
        // it came from, and PCRs 17 to 22 to ones. A dynamic launch sets these to zero before it extends
        // them.
        pcrs[0][31] = self.startup_locality;
        for (index, pcr) in pcrs.iter_mut().enumerate().take(23).skip(17) {
            if !self.extended_events().any(|event| event.pcr as usize == index) {
                *pcr = [0xff; 32];
            }
        }
        for event in self.extended_events() {
            // The parser rejects every other index.
            if let Some(pcr) = pcrs.get_mut(event.pcr as usize) {
                *pcr = extend_pcr(pcr, &event.digest);
            }
        }
        pcrs
    }

    /// The events that extended a PCR.
    pub(super) fn extended_events(&self) -> impl Iterator<Item = &BootEvent<'a>> {
        self.events.iter().filter(|event| event.is_extended())
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::super::event::EventContent;
    use super::super::event_types;
    use super::super::sample_log::{EventLogBuilder, sample_boot_log, variable_data};
    use super::*;
    use crate::digest::sha256;

    /// The expected values were computed by another program, from the events rather than from the log.
    #[test]
    fn replay_matches_tpm_pcrs() {
        let bytes = sample_boot_log("vmlinuz-6.1", "quiet", 1);
        let pcrs = EventLog::parse(&bytes).unwrap().replay();
        let expected = [
            (0, "7e5f0a55367f74d861c4c894d34af0b8fffa32334947494686807d9be0e1a504"),
            (1, "1e821c510eb0013cc4ac309f3ff2bae2f2e515a8a12c54ead3592d7f7158495d"),
            (4, "5af886914a968256c85853849dedaa4c160002e49ae62a9e624d6f2bbaf0118f"),
            (5, "3411834de5a5cd9c37411d5d8e529ad2cb1f559cf75d6cd7879dd45978a72635"),
            (7, "570b85c410f04a2273a53e5f7de2a26aa4e98e3e2836fd2151e0b376c8212bd9"),
            (8, "7f49b1e617cd87a4c5469ad927565af0c7aca1933920433b8a9a121a80d60d2b"),
            (9, "d7937720e0e87856a2df1c17b17c0ccb5e96476bd9dcfacf44bdb981a0412f67"),
            (12, "f04f2f39d747478ae9de1d1976be8fde626487c0ec0407a26836a08c6a4a1b5c"),
        ];
        for (index, value) in expected {
            assert_eq!(HEXLOWER.encode(&pcrs[index]), value, "PCR {index}");
        }
        for (index, pcr) in
            pcrs.iter().enumerate().filter(|(index, _)| !expected.iter().any(|(k, _)| k == index))
        {
            let start = if (17..23).contains(&index) { 0xff } else { 0 };
            assert_eq!(pcr, &[start; 32], "PCR {index}");
        }
    }

    #[test]
    fn dynamic_launch_starts_from_zero() {
        let bytes = EventLogBuilder::new().measure(17, event_types::ACTION, b"launch").bytes;
        let pcrs = EventLog::parse(&bytes).unwrap().replay();
        assert_eq!(pcrs[17], sha256(&[[0; 32], sha256(b"launch")].concat()));
        assert_eq!(pcrs[18], [0xff; 32]);
    }

    /// After any change of one byte the replay differs, or no event has other proven content.
    #[test]
    fn changed_byte_yields_no_other_proven_content() {
        let bytes = sample_boot_log("vmlinuz-6.1", "quiet", 1);
        let original = EventLog::parse(&bytes).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x80;
            let Ok(log) = EventLog::parse(&changed) else { continue };
            if log.replay() != original.replay() {
                continue;
            }
            let proven = |event: &BootEvent<'_>| match event.content() {
                EventContent::Proven(bytes) => Some(bytes.to_vec()),
                EventContent::Claimed(_) => None,
            };
            for (now, then) in log.extended_events().zip(original.extended_events()) {
                assert!(proven(now).is_none() || proven(now) == proven(then), "byte {at}");
            }
        }
    }

    #[test]
    fn variable_is_returned_only_if_proven() {
        let data = variable_data("SecureBoot", &[1]);
        let bytes = EventLogBuilder::new()
            .measure(7, event_types::EFI_VARIABLE_DRIVER_CONFIG, &data)
            .event(7, event_types::EFI_VARIABLE_DRIVER_CONFIG, [1; 32], &data)
            .event(7, event_types::EFI_VARIABLE_BOOT, sha256(&[1]), &data)
            .event(7, event_types::NO_ACTION, sha256(&data), &data)
            .bytes;
        let log = EventLog::parse(&bytes).unwrap();
        let names: Vec<_> = log.events().iter().map(|event| event.variable().map(|v| v.name)).collect();
        assert_eq!(names, [Some("SecureBoot".to_owned()), None, None, None]);
        let contents: Vec<_> = log.events().iter().map(BootEvent::content).collect();
        let claimed = EventContent::Claimed(&data);
        assert_eq!(contents, [EventContent::Proven(&data), claimed, EventContent::Proven(&[1]), claimed]);
    }
}
