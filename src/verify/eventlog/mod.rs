//! The log of what firmware and boot loader measured, in the crypto-agile format of the TCG PC Client Platform Firmware
//! Profile (section 10), as Linux gives it in binary_bios_measurements.
//!
//! The log is hostile: of it, only the digests that replay into a quoted PCR are proven, and data whose digest one of
//! these is. An event's type is in no digest. So what is proven is read without looking at the type, and what the type
//! says is told as a claim.

mod describe;
mod diff;
mod little_endian;
mod parse;
#[cfg(test)]
mod sample_log;
mod uefi;

use ring::digest::{SHA256, digest};

pub use describe::{describe_event, pcr_usage};
pub use diff::{EventChange, diff};
#[cfg(test)]
pub(crate) use sample_log::sample_boot_log as sample_boot;
pub use uefi::UefiVariable;

use super::Error;

pub type PcrDigest = [u8; 32];

/// A log that is well formed. Nothing in it is proven before its replay equals quoted PCRs.
#[derive(Clone, Debug)]
pub struct EventLog<'a> {
    events: Vec<BootEvent<'a>>,
    startup_locality: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEvent<'a> {
    /// Below 24, but for an event that is not extended.
    pub pcr: u32,
    /// The log's word for what this is; no digest covers it.
    pub event_type: u32,
    /// In the SHA-256 bank.
    pub digest: PcrDigest,
    pub data: &'a [u8],
}

/// How far an event's data can be believed, once the log's replay equals the quoted PCR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventContent<'a> {
    /// The digest is the SHA-256 of exactly these bytes of the data.
    Proven(&'a [u8]),
    /// The log only says so.
    Claimed(&'a [u8]),
}

impl<'a> EventLog<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<EventLog<'a>, Error> {
        parse::parse_log(bytes)
    }

    /// In the order of the log, without its header.
    pub fn events(&self) -> &[BootEvent<'a>] {
        &self.events
    }

    /// What PCRs 0 to 23 of the SHA-256 bank hold, if these events and no others were extended since the start.
    pub fn replay(&self) -> [PcrDigest; 24] {
        let mut pcrs = [[0; 32]; 24];
        // TCG PC Client Platform TPM Profile, on the attributes of PCRs: where the start came from shows in PCR 0, and that
        // there was no dynamic launch in 17 to 22. A launch sets these to zero, and only then extends them.
        pcrs[0][31] = self.startup_locality;
        for (index, pcr) in pcrs.iter_mut().enumerate().take(23).skip(17) {
            if !self.extended_events().any(|event| event.pcr as usize == index) {
                *pcr = [0xff; 32];
            }
        }
        for event in self.extended_events() {
            // The parser let no other index pass.
            if let Some(pcr) = pcrs.get_mut(event.pcr as usize) {
                *pcr = extend_pcr(pcr, &event.digest);
            }
        }
        pcrs
    }

    /// The events that are in a PCR.
    fn extended_events(&self) -> impl Iterator<Item = &BootEvent<'a>> {
        self.events.iter().filter(|event| event.is_extended())
    }
}

/// TPM 2.0 Library part 1, section 17.2: the digest of the old value and what is added.
pub(in crate::verify) fn extend_pcr(pcr: &PcrDigest, event_digest: &PcrDigest) -> PcrDigest {
    sha256(&[*pcr, *event_digest].concat())
}

pub(in crate::verify) fn sha256(bytes: &[u8]) -> PcrDigest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

impl<'a> BootEvent<'a> {
    /// EV_NO_ACTION tells something to the log's reader and is in no PCR (section 10.4.5).
    pub fn is_extended(&self) -> bool {
        self.event_type != event_types::NO_ACTION
    }

