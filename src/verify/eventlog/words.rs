//! Events of the boot log in words for people.

use std::fmt::Write;

use super::fields::Fields;
use super::uefi::{GLOBAL, Variable, image_file, text};
use super::{Content, Event, grub, kind};

/// Longer texts are cut: a line is to be read.
const LONGEST: usize = 200;

/// What a PCR is for: 0 to 7 by the TCG PC Client Platform Firmware Profile, section 3.3.4, the others by the custom of
/// Linux (the UAPI group's registry of PCRs).
pub fn area(pcr: u32) -> &'static str {
    match pcr {
        0 => "firmware",
        1 => "firmware's configuration",
        2 => "drivers and option ROMs",
        3 => "drivers' configuration",
        4 => "boot loader",
        5 => "partition table, boot loader's configuration",
        6 => "of the machine's maker",
        7 => "Secure Boot",
        8 => "boot loader's commands, kernel command line",
        9 => "files of the boot loader, kernel, initrd",
        10 => "IMA",
        11 => "unified kernel image",
        12 => "kernel command line",
        13 => "system extensions",
        14 => "shim's keys",
        15 => "identity of the system",
        17..=22 => "dynamic launch",
        _ => "of no fixed use",
    }
}

/// One line that says what an event is. It ends in "not proven" unless the digest covers all that it says; what is proven
/// is said without looking at the event's type.
pub fn words(event: &Event<'_>) -> String {
    match event.content() {
        Content::Proven(bytes) if bytes.len() == event.data.len() => proven(event, bytes),
        Content::Proven(bytes) => partly_proven(event, bytes),
        Content::Claimed(_) => format!("{} (not proven)", claimed(event)),
    }
}

fn proven<'a>(event: &Event<'a>, bytes: &'a [u8]) -> String {
    if let Some(variable) = event.variable_in(bytes) {
        return variable_words(event.pcr, &variable);
    }
    // Section 10.4.1: what ends the firmware's part of each of its PCRs.
    if event.pcr < 8 && [[0; 4], [0xff; 4]].iter().any(|separator| bytes == separator) {
        return "separator, where the firmware's part ends".into();
    }
    if event.pcr == 5 && bytes.starts_with(b"EFI PART") {
        return format!("partition table, {} bytes", bytes.len());
    }
    let Some(text) = text(bytes) else {
        return format!("{} bytes of data", bytes.len());
    };
    let what = match event.pcr {
        0 => "firmware text",
        1..=7 => "firmware's step",
        12 => "kernel command line",
        _ => "boot loader's text",
    };
    format!("{what} {}", quoted(&text))
}

fn partly_proven(event: &Event<'_>, bytes: &[u8]) -> String {
    if let Some((label, text)) = grub(event).filter(|(_, text)| *text == bytes) {
        return format!(
            "{label} {} (the text; which it is, not proven)",
            quoted(&String::from_utf8_lossy(text))
        );
    }
    match Variable::parse(event.data) {
        Some(variable) if variable.value == bytes => {
            format!("{} (the value; its name not proven)", variable_words(event.pcr, &variable))
        }
        _ => proven(event, bytes),
    }
}

/// By what the log says it is.
fn claimed(event: &Event<'_>) -> String {
    let data = event.data;
    match event.kind {
        // A signature, then what it says.
        kind::NO_ACTION => {
            with_text("note to readers of the log", data.split(|byte| *byte == 0).next().unwrap_or_default())
        }
        kind::SEPARATOR => "separator".into(),
        kind::POST_CODE | kind::S_CRTM_CONTENTS | kind::S_CRTM_VERSION => with_text("firmware", data),
        kind::EFI_PLATFORM_FIRMWARE_BLOB => "firmware".into(),
        // A description with its length before it, then addresses.
        kind::EFI_PLATFORM_FIRMWARE_BLOB2 | kind::POST_CODE2 => with_text("firmware", counted(data)),
        kind::EFI_HANDOFF_TABLES => "firmware's tables".into(),
        kind::EFI_HANDOFF_TABLES2 => with_text("firmware's tables", counted(data)),
        kind::CPU_MICROCODE => with_text("processor's microcode", data),
        kind::PLATFORM_CONFIG_FLAGS | kind::TABLE_OF_DEVICES => "firmware's configuration".into(),
        kind::ACTION | kind::EFI_ACTION => with_text("firmware's step", data),
        kind::EFI_VARIABLE_DRIVER_CONFIG
        | kind::EFI_VARIABLE_BOOT
        | kind::EFI_VARIABLE_BOOT2
        | kind::EFI_VARIABLE_AUTHORITY => match Variable::parse(data) {
            Some(variable) => variable_words(event.pcr, &variable),
            None => "firmware variable".into(),
        },
        kind::EFI_BOOT_SERVICES_APPLICATION => image("boot loader or kernel", data),
        kind::EFI_BOOT_SERVICES_DRIVER | kind::EFI_RUNTIME_SERVICES_DRIVER => image("driver", data),
        kind::EFI_GPT_EVENT | kind::EFI_GPT_EVENT2 => "partition table".into(),
        kind::IPL | kind::IPL_PARTITION_DATA | kind::COMPACT_HASH => boot_loader(event),
        kind::EVENT_TAG => tagged(event),
        other => format!("event of type {other:#x}"),
    }
}

