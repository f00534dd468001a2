//! A clock of the daemon that a test sets.

use std::fs;
use std::path::PathBuf;

use super::Host;

/// A clock for the daemon, in a file: an offset from the right time, as libfaketime reads it.
pub struct FakeClock(PathBuf);

impl FakeClock {
    /// Gives the host's daemon this clock from its next start on. The boot time stays the right one.
    pub fn of(host: &mut Host, offset: &str) -> FakeClock {
        let clock = FakeClock(host.path("clock"));
        clock.set(offset);
        let (library, file) = (library(), clock.0.display().to_string());
        let variables = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", file.as_str()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        host.start.env = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        clock
    }

    pub fn set(&self, offset: &str) {
        // By a rename, so that the daemon never reads an empty file.
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, &self.0).unwrap();
    }
}

/// The library of Debian's package `faketime`.
fn library() -> PathBuf {
    let dirs = fs::read_dir("/usr/lib").unwrap().map(|dir| dir.unwrap().path().join("faketime"));
    let libraries =
        dirs.chain([PathBuf::from("/usr/lib/faketime")]).map(|dir| dir.join("libfaketimeMT.so.1"));
    libraries.into_iter().find(|path| path.exists()).expect("install the package faketime")
}
