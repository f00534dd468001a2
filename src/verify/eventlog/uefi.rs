//! What firmware puts into the data of its events: variables and device paths.

use super::fields::Fields;

/// A firmware variable as it was measured: UEFI_VARIABLE_DATA (TCG PC Client Platform Firmware Profile, section 10.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable<'a> {
    /// The name's vendor, as a GUID in its usual form.
    pub vendor: String,
    pub name: String,
    pub value: &'a [u8],
}

/// EFI_GLOBAL_VARIABLE (UEFI section 3.3), the vendor of SecureBoot, PK, KEK and the boot variables.
pub(super) const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

impl<'a> Variable<'a> {
    /// None unless the fields fill the data exactly, as a digest over all of it demands.
    pub(super) fn parse(data: &'a [u8]) -> Option<Variable<'a>> {
        let mut fields = Fields::new(data);
        let vendor = guid(fields.array()?);
        let (letters, length) = (fields.length()?, fields.length()?);
        let name = utf16(fields.take(letters.checked_mul(2)?)?)?;
        let value = fields.take(length)?;
        fields.rest().is_empty().then_some(Variable { vendor, name, value })
    }
}

/// The first three parts are little-endian numbers (UEFI appendix A).
fn guid(bytes: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, node @ ..] = bytes;
    let (low, mid, high) =
        (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    let [i, j, k, l, m, n, o, p] = node;
    format!("{low:08x}-{mid:04x}-{high:04x}-{i:02x}{j:02x}-{k:02x}{l:02x}{m:02x}{n:02x}{o:02x}{p:02x}")
}

/// The file that an image was loaded from, if its device path says so: UEFI_IMAGE_LOAD_EVENT (the profile's section
/// 10.2), then nodes of a device path (UEFI section 10.3), of which a file's is type 4 and subtype 4.
pub(super) fn image_file(data: &[u8]) -> Option<String> {
    const MEDIA_FILE: (u8, u8) = (4, 4);
    const END: u8 = 0x7f;
    let mut fields = Fields::new(data);
    // Where in memory it was, its length, and the address that it was linked for.
    fields.take(24)?;
    let length = fields.length()?;
    let mut nodes = Fields::new(fields.take(length)?);
    let mut file = String::new();
    while !nodes.rest().is_empty() {
        let (kind, length) = ((nodes.u8()?, nodes.u8()?), nodes.u16()?);
        let node = nodes.take(usize::from(length).checked_sub(4)?)?;
        if kind.0 == END {
            break;
        }
        if kind == MEDIA_FILE {
            let part = utf16(node)?;
            // A path may be in several nodes, with or without what separates them.
            if !file.is_empty() && !file.ends_with('\\') && !part.starts_with('\\') {
                file.push('\\');
            }
            file.push_str(&part);
        }
    }
    // Shown as Linux writes paths, since a backslash would be taken for an escape.
    (!file.is_empty()).then(|| file.replace('\\', "/"))
}

/// Text that firmware or a boot loader wrote, as ASCII, UTF-8 or UTF-16, with or without NULs at its end.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let trimmed = &bytes[..end];
    if trimmed.contains(&0) {
        return utf16(bytes).filter(|text| !text.is_empty());
    }
    std::str::from_utf8(trimmed).ok().map(str::to_owned)
}

/// UTF-16 without a NUL but at its end.
pub(super) fn utf16(bytes: &[u8]) -> Option<String> {
    if bytes.len() % 2 != 0 {
        return None;
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16(&units).ok()?;
    let text = text.trim_end_matches('\0');
    (!text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::sample::{image, utf16, variable};
    use super::*;

    #[test]
    fn a_variable_is_read_whole_or_not_at_all() {
        let data = variable("SecureBoot", &[1]);
        let read = Variable::parse(&data).unwrap();
        assert_eq!((read.vendor.as_str(), read.name.as_str(), read.value), (GLOBAL, "SecureBoot", &[1][..]));
        for end in 0..data.len() {
            assert_eq!(Variable::parse(&data[..end]), None, "{end}");
        }
        assert_eq!(Variable::parse(&[data.as_slice(), &[0]].concat()), None);
        // Lengths whose sums and products do not fit.
        for at in 16..32 {
            let mut lying = data.clone();
            lying[at] ^= 0xff;
            assert_eq!(Variable::parse(&lying), None, "{at}");
        }
    }

    #[test]
    fn a_device_path_gives_its_file() {
        let data = image(r"\EFI\debian\shimx64.efi");
        assert_eq!(image_file(&data).unwrap(), "/EFI/debian/shimx64.efi");
        for end in 0..data.len() {
            assert_eq!(image_file(&data[..end]), None, "{end}");
        }
        let mut endless = data;
        endless[34..36].fill(0); // a node of no length
        assert_eq!(image_file(&endless), None);
    }

    #[test]
    fn text_is_told_from_bytes() {
        assert_eq!(text(b"linux /vmlinuz\0").unwrap(), "linux /vmlinuz");
        assert_eq!(text(&utf16("quiet")).unwrap(), "quiet");
        assert_eq!(text(&utf16("quiet\0")).unwrap(), "quiet");
        for bytes in [&b""[..], b"\0\0\0\0", b"\xff\xff\xff\xff", b"a\0b", b"a\0\0\0b\0"] {
            assert_eq!(text(bytes), None, "{bytes:?}");
        }
    }
}
