//! Boot event logs of any bytes: a log whose words can be shown, or an error that can. Of the same log with other types
//! and data, the same is proven, or nothing.
#![no_main]

use hostbadge::verify::eventlog::{Content, Log, diff, words};
use libfuzzer_sys::fuzz_target;

/// Spec ID Event03, with SHA-256 alone: what mutation would seldom find. An input may bring its own.
const HEADER: &[u8] = b"\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x21\0\0\0\
    Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0";

fn showable(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn log(bytes: &[u8]) {
    let log = match Log::parse(bytes) {
        Ok(log) => log,
        Err(error) => return showable(&error.to_string()),
    };
    let _ = log.replay();
    for event in log.events() {
        let said = words(event);
        showable(&said);
        assert!(matches!(event.content(), Content::Proven(_)) || said.ends_with("(not proven)"), "{said}");
        if event.variable().is_some() {
            let Content::Proven(bytes) = event.content() else { panic!("a variable that is not proven") };
            assert_eq!(bytes, event.data);
        }
    }
    assert!(diff(&log, &log).is_empty());

    // Cut in half, against the whole.
    if let Ok(half) = Log::parse(&bytes[..bytes.len() / 2]) {
        diff(&half, &log).iter().for_each(|change| showable(&change.to_string()));
    }
}

/// Events of any kind and data in any PCR, their digests true where the input says so: pcr, kind, true, size, data.
fn built(mut input: &[u8]) -> Vec<u8> {
    let kinds = [0, 1, 3, 4, 5, 6, 7, 8, 9, 12, 13, 19];
    let mut bytes = HEADER.to_vec();
    while let [pcr, kind, truth, size, rest @ ..] = input {
        let (data, rest) = rest.split_at(rest.len().min(usize::from(*size)));
        input = rest;
        let kind = match kind {
            128.. => 0x8000_0000 | u32::from(kind % 16),
            _ => kinds[usize::from(*kind) % kinds.len()],
        };
        let of = &data[..data.len() - data.len().min(usize::from(truth % 2))];
        bytes.extend([u32::from(pcr % 24), kind, 1].map(u32::to_le_bytes).concat());
        bytes.extend([0x0b, 0]);
        bytes.extend(ring::digest::digest(&ring::digest::SHA256, of).as_ref());
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
    }
    bytes
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => log(rest),
        1 => log(&[HEADER, rest].concat()),
        _ => {
            let bytes = built(rest);
            let half = built(&rest[..rest.len() / 2]);
            log(&bytes);
            let (old, new) = (Log::parse(&half).unwrap(), Log::parse(&bytes).unwrap());
            diff(&old, &new).iter().for_each(|change| showable(&change.to_string()));
        }
    }
});
