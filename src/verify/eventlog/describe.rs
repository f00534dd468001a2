//! Descriptions of events in one line of English.

use std::fmt::Write;

use super::event::{BootEvent, EventContent};
use super::event_types;
use super::uefi::{EFI_GLOBAL_VARIABLE, UefiVariable, decode_text, image_file_path};
use crate::verify::byte_reader::{ByteOrder, ByteReader};

/// The longest text that is quoted in a description, in characters. Longer ones are truncated.
const MAX_TEXT_CHARS: usize = 200;

/// What a PCR is used for: PCRs 0 to 7 by section 3.3.4, the others by the convention of Linux (the UAPI
/// Group's TPM2 PCR registry).
pub fn pcr_usage(pcr: u32) -> &'static str {
    match pcr {
        0 => "firmware",
        1 => "firmware's configuration",
        2 => "drivers and option ROMs",
        3 => "drivers' configuration",
        4 => "boot loader",
        5 => "partition table, boot loader's configuration",
        6 => "for the platform manufacturer",
        7 => "Secure Boot",
        8 => "boot loader's commands, kernel command line",
        9 => "files of the boot loader, kernel, initrd",
        10 => "IMA",
        11 => "unified kernel image",
        12 => "kernel command line",
        13 => "system extensions",
        14 => "shim's keys",
        15 => "system identity",
        17..=22 => "dynamic launch",
        _ => "no fixed use",
    }
}

/// Describes an event in one line without control characters.
///
/// The line ends in "(not proven)" unless the event's digest covers what it says, and names the part that is
/// not covered. Proven data is described without use of the event's type, which is a claim.
pub fn describe_event(event: &BootEvent<'_>) -> String {
    match event.content() {
        EventContent::Proven(bytes) if bytes.len() == event.data.len() => describe_proven(event, bytes),
        EventContent::Proven(bytes) => describe_partly_proven(event, bytes),
        EventContent::Claimed(_) => format!("{} (not proven)", describe_claimed(event)),
    }
}

fn describe_proven<'a>(event: &BootEvent<'a>, bytes: &'a [u8]) -> String {
    if let Some(variable) = event.parse_variable(bytes) {
        return describe_variable(event.pcr, &variable);
    }
    // Section 10.4.1: EV_SEPARATOR marks the end of the firmware's measurements in each of its PCRs.
    if event.pcr < 8 && [[0; 4], [0xff; 4]].iter().any(|separator| bytes == separator) {
        return "separator, the end of the firmware's part".into();
    }
    if event.pcr == 5 && bytes.starts_with(b"EFI PART") {
        return format!("partition table, {} bytes", bytes.len());
    }
    let Some(text) = decode_text(bytes) else {
        return format!("{} bytes of data", bytes.len());
    };
    let label = match event.pcr {
        0 => "firmware text",
        1..=7 => "firmware's step",
        12 => "kernel command line",
        _ => "boot loader's text",
    };
    format!("{label} {}", quote(&text))
}

fn describe_partly_proven(event: &BootEvent<'_>, bytes: &[u8]) -> String {
    if let Some((label, text)) = event.grub_text().filter(|(_, text)| *text == bytes) {
        return format!("{label} {} (the text; its label not proven)", quote(&String::from_utf8_lossy(text)));
    }
    match UefiVariable::parse(event.data) {
        Some(variable) if variable.value == bytes => {
            format!("{} (the value; its name not proven)", describe_variable(event.pcr, &variable))
        }
        _ => describe_proven(event, bytes),
    }
}

