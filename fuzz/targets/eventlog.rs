//! Boot event logs of any bytes give a log, or an error; descriptions of events and errors have no control
//! characters. An event whose digest does not cover its data is described as not proven.
#![no_main]

use hostbadge::verify::eventlog::{EventContent, EventLog, describe_event, diff};
use libfuzzer_sys::fuzz_target;

/// A Spec ID Event03 header with the SHA-256 bank alone, which mutation would seldom find.
const HEADER: &[u8] = b"\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x21\0\0\0\
    Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0";

fn assert_printable(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn log(bytes: &[u8]) {
    let log = match EventLog::parse(bytes) {
        Ok(log) => log,
        Err(error) => return assert_printable(&error.to_string()),
    };
    let _ = log.replay();
    for event in log.events() {
        let text = describe_event(event);
        assert_printable(&text);
        assert!(
            matches!(event.content(), EventContent::Proven(_)) || text.ends_with("(not proven)"),
            "{text}"
        );
        if event.variable().is_some() {
            let EventContent::Proven(bytes) = event.content() else {
                panic!("a variable without proven data")
            };
            assert_eq!(bytes, event.data);
        }
    }
    assert!(diff(&log, &log).is_empty());

    // The first half against the whole.
    if let Ok(half) = EventLog::parse(&bytes[..bytes.len() / 2]) {
        diff(&half, &log).iter().for_each(|change| assert_printable(&change.to_string()));
    }
}

/// A log of events, each from these bytes of the input: PCR, type, whether the digest covers all data, size
/// of the data, data.
fn build(mut input: &[u8]) -> Vec<u8> {
    let kinds = [0, 1, 3, 4, 5, 6, 7, 8, 9, 12, 13, 19];
    let mut bytes = HEADER.to_vec();
    while let [pcr, kind, truth, size, rest @ ..] = input {
        let (data, rest) = rest.split_at(rest.len().min(usize::from(*size)));
        input = rest;
        let kind = match kind {
            128.. => 0x8000_0000 | u32::from(kind % 16),
            _ => kinds[usize::from(*kind) % kinds.len()],
        };
        let digested = &data[..data.len() - data.len().min(usize::from(truth % 2))];
        bytes.extend([u32::from(pcr % 24), kind, 1].map(u32::to_le_bytes).concat());
        bytes.extend([0x0b, 0]);
        bytes.extend(ring::digest::digest(&ring::digest::SHA256, digested).as_ref());
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
    }
    bytes
}

/// Parses a log of [`build`]. It is well formed, so the parser may refuse its StartupLocality events alone.
fn parse_built(bytes: &[u8]) -> Option<EventLog<'_>> {
    EventLog::parse(bytes)
        .inspect_err(|error| assert!(error.to_string().contains("ocality"), "a well-formed log: {error}"))
        .ok()
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => log(rest),
        1 => log(&[HEADER, rest].concat()),
        _ => {
            let bytes = build(rest);
            let half = build(&rest[..rest.len() / 2]);
            log(&bytes);
            let (Some(old), Some(new)) = (parse_built(&half), parse_built(&bytes)) else { return };
            diff(&old, &new).iter().for_each(|change| assert_printable(&change.to_string()));
        }
    }
});
