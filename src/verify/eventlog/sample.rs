//! Builds boot event logs for tests.

use super::{Digest, kind, sha256};

pub(super) struct Sample {
    pub bytes: Vec<u8>,
}

impl Sample {
    /// A log with SHA-1 and SHA-256 digests.
    pub fn new() -> Sample {
        Sample::with_banks(&[(4, 20), (0xb, 32)])
    }

    pub fn with_banks(banks: &[(u16, u16)]) -> Sample {
        let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
        data.extend(u32::try_from(banks.len()).unwrap().to_le_bytes());
        for (algorithm, size) in banks {
            data.extend([algorithm.to_le_bytes(), size.to_le_bytes()].concat());
        }
        data.extend([3, 1, 2, 3]); // the vendor's information
        Sample { bytes: Vec::new() }.put(&[0, kind::NO_ACTION]).raw(&[0; 20]).data(&data)
    }

    pub fn event(self, pcr: u32, kind: u32, digest: Digest, data: &[u8]) -> Sample {
        let sha1 = [[4, 0].as_slice(), &[0x11; 20]].concat();
        self.put(&[pcr, kind, 2]).raw(&sha1).raw(&[0xb, 0]).raw(&digest).data(data)
    }

    /// An event whose digest is that of its data.
    pub fn measure(self, pcr: u32, kind: u32, data: &[u8]) -> Sample {
        self.event(pcr, kind, sha256(data), data)
    }

    pub fn put(self, numbers: &[u32]) -> Sample {
        numbers.iter().fold(self, |sample, number| sample.raw(&number.to_le_bytes()))
    }

    pub fn data(self, data: &[u8]) -> Sample {
        self.put(&[u32::try_from(data.len()).unwrap()]).raw(data)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Sample {
        self.bytes.extend(bytes);
        self
    }
}

/// A boot by shim and GRUB, and as the kernel's own part.
pub(crate) fn boot(kernel: &str, line: &str, secure_boot: u8) -> Vec<u8> {
    let order = variable("BootOrder", &[1, 0]);
    let volume = [b"\x0bMain volume".as_slice(), &[0; 16]].concat();
    let command = format!("linux /{kernel}");
    let sample = Sample::new()
        .event(0, kind::NO_ACTION, [0; 32], b"StartupLocality\0\x03")
        .measure(0, kind::S_CRTM_VERSION, &utf16("1.0\0"))
        .event(0, kind::EFI_PLATFORM_FIRMWARE_BLOB2, sha256(b"firmware"), &volume)
        .measure(7, kind::EFI_VARIABLE_DRIVER_CONFIG, &variable("SecureBoot", &[secure_boot]))
        .measure(7, kind::EFI_VARIABLE_DRIVER_CONFIG, &variable("db", b"cert"))
        .measure(7, kind::SEPARATOR, &[0; 4])
        .event(1, kind::EFI_VARIABLE_BOOT, sha256(&[1, 0]), &order)
        .measure(4, kind::EFI_ACTION, b"Calling EFI Application from Boot Option")
        .measure(4, kind::SEPARATOR, &[0; 4])
        .event(4, kind::EFI_BOOT_SERVICES_APPLICATION, sha256(b"shim"), &image(r"\EFI\debian\shimx64.efi"))
        .event(8, kind::IPL, sha256(command.as_bytes()), format!("grub_cmd: {command}\0").as_bytes())
        .event(9, kind::IPL, sha256(kernel.as_bytes()), format!("(hd0,gpt2)/{kernel}\0").as_bytes())
        .event(8, kind::IPL, sha256(line.as_bytes()), format!("kernel_cmdline: {line}\0").as_bytes())
        .event(9, kind::IPL, sha256(b"initrd"), b"(hd0,gpt2)/initrd.img-6.1\0")
        .measure(12, kind::IPL, &utf16(&format!("{line}\0")))
        .event(9, kind::EVENT_TAG, sha256(b"initrd"), b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0")
        .measure(5, kind::EFI_ACTION, b"Exit Boot Services Invocation");
    sample.bytes
}

/// UEFI_VARIABLE_DATA with EFI_GLOBAL_VARIABLE as the vendor.
pub(super) fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let vendor = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
    let lengths = [name.len() as u64, value.len() as u64].map(u64::to_le_bytes).concat();
    [&vendor, lengths.as_slice(), &utf16(name), value].concat()
}

/// UEFI_IMAGE_LOAD_EVENT of a file on a disk.
pub(super) fn image(file: &str) -> Vec<u8> {
    let file = utf16(&format!("{file}\0"));
    let length = u16::try_from(file.len() + 4).unwrap();
    let path = [&[4, 4], length.to_le_bytes().as_slice(), &file, &[0x7f, 0xff, 4, 0]].concat();
    [&[0; 24], (path.len() as u64).to_le_bytes().as_slice(), &path].concat()
}

pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