/// Describes an event by its type and data, as the log claims them.
fn describe_claimed(event: &BootEvent<'_>) -> String {
    let data = event.data;
    match event.event_type {
        // A signature that ends in NUL, then data.
        event_types::NO_ACTION => label_with_text(
            "note to readers of the log",
            data.split(|byte| *byte == 0).next().unwrap_or_default(),
        ),
        event_types::SEPARATOR => "separator".into(),
        event_types::POST_CODE | event_types::S_CRTM_CONTENTS | event_types::S_CRTM_VERSION => {
            label_with_text("firmware", data)
        }
        event_types::EFI_PLATFORM_FIRMWARE_BLOB => "firmware".into(),
        // A description, prefixed by its length, then addresses.
        event_types::EFI_PLATFORM_FIRMWARE_BLOB2 | event_types::POST_CODE2 => {
            label_with_text("firmware", length_prefixed(data))
        }
        event_types::EFI_HANDOFF_TABLES => "firmware's tables".into(),
        event_types::EFI_HANDOFF_TABLES2 => label_with_text("firmware's tables", length_prefixed(data)),
        event_types::CPU_MICROCODE => label_with_text("processor's microcode", data),
        event_types::PLATFORM_CONFIG_FLAGS | event_types::TABLE_OF_DEVICES => {
            "firmware's configuration".into()
        }
        event_types::ACTION | event_types::EFI_ACTION => label_with_text("firmware's step", data),
        event_types::EFI_VARIABLE_DRIVER_CONFIG
        | event_types::EFI_VARIABLE_BOOT
        | event_types::EFI_VARIABLE_BOOT2
        | event_types::EFI_VARIABLE_AUTHORITY => match UefiVariable::parse(data) {
            Some(variable) => describe_variable(event.pcr, &variable),
            None => "firmware variable".into(),
        },
        event_types::EFI_BOOT_SERVICES_APPLICATION => describe_image("boot loader or kernel", data),
        event_types::EFI_BOOT_SERVICES_DRIVER | event_types::EFI_RUNTIME_SERVICES_DRIVER => {
            describe_image("driver", data)
        }
        event_types::EFI_GPT_EVENT | event_types::EFI_GPT_EVENT2 => "partition table".into(),
        event_types::IPL | event_types::IPL_PARTITION_DATA | event_types::COMPACT_HASH => {
            describe_boot_loader(event)
        }
        event_types::EVENT_TAG => describe_tagged_event(event),
        other => format!("event of type {other:#x}"),
    }
}

fn describe_variable(pcr: u32, variable: &UefiVariable<'_>) -> String {
    let mut description = match pcr {
        7 => format!("Secure Boot variable {}", quote(&variable.name)),
        _ => format!("firmware variable {}", quote(&variable.name)),
    };
    // Writing to a String does not fail.
    let _ = match (variable.vendor.as_str(), variable.name.as_str(), variable.value) {
        (EFI_GLOBAL_VARIABLE, "SecureBoot" | "SetupMode" | "AuditMode" | "DeployedMode", [0]) => {
            write!(description, " = off")
        }
        (EFI_GLOBAL_VARIABLE, "SecureBoot" | "SetupMode" | "AuditMode" | "DeployedMode", [1]) => {
            write!(description, " = on")
        }
        (_, _, value) => write!(description, ", {} bytes", value.len()),
    };
    description
}

fn describe_image(label: &str, data: &[u8]) -> String {
    match image_file_path(data) {
        Some(file) => format!("{label} {}", quote(&file)),
        None => label.into(),
    }
}

/// Describes an event of GRUB, shim or systemd's boot programs, which log the names of what they measured.
fn describe_boot_loader(event: &BootEvent<'_>) -> String {
    if let Some((label, text)) = event.grub_text() {
        return format!("{label} {}", quote(&String::from_utf8_lossy(text)));
    }
    let Some(name) = decode_text(event.data) else {
        return "boot loader's data".into();
    };
    let file = name.rsplit(['/', ')']).next().unwrap_or(&name);
    let starts_with_any = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.starts_with(prefix));
    let label = match event.pcr {
        9 if starts_with_any(&["vmlinu", "linux", "bzImage", "kernel"]) => "kernel",
        9 if starts_with_any(&["initrd", "initramfs"]) => "initrd",
        9 => "file of the boot loader",
        11 => "part of the unified kernel image",
        12 => "kernel command line",
        14 => "shim's variable",
        _ => "boot loader's data",
    };
    format!("{label} {}", quote(&name))
}

/// Describes a TCG_PCClientTaggedEvent (section 10.4.2). Linux has two of them
/// (drivers/firmware/efi/libstub/efistub.h).
fn describe_tagged_event(event: &BootEvent<'_>) -> String {
    let mut reader = ByteReader::new(event.data, ByteOrder::Little);
    match (event.pcr, reader.u32()) {
        (9, Some(0x8f3b_22ec)) => "initrd, as loaded by the kernel".into(),
        (9, Some(0x8f3b_22ed)) => "kernel command line, as passed to the kernel".into(),
        _ => format!("tagged event of {} bytes", event.data.len()),
    }
}

/// The bytes that follow a length of one byte; empty where fewer are left.
fn length_prefixed(data: &[u8]) -> &[u8] {
    let mut reader = ByteReader::new(data, ByteOrder::Little);
    reader.u8().and_then(|length| reader.take(length.into())).unwrap_or_default()
}

fn label_with_text(label: &str, data: &[u8]) -> String {
    match decode_text(data) {
        Some(text) => format!("{label} {}", quote(&text)),
        None => label.into(),
    }
}

