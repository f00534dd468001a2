//! An agents.d file of any bytes gives an agent, or diagnostics without control characters.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use hostbadge::agents::AgentSet;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|input: &[u8]| {
    fs::write(DIR.path().join("any.toml"), input).unwrap();
    match AgentSet::read(DIR.path(), 30) {
        Ok(agents) => assert_eq!(agents.len(), 1),
        Err(diagnostics) => {
            assert!(!diagnostics.is_empty());
            for diagnostic in diagnostics {
                let text = diagnostic.to_string();
                assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            }
        }
    }
});
