//! The contents that conditions of agents name: files and units of this host, as a request finds them.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::peer::{ContentCache, FileDigest, FileError, Sha256Digest, UnitFilesError};
use crate::posture::ImaDigests;

use super::selectors::Selectors;

/// What was found of the files and units that several agents name.
#[derive(Debug, Default)]
pub(super) struct Contents<'a> {
    files: HashMap<&'a Path, Result<FileDigest, FileError>>,
    units: HashMap<&'a str, Result<Sha256Digest, UnitFilesError>>,
}

/// Which contents an agent's process was compared by, for the claims of its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attested {
    /// Each of `exe-sha256`, `ima`, `files-sha256`, `files-ima`, `files-fs-verity` and `unit-sha256` that
    /// holds.
    pub methods: Vec<&'static str>,
    /// One digest for all files.
    pub files_sha256: Option<Sha256Digest>,
    /// Digest of the unit's files.
    pub unit_sha256: Option<Sha256Digest>,
}

/// Why a condition on a content does not hold. Displayed after "this process would be agent …, but".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContentFault {
    pub(super) reason: String,
    /// Whether the same request may succeed later without a change of the files.
    pub(super) is_temporary: bool,
}

impl<'a> Contents<'a> {
    /// Finds the contents for these conditions: reads what is not known, for at most 10 s.
    pub(super) async fn find(all: impl Iterator<Item = &'a Selectors>, known: &ContentCache) -> Contents<'a> {
        let all: Vec<&Selectors> = all.collect();
        let paths: BTreeSet<&Path> =
            all.iter().flat_map(|one| one.files.keys()).map(PathBuf::as_path).collect();
        let paths: Vec<&Path> = paths.into_iter().collect();
        let mut contents = Contents::default();
        if !paths.is_empty() {
            let results = known.file_digests(&paths).await;
            contents.files = paths.into_iter().zip(results).collect();
        }
        for selectors in all {
            if let (Some(unit), Some(_)) = (&selectors.unit, selectors.unit_sha256)
                && !contents.units.contains_key(unit.as_str())
            {
                contents.units.insert(unit, known.unit_digest(unit).await);
            }
        }
        contents
    }

    /// Compares the conditions on files and the unit with what was found. `None` if the agent has no
    /// condition on a content, of an executable neither.
    ///
    /// # Errors
    /// Why a condition does not hold.
    pub(super) fn compare(
        &self,
        selectors: &Selectors,
        ima_digests: &ImaDigests,
    ) -> Result<Option<Attested>, ContentFault> {
        if !selectors.needs_content() {
            return Ok(None);
        }
        let mut attested = Attested::default();
        let exe = [("exe-sha256", selectors.exe_sha256.is_some()), ("ima", selectors.measured)];
        attested.methods.extend(exe.iter().filter(|(_, holds)| *holds).map(|(method, _)| *method));
        if !selectors.files.is_empty() {
            let (mut all_measured, mut all_verity) = (true, true);
            for (path, expected) in &selectors.files {
                let found = self.files.get(path.as_path()).unwrap_or(&Err(FileError::Temporary));
                let digest = compare_file(path, *expected, found)?;
                all_measured &= ima_digests.contains(&digest.sha256.0);
                all_verity &= digest.has_verity;
            }
            attested.files_sha256 = selectors.files_sha256();
            let methods =
                [("files-sha256", true), ("files-ima", all_measured), ("files-fs-verity", all_verity)];
            attested.methods.extend(methods.iter().filter(|(_, holds)| *holds).map(|(method, _)| *method));
        }
        if let (Some(unit), Some(expected)) = (&selectors.unit, selectors.unit_sha256) {
            let fault = |reason, is_temporary| Err(ContentFault { reason, is_temporary });
            match self.units.get(unit.as_str()).unwrap_or(&Err(UnitFilesError::Slow)) {
                Ok(digest) if *digest == expected => {}
                Ok(digest) => {
                    let reason = format!("the files of unit {unit} have changed: their digest is {digest}");
                    return fault(reason, false);
                }
                Err(error) => return fault(format!("unit {unit} {error}"), *error == UnitFilesError::Slow),
            }
            attested.unit_sha256 = Some(expected);
            attested.methods.push("unit-sha256");
        }
        Ok(Some(attested))
    }
}

/// Compares one file.
///
/// # Errors
/// Why it is not the expected one.
pub(super) fn compare_file(
    path: &Path,
    expected: Sha256Digest,
    found: &Result<FileDigest, FileError>,
) -> Result<FileDigest, ContentFault> {
    let path = path.display();
    let (reason, is_temporary) = match found {
        Ok(digest) if digest.sha256 == expected => return Ok(*digest),
        Ok(digest) => (format!("{path} has changed: its digest is {}", digest.sha256), false),
        Err(error) => (format!("{path} {error}"), *error == FileError::Temporary),
    };
    Err(ContentFault { reason, is_temporary })
}
