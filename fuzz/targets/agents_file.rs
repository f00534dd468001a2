//! An agents.d file of any bytes: an agent, or faults whose texts can be shown.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use hostbadge::agents::Registry;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|input: &[u8]| {
    fs::write(DIR.path().join("any.toml"), input).unwrap();
    match Registry::read(DIR.path(), 30) {
        Ok(registry) => assert_eq!(registry.len(), 1),
        Err(faults) => {
            assert!(!faults.is_empty());
            for fault in faults {
                assert!(!fault.to_string().chars().any(|c| c.is_control() && c != '\n'), "{fault:?}");
            }
        }
    }
});