fn variable_words(pcr: u32, variable: &Variable<'_>) -> String {
    let mut words = match pcr {
        7 => format!("Secure Boot variable {}", quoted(&variable.name)),
        _ => format!("firmware variable {}", quoted(&variable.name)),
    };
    // Writing to a String does not fail.
    let _ = match (variable.vendor.as_str(), variable.name.as_str(), variable.value) {
        (GLOBAL, "SecureBoot" | "SetupMode" | "AuditMode" | "DeployedMode", [0]) => write!(words, " = off"),
        (GLOBAL, "SecureBoot" | "SetupMode" | "AuditMode" | "DeployedMode", [1]) => write!(words, " = on"),
        (_, _, value) => write!(words, ", {} bytes", value.len()),
    };
    words
}

fn image(what: &str, data: &[u8]) -> String {
    match image_file(data) {
        Some(file) => format!("{what} {}", quoted(&file)),
        None => what.into(),
    }
}

/// What GRUB, shim and systemd's boot programs log: names of what they measured.
fn boot_loader(event: &Event<'_>) -> String {
    if let Some((label, text)) = grub(event) {
        return format!("{label} {}", quoted(&String::from_utf8_lossy(text)));
    }
    let Some(name) = text(event.data) else {
        return "boot loader's data".into();
    };
    let file = name.rsplit(['/', ')']).next().unwrap_or(&name);
    let begins = |with: &[&str]| with.iter().any(|begin| file.starts_with(begin));
    let what = match event.pcr {
        9 if begins(&["vmlinu", "linux", "bzImage", "kernel"]) => "kernel",
        9 if begins(&["initrd", "initramfs"]) => "initrd",
        9 => "file of the boot loader",
        11 => "part of the unified kernel image",
        12 => "kernel command line",
        14 => "shim's variable",
        _ => "boot loader's data",
    };
    format!("{what} {}", quoted(&name))
}

/// TCG_PCClientTaggedEvent (section 10.4.2), of which Linux uses two (drivers/firmware/efi/libstub/efistub.h).
fn tagged(event: &Event<'_>) -> String {
    let mut fields = Fields::new(event.data);
    match (event.pcr, fields.u32()) {
        (9, Some(0x8f3b_22ec)) => "initrd, as the kernel loaded it".into(),
        (9, Some(0x8f3b_22ed)) => "kernel command line, as the kernel was given it".into(),
        _ => format!("tagged event of {} bytes", event.data.len()),
    }
}

/// What follows a byte that gives its length.
fn counted(data: &[u8]) -> &[u8] {
    let mut fields = Fields::new(data);
    fields.u8().and_then(|length| fields.take(length.into())).unwrap_or_default()
}

fn with_text(what: &str, data: &[u8]) -> String {
    match text(data) {
        Some(text) => format!("{what} {}", quoted(&text)),
        None => what.into(),
    }
}

