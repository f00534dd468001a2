//! A configuration file of any bytes gives a configuration, or diagnostics without control characters.
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
    if let Err(diagnostics) = Config::read(&file, Paths::default()) {
        assert!(!diagnostics.is_empty());
        for diagnostic in diagnostics {
            let text = diagnostic.to_string();
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
});
