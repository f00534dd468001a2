//! Builds IMA lists for tests.

use data_encoding::HEXLOWER;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// PCR 10 after the first two entries of [`sample_entries`], and after all of them; computed by another
/// program.
pub(crate) const PCR_AFTER_TWO: &str = "c0c7aee9e892ec59ac0138db20f2ab48c7b77703f6a06fd4ee1ddb6f763b7575";
pub(crate) const PCR_AFTER_ALL: &str = "0990025ae0fbc779230321fd4e404e5bcebe5d9520352a2cf530a653314841a8";
pub(super) const BOOT_SHA256: &str = "4509beb0ab401d71fa4a5cd94a55c9a74f13332776ae4019c5bfc4c2005157ff";
pub(super) const DASH_SHA256: &str = "89c4ec9f6b3f1086b158d8ef03dfe8155e6f79d9e66434b8f9b3432fe8720e50";
pub(super) const PYTHON_SHA256: &str = "6e491c02882ac36e3bcaaac4d151d4b2793135d4482adf227b1b730cdd90b46d";
pub(super) const AGENT_SHA256: &str = "d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824";
pub(super) const ZERO_SHA256: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Five entries, with a violation and a path that contains a newline.
pub(crate) fn sample_entries() -> [Vec<u8>; 5] {
    let mut violation = entry("ima-sig", "sha256", ZERO_SHA256, b"/etc/passwd", Some(&[]));
    violation[4..24].fill(0);
    [
        entry("ima-ng", "sha256", BOOT_SHA256, b"boot_aggregate", None),
        entry("ima-sig", "sha256", DASH_SHA256, b"/usr/bin/dash", Some(&[])),
        entry("ima-sig", "sha256", PYTHON_SHA256, b"/usr/bin/python3", Some(&[3, 2, 4])),
        violation,
        entry("ima-ngv2", "ima:sha256", AGENT_SHA256, b"/opt/a\ngent", None),
    ]
}

fn push_sized(data: &mut Vec<u8>, big: bool, bytes: &[u8]) {
    let length = bytes.len() as u32;
    data.extend(if big { length.to_be_bytes() } else { length.to_le_bytes() });
    data.extend(bytes);
}

/// An entry as the kernel of a little-endian host writes it.
pub(super) fn entry(
    template: &str,
    algorithm: &str,
    hex: &str,
    path: &[u8],
    signature: Option<&[u8]>,
) -> Vec<u8> {
    entry_with_order(false, template, algorithm, hex, path, signature)
}

pub(super) fn entry_with_order(
    big: bool,
    template: &str,
    algorithm: &str,
    hex: &str,
    path: &[u8],
    signature: Option<&[u8]>,
) -> Vec<u8> {
    let mut data = Vec::new();
    let digest_field = [algorithm.as_bytes(), b":\0", &HEXLOWER.decode(hex.as_bytes()).unwrap()].concat();
    push_sized(&mut data, big, &digest_field);
    push_sized(&mut data, big, &[path, b"\0"].concat());
    signature.iter().for_each(|signature| push_sized(&mut data, big, signature));
    let mut bytes = if big { vec![0, 0, 0, 10] } else { vec![10, 0, 0, 0] };
    bytes.extend(digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref());
    push_sized(&mut bytes, big, template.as_bytes());
    push_sized(&mut bytes, big, &data);
    bytes
}
