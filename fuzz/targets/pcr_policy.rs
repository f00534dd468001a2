//! PCR policies of any bytes, and policies that are built from the input: the first are accepted or refused
//! with an error without control characters, the second are accepted.
#![no_main]

use hostbadge::verify::PcrPolicy;
use libfuzzer_sys::fuzz_target;

/// A policy with one to three values for each PCR that the input names.
fn build(input: &[u8]) -> String {
    let mut text = String::from("version = 1\n[sha256]\n");
    for pcr in 0..24 {
        let values: Vec<String> = input
            .chunks(2)
            .filter(|pair| pair[0] % 24 == pcr)
            .take(3)
            .map(|pair| format!("\"{}\"", format!("{:02x}", pair[pair.len() - 1]).repeat(32)))
            .collect();
        match values.as_slice() {
            [] => {}
            [only] => text += &format!("{pcr} = {only}\n"),
            several => text += &format!("{pcr} = [{}]\n", several.join(", ")),
        }
    }
    text
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    if kind % 2 == 1 {
        assert_eq!(PcrPolicy::parse(&build(rest)).is_ok(), !rest.is_empty());
        return;
    }
    if let Err(error) = PcrPolicy::parse(&String::from_utf8_lossy(rest)) {
        let text = error.to_string();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
});
