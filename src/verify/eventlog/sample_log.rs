//! Builds boot event logs for tests.

use super::event_types;
use crate::digest::sha256;
use crate::verify::pcr::PcrDigest;

pub(super) struct EventLogBuilder {
    pub bytes: Vec<u8>,
}

impl EventLogBuilder {
    /// A log with SHA-1 and SHA-256 digests.
    pub fn new() -> EventLogBuilder {
        EventLogBuilder::with_banks(&[(4, 20), (0xb, 32)])
    }

    pub fn with_banks(banks: &[(u16, u16)]) -> EventLogBuilder {
        let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
        data.extend(u32::try_from(banks.len()).unwrap().to_le_bytes());
        for (algorithm, size) in banks {
            data.extend([algorithm.to_le_bytes(), size.to_le_bytes()].concat());
        }
        data.extend([3, 1, 2, 3]); // vendor information
        EventLogBuilder { bytes: Vec::new() }
            .u32s(&[0, event_types::NO_ACTION])
            .raw(&[0; 20])
            .sized_data(&data)
    }

    pub fn event(self, pcr: u32, event_type: u32, digest: PcrDigest, data: &[u8]) -> EventLogBuilder {
        let sha1 = [[4, 0].as_slice(), &[0x11; 20]].concat();
        self.u32s(&[pcr, event_type, 2]).raw(&sha1).raw(&[0xb, 0]).raw(&digest).sized_data(data)
    }

    /// An event whose digest is that of its data.
    pub fn measure(self, pcr: u32, event_type: u32, data: &[u8]) -> EventLogBuilder {
        self.event(pcr, event_type, sha256(data), data)
    }

    pub fn u32s(self, numbers: &[u32]) -> EventLogBuilder {
        numbers.iter().fold(self, |sample, number| sample.raw(&number.to_le_bytes()))
    }

    pub fn sized_data(self, data: &[u8]) -> EventLogBuilder {
        self.u32s(&[u32::try_from(data.len()).unwrap()]).raw(data)
    }

    pub fn raw(mut self, bytes: &[u8]) -> EventLogBuilder {
        self.bytes.extend(bytes);
        self
    }
}

/// A boot by shim and GRUB, with the events of the kernel's EFI stub.
pub(crate) fn sample_boot_log(kernel: &str, command_line: &str, secure_boot: u8) -> Vec<u8> {
    let order = variable_data("BootOrder", &[1, 0]);
    let volume = [b"\x0bMain volume".as_slice(), &[0; 16]].concat();
    let command = format!("linux /{kernel}");
    let log = EventLogBuilder::new()
        .event(0, event_types::NO_ACTION, [0; 32], b"StartupLocality\0\x03")
        .measure(0, event_types::S_CRTM_VERSION, &utf16le("1.0\0"))
        .event(0, event_types::EFI_PLATFORM_FIRMWARE_BLOB2, sha256(b"firmware"), &volume)
        .measure(7, event_types::EFI_VARIABLE_DRIVER_CONFIG, &variable_data("SecureBoot", &[secure_boot]))
        .measure(7, event_types::EFI_VARIABLE_DRIVER_CONFIG, &variable_data("db", b"cert"))
        .measure(7, event_types::SEPARATOR, &[0; 4])
        .event(1, event_types::EFI_VARIABLE_BOOT, sha256(&[1, 0]), &order)
        .measure(4, event_types::EFI_ACTION, b"Calling EFI Application from Boot Option")
        .measure(4, event_types::SEPARATOR, &[0; 4])
        .event(
            4,
            event_types::EFI_BOOT_SERVICES_APPLICATION,
            sha256(b"shim"),
            &image_load_event(r"\EFI\debian\shimx64.efi"),
        )
        .event(8, event_types::IPL, sha256(command.as_bytes()), format!("grub_cmd: {command}\0").as_bytes())
        .event(9, event_types::IPL, sha256(kernel.as_bytes()), format!("(hd0,gpt2)/{kernel}\0").as_bytes())
        .event(
            8,
            event_types::IPL,
            sha256(command_line.as_bytes()),
            format!("kernel_cmdline: {command_line}\0").as_bytes(),
        )
        .event(9, event_types::IPL, sha256(b"initrd"), b"(hd0,gpt2)/initrd.img-6.1\0")
        .measure(12, event_types::IPL, &utf16le(&format!("{command_line}\0")))
        .event(9, event_types::EVENT_TAG, sha256(b"initrd"), b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0")
        .measure(5, event_types::EFI_ACTION, b"Exit Boot Services Invocation");
    log.bytes
}

/// UEFI_VARIABLE_DATA with EFI_GLOBAL_VARIABLE as the vendor.
pub(super) fn variable_data(name: &str, value: &[u8]) -> Vec<u8> {
    let vendor = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
    let lengths = [name.len() as u64, value.len() as u64].map(u64::to_le_bytes).concat();
    [&vendor, lengths.as_slice(), &utf16le(name), value].concat()
}

/// UEFI_IMAGE_LOAD_EVENT of a file on a disk.
pub(super) fn image_load_event(file: &str) -> Vec<u8> {
    let file = utf16le(&format!("{file}\0"));
    let length = u16::try_from(file.len() + 4).unwrap();
    let path = [&[4, 4], length.to_le_bytes().as_slice(), &file, &[0x7f, 0xff, 4, 0]].concat();
    [&[0; 24], (path.len() as u64).to_le_bytes().as_slice(), &path].concat()
}

pub(super) fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
