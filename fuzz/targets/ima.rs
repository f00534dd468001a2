//! IMA measurement lists of any bytes give a list that its own replay proves, or an error without control
//! characters.
#![no_main]

use hostbadge::verify::ima::MeasurementList;
use libfuzzer_sys::fuzz_target;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

fn list(bytes: &[u8]) -> Option<usize> {
    match MeasurementList::parse(bytes) {
        Ok(list) => {
            let proven = list.proven_by(&list.replay()).expect("a list proves itself");
            assert!(proven.digests().len() + proven.violations() <= list.len());
            assert!(list.proven_by(&[0; 32]).expect("an empty list").entries().is_empty());
            Some(list.len())
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.chars().any(char::is_control), "{text:?}");
            None
        }
    }
}

/// A list as the kernel writes it, with one entry per path; every third is a violation. Returns the number of
/// entries too.
fn build(input: &[u8]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut entries = 0;
    for path in input.split(|byte| *byte == 0) {
        let path: Vec<u8> = path.iter().map(|byte| if *byte == b' ' { b'_' } else { *byte }).collect();
        if path.len() > 4096 {
            continue;
        }
        entries += 1;
        let mut data = 40_u32.to_le_bytes().to_vec();
        data.extend(b"sha256:\0");
        data.extend([7; 32]);
        data.extend((path.len() as u32 + 1).to_le_bytes());
        data.extend(&path);
        data.extend([0, 0, 0, 0, 0]);
        bytes.extend(10_u32.to_le_bytes());
        match entries % 3 {
            0 => bytes.extend([0; 20]),
            _ => bytes.extend(digest(&SHA1_FOR_LEGACY_USE_ONLY, &data).as_ref()),
        }
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend(b"ima-sig");
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(&data);
    }
    (bytes, entries)
}

/// A list of entries with any data, of known and unknown templates, in either byte order. Returns the number
/// of entries too.
fn build_any(big_endian: bool, mut input: &[u8]) -> (Vec<u8>, usize) {
    let templates = ["ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-modsig", "ima-buf", "d-ng|n-ng", "x"];
    let number = |value: usize| {
        let value = value as u32;
        if big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    };
    let (mut bytes, mut entries) = (Vec::new(), 0);
    while let [template, length, rest @ ..] = input {
        let template = templates[usize::from(*template) % templates.len()];
        let (data, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        input = rest;
        entries += 1;
        bytes.extend(number(10));
        bytes.extend(digest(&SHA1_FOR_LEGACY_USE_ONLY, data).as_ref());
        bytes.extend(number(template.len()));
        bytes.extend(template.as_bytes());
        bytes.extend(number(data.len()));
        bytes.extend(data);
    }
    (bytes, entries)
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 4 {
        0 => drop(list(rest)),
        1 | 2 => {
            let (bytes, entries) = build_any(kind % 4 == 1, rest);
            assert_eq!(list(&bytes), Some(entries));
        }
        _ => {
            let (bytes, entries) = build(rest);
            assert_eq!(list(&bytes), Some(entries));
        }
    }
});