/// In quotation marks, and harmless to a terminal.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for (count, letter) in text.chars().enumerate() {
        if count == LONGEST {
            out.push('…');
            break;
        }
        match letter {
            '\'' => out.push(letter),
            _ => out.extend(letter.escape_debug()),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Sample, boot};
    use super::super::{Log, sha256};
    use super::*;

    #[test]
    fn a_boot_in_words() {
        let bytes = boot("vmlinuz-6.1", "quiet", 1);
        let log = Log::parse(&bytes).unwrap();
        let said: Vec<String> =
            log.events().iter().map(|event| format!("{} {}", event.pcr, words(event))).collect();
        let expected = [
            r#"0 note to readers of the log "StartupLocality" (not proven)"#,
            r#"0 firmware text "1.0""#,
            r#"0 firmware "Main volume" (not proven)"#,
            r#"7 Secure Boot variable "SecureBoot" = on"#,
            r#"7 Secure Boot variable "db", 4 bytes"#,
            "7 separator, where the firmware's part ends",
            r#"1 firmware variable "BootOrder", 2 bytes (the value; its name not proven)"#,
            r#"4 firmware's step "Calling EFI Application from Boot Option""#,
            "4 separator, where the firmware's part ends",
            r#"4 boot loader or kernel "/EFI/debian/shimx64.efi" (not proven)"#,
            r#"8 boot loader command "linux /vmlinuz-6.1" (the text; which it is, not proven)"#,
            r#"9 kernel "(hd0,gpt2)/vmlinuz-6.1" (not proven)"#,
            r#"8 kernel command line "quiet" (the text; which it is, not proven)"#,
            r#"9 initrd "(hd0,gpt2)/initrd.img-6.1" (not proven)"#,
            r#"12 kernel command line "quiet""#,
            "9 initrd, as the kernel loaded it (not proven)",
            r#"5 firmware's step "Exit Boot Services Invocation""#,
        ];
        assert_eq!(said, expected);
    }

    /// Whoever holds the log can write any type and any data into it.
    #[test]
    fn lies_about_type_and_data_prove_nothing() {
        let truth = Log::parse(&boot("vmlinuz-6.1", "quiet", 1)).unwrap().replay();
        let kinds =
            [0, 1, 4, 5, 6, 7, 8, 9, 10, 12, 13, 19, 0x8000_0001, 0x8000_0003, 0x8000_0006, 0x8000_00e0];
        for lie in kinds {
            let bytes = boot("vmlinuz-6.1", "quiet", 1);
            let honest = Log::parse(&bytes).unwrap();
            let mut lying = Sample::new();
            let mut lying_data = Sample::new();
            for event in honest.events() {
                let kind = if event.is_extended() { lie } else { event.kind };
                lying = lying.event(event.pcr, kind, event.digest, event.data);
                let data = if event.is_extended() { b"\x08linux-9.9" } else { event.data };
                lying_data = lying_data.event(event.pcr, kind, event.digest, data);
            }
            let log = Log::parse(&lying.bytes).unwrap();
            assert_eq!(log.replay(), truth);
            for (event, lied) in honest.events().iter().zip(log.events()) {
                match event.content() {
                    Content::Proven(_) => assert_eq!(words(event), words(lied)),
                    Content::Claimed(_) => assert!(words(lied).ends_with("(not proven)"), "{}", words(lied)),
                }
            }
            let log = Log::parse(&lying_data.bytes).unwrap();
            assert_eq!(log.replay(), truth);
            for lied in log.events() {
                assert_eq!(lied.variable(), None);
                assert!(words(lied).ends_with("(not proven)"), "{}", words(lied));
            }
        }
    }

    #[test]
    fn a_file_made_to_look_like_a_variable_is_none() {
        let data = super::super::sample::variable("SecureBoot", &[1]);
        let bytes = Sample::new().measure(9, kind::EFI_VARIABLE_DRIVER_CONFIG, &data).bytes;
        let log = Log::parse(&bytes).unwrap();
        assert_eq!(log.events()[0].content(), Content::Proven(&data));
        assert_eq!(log.events()[0].variable(), None);
        assert_eq!(words(&log.events()[0]), "53 bytes of data");
    }

    #[test]
    fn hostile_text_is_harmless() {
        let data = "\u{1b}[2J\n\u{202e}\" and more".as_bytes();
        let long = [b'a'; 5000];
        let bytes =
            Sample::new().measure(4, kind::EFI_ACTION, data).event(9, kind::IPL, sha256(b""), &long).bytes;
        let log = Log::parse(&bytes).unwrap();
        assert_eq!(words(&log.events()[0]), r#"firmware's step "\u{1b}[2J\n\u{202e}\" and more""#);
        assert!(words(&log.events()[1]).chars().count() < 250);
    }
}
