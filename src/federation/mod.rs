//! Other trust domains: their SPIFFE bundle documents, which administrators put into `federation/`.
//!
//! `federation/DOMAIN.json` is the document that the trust domain DOMAIN publishes. A reload replaces all
//! bundles or, if a file has a fault, none.

mod bundle;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use crate::config::Diagnostic;
use crate::mutex::lock;

pub use bundle::{FederatedBundle, FederatedBundles, read_bundles};

/// The active bundles. Cheap to clone; a reload is visible through every clone.
#[derive(Clone, Debug)]
pub struct Federation(Arc<FederationShared>);

#[derive(Debug)]
struct FederationShared {
    dir: PathBuf,
    must_exist: bool,
    active: ArcSwap<FederatedBundles>,
    /// The faults that the last reload found.
    diagnostics: ArcSwap<Vec<Diagnostic>>,
    reload_lock: Mutex<()>,
}

impl Federation {
    /// Reads the directory. If a file has a fault there are no bundles, and [`Federation::diagnostics`] has
    /// the faults. A missing directory is one if it `must_exist`.
    pub fn open(dir: &Path, must_exist: bool) -> Federation {
        let federation = Federation(Arc::new(FederationShared {
            dir: dir.to_owned(),
            must_exist,
            active: ArcSwap::default(),
            diagnostics: ArcSwap::default(),
            reload_lock: Mutex::new(()),
        }));
        let _ = federation.reload(false);
        federation
    }

    /// Reads the directory again and returns the number of bundles. Blocking.
    ///
    /// A directory that is missing or has no bundles removes all active ones only if `allow_empty` says that
    /// this is meant: a file system that is not mounted looks the same.
    ///
    /// # Errors
    ///
    /// The faults of all files; the previous bundles remain active.
    pub fn reload(&self, allow_empty: bool) -> Result<usize, Vec<Diagnostic>> {
        let inner = &*self.0;
        let _guard = lock(&inner.reload_lock);
        match inner.read(allow_empty) {
            Ok(bundles) => {
                let count = bundles.len();
                inner.active.store(Arc::new(bundles));
                inner.diagnostics.store(Arc::default());
                Ok(count)
            }
            Err(faults) => {
                inner.diagnostics.store(Arc::new(faults.clone()));
                Err(faults)
            }
        }
    }

    /// Whether a fault concerns the directory or a file in it.
    pub fn has_file_of(&self, fault: &Diagnostic) -> bool {
        fault.file.starts_with(&self.0.dir)
    }

    /// The active bundles.
    pub fn bundles(&self) -> Arc<FederatedBundles> {
        self.0.active.load_full()
    }

    /// The faults that the last reload found; empty if it succeeded.
    pub fn diagnostics(&self) -> Arc<Vec<Diagnostic>> {
        self.0.diagnostics.load_full()
    }
}

impl FederationShared {
    /// Reads the directory. An empty one is refused while bundles are active, unless that is meant.
    fn read(&self, allow_empty: bool) -> Result<FederatedBundles, Vec<Diagnostic>> {
        let bundles = read_existing_bundles(&self.dir, self.must_exist)?;
        let active = self.active.load().len();
        if !bundles.is_empty() || active == 0 || allow_empty {
            return Ok(bundles);
        }
        let message = format!(
            "has no files *.json, and the bundles of {active} trust domains are active, which stay so. \
             Restore the files, or mount their file system; \"hostbadge agent reload \
             --allow-empty=federation\" removes all bundles"
        );
        Err(vec![Diagnostic { file: self.dir.clone(), line: None, message }])
    }
}

/// As [`read_bundles`]; a missing directory is a fault if it `must_exist`.
///
/// # Errors
///
/// As [`read_bundles`].
pub fn read_existing_bundles(dir: &Path, must_exist: bool) -> Result<FederatedBundles, Vec<Diagnostic>> {
    if must_exist && !dir.exists() {
        let message = "does not exist; create it, or set paths.federation to the right directory".into();
        return Err(vec![Diagnostic { file: dir.to_owned(), line: None, message }]);
    }
    read_bundles(dir)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::bundle::tests::{KEY, bundle_of_roots};
    use super::*;

    #[test]
    fn invalid_file_keeps_the_previous_bundles() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json"), format!(r#"{{"keys":[{KEY}]}}"#)).unwrap();
        let federation = Federation::open(dir.path(), false);
        for (name, text, expected) in [
            ("b.json", "{", "b.json: is not a SPIFFE bundle document"),
            ("b.json", "[]", "b.json: is not a SPIFFE bundle document"),
            ("b.json", r#"{"keys":[],"spiffe_sequence":"1"}"#, "spiffe_sequence"),
            ("b.json", r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":[]}]}"#, "x5c"),
            ("b.json", r#"{"keys":[{"use":"x509-svid","kty":"EC","x5c":["AQID"]}]}"#, "x5c"),
            ("B.json", r#"{"keys":[]}"#, "must be named after its trust domain"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
            let faults = federation.reload(false).unwrap_err();
            assert!(faults.len() == 1 && faults[0].to_string().contains(expected), "{faults:?}");
            assert_eq!((federation.bundles().len(), federation.diagnostics().len()), (1, 1));
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        let roots = bundle_of_roots(120);
        let names: Vec<_> = (0..80).map(|n| dir.path().join(format!("d{n}.json"))).collect();
        names.iter().for_each(|name| fs::write(name, &roots).unwrap());
        assert!(
            federation.reload(false).unwrap_err()[0].to_string().contains("the x509-svid keys of all 80")
        );
        assert_eq!((federation.bundles().len(), federation.diagnostics().len()), (1, 1));
        names.iter().for_each(|name| fs::remove_file(name).unwrap());
        assert_eq!(federation.reload(false), Ok(1));
        assert!(federation.diagnostics().is_empty());
    }

    #[test]
    fn an_empty_or_missing_directory_removes_no_bundle_unless_that_is_meant() {
        let parent = tempfile::tempdir().unwrap();
        let (dir, elsewhere) = (parent.path().join("federation"), parent.path().join("elsewhere"));
        assert!(Federation::open(&dir, false).diagnostics().is_empty(), "a host without other trust domains");
        let faults = Federation::open(&dir, true).diagnostics();
        assert!(faults[0].message.contains("set paths.federation"), "it was configured: {faults:?}");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a.json"), format!(r#"{{"keys":[{KEY}]}}"#)).unwrap();
        let federation = Federation::open(&dir, false);
        let refused = |reason: &str| {
            let faults = federation.reload(false).unwrap_err();
            assert!(
                faults[0].message.contains("the bundles of 1 trust domains are active"),
                "{reason}: {faults:?}"
            );
            assert_eq!((federation.bundles().len(), federation.diagnostics().len()), (1, 1), "{reason}");
        };
        fs::rename(&dir, &elsewhere).unwrap();
        refused("missing");
        fs::create_dir(&dir).unwrap();
        refused("empty");
        fs::write(dir.join("a.json.off"), "").unwrap();
        refused("of other files only");
        assert_eq!(federation.reload(true), Ok(0));
        assert!(federation.bundles().is_empty() && federation.diagnostics().is_empty());
        assert_eq!(federation.reload(false), Ok(0));
    }
}
