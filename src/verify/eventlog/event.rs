//! One event of the log, and how much of it its digest proves.

use super::event_types;
use super::uefi::UefiVariable;
use crate::digest::sha256;
use crate::verify::pcr::PcrDigest;

/// One event of a boot event log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEvent<'a> {
    /// The PCR that the event extended: below 24, except in an event that extends none.
    pub pcr: u32,
    /// What the event is about, as the log claims: an EV_ number of section 10.4.1. No digest covers it.
    pub event_type: u32,
    /// The digest that the SHA-256 bank was extended with.
    pub digest: PcrDigest,
    /// The event's data, as the log claims. See [`BootEvent::content`].
    pub data: &'a [u8],
}

/// How far an event's data can be relied on once the replay of the log equals the quoted PCR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventContent<'a> {
    /// The event's digest is the SHA-256 of exactly these bytes, which are all of the data or a part of it.
    Proven(&'a [u8]),
    /// No part of the data has the event's digest, so that the data is only a claim of the log.
    Claimed(&'a [u8]),
}

impl<'a> BootEvent<'a> {
    /// Whether the event extended a PCR. An EV_NO_ACTION event is a note to readers of the log (section
    /// 10.4.5).
    pub fn is_extended(&self) -> bool {
        self.event_type != event_types::NO_ACTION
    }

    /// What the digest proves of the data, whatever the event's type is.
    ///
    /// An event that measured an executable image, or a table in memory, proves no part of its data.
    pub fn content(&self) -> EventContent<'a> {
        let proven =
            self.digest_candidates().into_iter().flatten().find(|bytes| sha256(bytes) == self.digest);
        match proven {
            Some(bytes) if self.is_extended() => EventContent::Proven(bytes),
            _ => EventContent::Claimed(self.data),
        }
    }

    /// The firmware variable that this event measured, if the digest covers all of it and the PCR is one for
    /// variables.
    ///
    /// Software that runs after the firmware can measure a variable of the same name: the first in a PCR is
    /// the firmware's.
    pub fn variable(&self) -> Option<UefiVariable<'a>> {
        match self.content() {
            EventContent::Proven(bytes) if bytes.len() == self.data.len() => self.parse_variable(bytes),
            _ => None,
        }
    }

    /// Reads a variable in the PCRs for the configuration of firmware, drivers and boot, and for Secure Boot
    /// (section 3.3.4). The same bytes in another PCR can be a file that was made to resemble a variable.
    pub(super) fn parse_variable(&self, bytes: &'a [u8]) -> Option<UefiVariable<'a>> {
        matches!(self.pcr, 1 | 3 | 5 | 7).then(|| UefiVariable::parse(bytes)).flatten()
    }

    /// The text that GRUB measured into PCR 8, after a label of GRUB's, and what the label means. GRUB
    /// extends the digest of the text alone.
    pub(super) fn grub_text(&self) -> Option<(&'static str, &'a [u8])> {
        const LABELS: [(&str, &str); 3] = [
            ("kernel_cmdline: ", "kernel command line"),
            ("grub_cmd: ", "boot loader command"),
            ("module_cmdline: ", "module command line"),
        ];
        if self.pcr != 8 {
            return None;
        }
        let text = self.data.strip_suffix(&[0]).unwrap_or(self.data);
        LABELS
            .into_iter()
            .find_map(|(label, description)| Some((description, text.strip_prefix(label.as_bytes())?)))
    }

    /// The parts of the data that a digest may be over: all of it; text without the NUL at its end; what
    /// follows a label of GRUB's; and a variable's value, which is all that EV_EFI_VARIABLE_BOOT measures.
    fn digest_candidates(&self) -> [Option<&'a [u8]>; 4] {
        let text = self.data.strip_suffix(&[0]);
        let labelled = self.grub_text().map(|(_, text)| text);
        let value = UefiVariable::parse(self.data).map(|variable| variable.value);
        [Some(self.data), text, labelled, value]
    }
}
