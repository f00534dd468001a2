//! UEFI structures in the data of events: variables, device paths and texts.

use crate::verify::byte_reader::{ByteOrder, ByteReader};

/// A firmware variable as the firmware measured it: UEFI_VARIABLE_DATA (section 10.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UefiVariable<'a> {
    /// The GUID of the vendor, lower-case with hyphens, which is the namespace of the name.
    pub vendor: String,
    /// The variable's name, such as "SecureBoot".
    pub name: String,
    /// The variable's value.
    pub value: &'a [u8],
}

/// EFI_GLOBAL_VARIABLE (UEFI section 3.3), the vendor of SecureBoot, PK, KEK and the boot variables.
pub(super) const EFI_GLOBAL_VARIABLE: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

impl<'a> UefiVariable<'a> {
    /// `None` unless the fields fill the data exactly: a digest over the data covers then nothing but the
    /// variable.
    pub(super) fn parse(data: &'a [u8]) -> Option<UefiVariable<'a>> {
        let mut reader = ByteReader::new(data, ByteOrder::Little);
        let vendor = guid(reader.array()?);
        let (name_len, length) = (reader.u64_length()?, reader.u64_length()?);
        let name = decode_utf16(reader.take(name_len.checked_mul(2)?)?)?;
        let value = reader.take(length)?;
        reader.is_empty().then_some(UefiVariable { vendor, name, value })
    }
}

/// Formats a GUID, whose first three parts are little-endian numbers (UEFI appendix A).
fn guid(bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, node @ ..] = bytes;
    let (low, mid, high) =
        (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    let [i, j, k, l, m, n, o, p] = node;
    format!("{low:08x}-{mid:04x}-{high:04x}-{i:02x}{j:02x}-{k:02x}{l:02x}{m:02x}{n:02x}{o:02x}{p:02x}")
}

/// The file that an image was loaded from, if its device path has one: a UEFI_IMAGE_LOAD_EVENT (section 10.2)
/// ends in the nodes of a device path (UEFI section 10.3), of which those for files have type 4 and subtype
/// 4.
pub(super) fn image_file_path(data: &[u8]) -> Option<String> {
    const MEDIA_FILE: (u8, u8) = (4, 4);
    const END: u8 = 0x7f;
    let mut reader = ByteReader::new(data, ByteOrder::Little);
    // The image's address in memory, its length, and the address that it was linked for.
    reader.take(24)?;
    let length = reader.u64_length()?;
    let mut nodes = ByteReader::new(reader.take(length)?, ByteOrder::Little);
    let mut file = String::new();
    while !nodes.is_empty() {
        let (node_type, length) = ((nodes.u8()?, nodes.u8()?), nodes.u16()?);
        let node = nodes.take(usize::from(length).checked_sub(4)?)?;
        if node_type.0 == END {
            break;
        }
        if node_type == MEDIA_FILE {
            let part = decode_utf16(node)?;
            // A path may be split over several nodes, with or without a separator between them.
            if !file.is_empty() && !file.ends_with('\\') && !part.starts_with('\\') {
                file.push('\\');
            }
            file.push_str(&part);
        }
    }
    // With slashes, as Linux writes paths: descriptions escape a backslash.
    (!file.is_empty()).then(|| file.replace('\\', "/"))
}

/// Decodes a text of firmware or a boot loader: ASCII, UTF-8 or UTF-16LE, with or without NULs at its end.
pub(super) fn decode_text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let trimmed = &bytes[..end];
    if trimmed.contains(&0) {
        return decode_utf16(bytes).filter(|text| !text.is_empty());
    }
    std::str::from_utf8(trimmed).ok().map(str::to_owned)
}

/// Decodes UTF-16LE that has no NULs except at its end.
pub(super) fn decode_utf16(bytes: &[u8]) -> Option<String> {
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16(&units).ok()?;
    let text = text.trim_end_matches('\0');
    (!text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::sample_log::{image_load_event, utf16le, variable_data};
    use super::*;

    #[test]
    fn variable_fills_its_data_exactly() {
        let data = variable_data("SecureBoot", &[1]);
        let read = UefiVariable::parse(&data).unwrap();
        assert_eq!(
            (read.vendor.as_str(), read.name.as_str(), read.value),
            (EFI_GLOBAL_VARIABLE, "SecureBoot", &[1][..])
        );
        for end in 0..data.len() {
            assert_eq!(UefiVariable::parse(&data[..end]), None, "{end}");
        }
        assert_eq!(UefiVariable::parse(&[data.as_slice(), &[0]].concat()), None);
        // Lengths whose sums and products overflow.
        for at in 16..32 {
            let mut lying = data.clone();
            lying[at] ^= 0xff;
            assert_eq!(UefiVariable::parse(&lying), None, "{at}");
        }
    }

    #[test]
    fn device_path_yields_file() {
        let data = image_load_event(r"\EFI\debian\shimx64.efi");
        assert_eq!(image_file_path(&data).unwrap(), "/EFI/debian/shimx64.efi");
        for end in 0..data.len() {
            assert_eq!(image_file_path(&data[..end]), None, "{end}");
        }
        let mut endless = data;
        endless[34..36].fill(0); // a node of length 0
        assert_eq!(image_file_path(&endless), None);
    }

    #[test]
    fn text_is_distinguished_from_binary() {
        assert_eq!(decode_text(b"linux /vmlinuz\0").unwrap(), "linux /vmlinuz");
        assert_eq!(decode_text(&utf16le("quiet")).unwrap(), "quiet");
        assert_eq!(decode_text(&utf16le("quiet\0")).unwrap(), "quiet");
        for bytes in [&b""[..], b"\0\0\0\0", b"\xff\xff\xff\xff", b"a\0b", b"a\0\0\0b\0"] {
            assert_eq!(decode_text(bytes), None, "{bytes:?}");
        }
    }
}