    /// Whatever the type is: for what is measured by its image or by a table in memory, no part of the data has the digest.
    pub fn content(&self) -> EventContent<'a> {
        let proven =
            self.digest_candidates().into_iter().flatten().find(|bytes| sha256(bytes) == self.digest);
        match proven {
            Some(bytes) if self.is_extended() => EventContent::Proven(bytes),
            _ => EventContent::Claimed(self.data),
        }
    }

    /// The firmware variable that this event measured, if all of it is proven, and the PCR is one for variables. What ran
    /// later can measure another of the same name: the first in a PCR is the firmware's.
    pub fn variable(&self) -> Option<UefiVariable<'a>> {
        match self.content() {
            EventContent::Proven(bytes) if bytes.len() == self.data.len() => self.parse_variable(bytes),
            _ => None,
        }
    }

    /// Variables are the configuration of firmware, drivers and boot, and what Secure Boot goes by (section 3.3.4); the
    /// same bytes elsewhere would be a file made to look like one.
    fn parse_variable(&self, bytes: &'a [u8]) -> Option<UefiVariable<'a>> {
        matches!(self.pcr, 1 | 3 | 5 | 7).then(|| UefiVariable::parse(bytes)).flatten()
    }

    /// The parts of the data that a digest may be over: all of it; text without the NUL at its end; what follows a
    /// label of GRUB's; and a variable's value, which is all that EV_EFI_VARIABLE_BOOT measures.
    fn digest_candidates(&self) -> [Option<&'a [u8]>; 4] {
        let text = self.data.strip_suffix(&[0]);
        let labelled = grub_text(self).map(|(_, text)| text);
        let value = UefiVariable::parse(self.data).map(|variable| variable.value);
        [Some(self.data), text, labelled, value]
    }
}

/// What GRUB says a text in PCR 8 is, and the text, of which alone it extends the digest.
fn grub_text<'a>(event: &BootEvent<'a>) -> Option<(&'static str, &'a [u8])> {
    const LABELS: [(&str, &str); 3] = [
        ("kernel_cmdline: ", "kernel command line"),
        ("grub_cmd: ", "boot loader command"),
        ("module_cmdline: ", "module command line"),
    ];
    let text = event.data.strip_suffix(&[0]).unwrap_or(event.data);
    let strip_label = |(label, description): (&str, &'static str)| {
        Some((description, text.strip_prefix(label.as_bytes())?))
    };
    LABELS.into_iter().find_map(strip_label).filter(|_| event.pcr == 8)
}

/// Types of events (section 10.4.1), by their names there.
mod event_types {
    pub const POST_CODE: u32 = 0x1;
    pub const NO_ACTION: u32 = 0x3;
    pub const SEPARATOR: u32 = 0x4;
    pub const ACTION: u32 = 0x5;
    pub const EVENT_TAG: u32 = 0x6;
    pub const S_CRTM_CONTENTS: u32 = 0x7;
    pub const S_CRTM_VERSION: u32 = 0x8;
    pub const CPU_MICROCODE: u32 = 0x9;
    pub const PLATFORM_CONFIG_FLAGS: u32 = 0xa;
    pub const TABLE_OF_DEVICES: u32 = 0xb;
    pub const COMPACT_HASH: u32 = 0xc;
    pub const IPL: u32 = 0xd;
    pub const IPL_PARTITION_DATA: u32 = 0xe;
    pub const POST_CODE2: u32 = 0x13;
    pub const EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
    pub const EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
    pub const EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
    pub const EFI_BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
    pub const EFI_RUNTIME_SERVICES_DRIVER: u32 = 0x8000_0005;
    pub const EFI_GPT_EVENT: u32 = 0x8000_0006;
    pub const EFI_ACTION: u32 = 0x8000_0007;
    pub const EFI_PLATFORM_FIRMWARE_BLOB: u32 = 0x8000_0008;
    pub const EFI_HANDOFF_TABLES: u32 = 0x8000_0009;
    pub const EFI_PLATFORM_FIRMWARE_BLOB2: u32 = 0x8000_000a;
    pub const EFI_HANDOFF_TABLES2: u32 = 0x8000_000b;
    pub const EFI_VARIABLE_BOOT2: u32 = 0x8000_000c;
    pub const EFI_GPT_EVENT2: u32 = 0x8000_000d;
    pub const EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::sample_log::{EventLogBuilder, sample_boot_log, variable_data};
    use super::*;

    /// The values are of another program, which knows the events and not the log.
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

    /// No byte of the log can be other than it was and the same PCRs be said to have the same content.
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