/// Puts untrusted text in quotation marks, truncated to [`MAX_TEXT_CHARS`] and with control characters
/// escaped.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for (count, c) in text.chars().enumerate() {
        if count == MAX_TEXT_CHARS {
            out.push('…');
            break;
        }
        match c {
            '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::log::EventLog;
    use super::super::sample_log::{EventLogBuilder, sample_boot_log};
    use super::*;
    use crate::digest::sha256;

    #[test]
    fn sample_boot_is_described() {
        let bytes = sample_boot_log("vmlinuz-6.1", "quiet", 1);
        let log = EventLog::parse(&bytes).unwrap();
        let described: Vec<String> =
            log.events().iter().map(|event| format!("{} {}", event.pcr, describe_event(event))).collect();
        let expected = [
            r#"0 note to readers of the log "StartupLocality" (not proven)"#,
            r#"0 firmware text "1.0""#,
            r#"0 firmware "Main volume" (not proven)"#,
            r#"7 Secure Boot variable "SecureBoot" = on"#,
            r#"7 Secure Boot variable "db", 4 bytes"#,
            "7 separator, the end of the firmware's part",
            r#"1 firmware variable "BootOrder", 2 bytes (the value; its name not proven)"#,
            r#"4 firmware's step "Calling EFI Application from Boot Option""#,
            "4 separator, the end of the firmware's part",
            r#"4 boot loader or kernel "/EFI/debian/shimx64.efi" (not proven)"#,
            r#"8 boot loader command "linux /vmlinuz-6.1" (the text; its label not proven)"#,
            r#"9 kernel "(hd0,gpt2)/vmlinuz-6.1" (not proven)"#,
            r#"8 kernel command line "quiet" (the text; its label not proven)"#,
            r#"9 initrd "(hd0,gpt2)/initrd.img-6.1" (not proven)"#,
            r#"12 kernel command line "quiet""#,
            "9 initrd, as loaded by the kernel (not proven)",
            r#"5 firmware's step "Exit Boot Services Invocation""#,
        ];
        assert_eq!(described, expected);
    }

    /// The sender of a log can write any type and any data into it.
    #[test]
    fn forged_types_and_data_are_not_proven() {
        let expected = EventLog::parse(&sample_boot_log("vmlinuz-6.1", "quiet", 1)).unwrap().replay();
        let kinds =
            [0, 1, 4, 5, 6, 7, 8, 9, 10, 12, 13, 19, 0x8000_0001, 0x8000_0003, 0x8000_0006, 0x8000_00e0];
        for forged_type in kinds {
            let bytes = sample_boot_log("vmlinuz-6.1", "quiet", 1);
            let original = EventLog::parse(&bytes).unwrap();
            let mut forged = EventLogBuilder::new();
            let mut forged_data = EventLogBuilder::new();
            for event in original.events() {
                let kind = if event.is_extended() { forged_type } else { event.event_type };
                forged = forged.event(event.pcr, kind, event.digest, event.data);
                let data = if event.is_extended() { b"\x08linux-9.9" } else { event.data };
                forged_data = forged_data.event(event.pcr, kind, event.digest, data);
            }
            let log = EventLog::parse(&forged.bytes).unwrap();
            assert_eq!(log.replay(), expected);
            for (event, forged_event) in original.events().iter().zip(log.events()) {
                match event.content() {
                    EventContent::Proven(_) => {
                        assert_eq!(describe_event(event), describe_event(forged_event))
                    }
                    EventContent::Claimed(_) => assert!(
                        describe_event(forged_event).ends_with("(not proven)"),
                        "{}",
                        describe_event(forged_event)
                    ),
                }
            }
            let log = EventLog::parse(&forged_data.bytes).unwrap();
            assert_eq!(log.replay(), expected);
            for forged_event in log.events() {
                assert_eq!(forged_event.variable(), None);
                assert!(
                    describe_event(forged_event).ends_with("(not proven)"),
                    "{}",
                    describe_event(forged_event)
                );
            }
        }
    }

    #[test]
    fn file_resembling_a_variable_is_not_one() {
        let data = super::super::sample_log::variable_data("SecureBoot", &[1]);
        let bytes = EventLogBuilder::new().measure(9, event_types::EFI_VARIABLE_DRIVER_CONFIG, &data).bytes;
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(log.events()[0].content(), EventContent::Proven(&data));
        assert_eq!(log.events()[0].variable(), None);
        assert_eq!(describe_event(&log.events()[0]), "53 bytes of data");
    }

    #[test]
    fn hostile_text_is_escaped() {
        let data = "\u{1b}[2J\n\u{202e}\" and more".as_bytes();
        let long = [b'a'; 5000];
        let bytes = EventLogBuilder::new()
            .measure(4, event_types::EFI_ACTION, data)
            .event(9, event_types::IPL, sha256(b""), &long)
            .bytes;
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(describe_event(&log.events()[0]), r#"firmware's step "\u{1b}[2J\n\u{202e}\" and more""#);
        assert!(describe_event(&log.events()[1]).chars().count() < 250);
    }
}
