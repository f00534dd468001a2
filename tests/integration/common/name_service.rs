//! A name service that a test scripts, preloaded into the daemon.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::Host;

const SOURCE: &str = include_str!("name_service.c");

/// Answers lookups of the names that it has a file for; others go to the real name service.
pub struct NameService(TempDir);

impl NameService {
    /// A name service for the next start of the host's daemon.
    pub fn attach_to(host: &mut Host) -> NameService {
        let service = NameService(tempfile::tempdir().unwrap());
        host.start.env.push(("LD_PRELOAD".into(), library().to_str().unwrap().into()));
        host.start.env.push(("NAME_SERVICE".into(), service.0.path().to_str().unwrap().into()));
        service
    }

    /// Scripts the answer for a user: a number, `missing`, `fail`, or `hang` until the next call.
    pub fn user(&self, name: &str, answer: &str) {
        self.set(&format!("user-{name}"), answer);
    }

    /// As [`NameService::user`], for a group.
    pub fn group(&self, name: &str, answer: &str) {
        self.set(&format!("group-{name}"), answer);
    }

    /// Whether the daemon looked a name up by its number.
    pub fn was_asked_by_number(&self) -> bool {
        self.0.path().join("by-number").exists()
    }

    fn set(&self, file: &str, answer: &str) {
        let path = self.0.path().join(file);
        let new = path.with_extension("new");
        fs::write(&new, answer).unwrap();
        fs::rename(new, path).unwrap();
    }
}

/// The library, compiled once for each run of the tests.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, library) = (dir.path().join("name_service.c"), dir.path().join("name_service.so"));
        fs::write(&source, SOURCE).unwrap();
        let status =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
        assert!(status.success(), "the name service is compiled");
        (dir, library)
    });
    library
}
