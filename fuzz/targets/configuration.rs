//! A configuration file of any bytes: a configuration, or faults whose texts can be shown.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use hostbadge::config::{Config, Paths};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fuzz_target!(|input: &[u8]| {
    let file = DIR.path().join("hostbadged.toml");
    fs::write(&file, input).unwrap();
    if let Err(faults) = Config::read(&file, Paths::default()) {
        assert!(!faults.is_empty());
        for fault in faults {
            assert!(!fault.to_string().chars().any(|c| c.is_control() && c != '\n'), "{fault:?}");
        }
    }
});
