//! IMA lists of any bytes: a list of which each prefix proves itself, or an error whose text can be shown.
#![no_main]

use data_encoding::HEXLOWER;
use hostbadge::verify::ima::List;
use libfuzzer_sys::fuzz_target;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

fn list(bytes: &[u8]) -> Option<usize> {
    match List::parse(bytes) {
        Ok(list) => {
            let proven = list.proven_by(&list.replay()).expect("a list proves itself");
            assert!(proven.digests().len() + proven.violations() <= list.len());
            assert!(list.proven_by(&[0; 32]).expect("nothing was extended").entries().is_empty());
            Some(list.len())
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "{text:?}");
            None
        }
    }
}

/// A list as the kernel would write it, each path any bytes that it can be, newlines and all.
fn built(input: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut lines = 0;
    for path in input.split(|byte| *byte == 0) {
        let path: Vec<u8> = path.iter().map(|byte| if *byte == b' ' { b'_' } else { *byte }).collect();
        if path.len() > 4096 || path.iter().filter(|byte| **byte == b'\n').count() > 16 {
            continue;
        }
        lines += 1;
        let mut data = 40_u32.to_le_bytes().to_vec();
        data.extend(b"sha256:\0");
        data.extend([7; 32]);
        data.extend((path.len() as u32 + 1).to_le_bytes());
        data.extend(&path);
        data.extend([0, 0, 0, 0, 0]);
        let template = HEXLOWER.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref());
        bytes.extend(format!("10 {template} ima-sig sha256:{} ", HEXLOWER.encode(&[7; 32])).bytes());
        bytes.extend(&path);
        bytes.extend(b" \n");
    }
    (bytes, lines)
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 2 {
        0 => drop(list(rest)),
        _ => {
            let (bytes, lines) = built(rest);
            assert_eq!(list(&bytes), Some(lines));
        }
    }
});
