//! An older copy of the state, compared with the state manifest. No daemon is started on a copy: it would have the TPM
//! count, and the state of this host would be the older one.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::HEXLOWER;
use nix::poll::{PollFd, PollTimeout, poll};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::super::files::write_file;
use super::attempts::Attempts;
use super::context::Context;
use crate::config::escape_unprintable;

/// The state manifest.
const MANIFEST: &str = "ledger.json";
/// What the manifest lists for a file that does not exist.
const ABSENT: &str = "absent";
/// Largest file that is read. The daemon reads no larger ones of its state.
const MAX_FILE_LEN: u64 = 8 * 1024 * 1024;
/// Files that a manifest lists, and bytes of a name. The daemon's own manifests have fewer.
const MAX_FILES: usize = 64;
const MAX_NAME_LEN: usize = 64;
/// The manifest and a file are replaced one after the other, so a comparison that fails is repeated.
const COMPARISONS: u32 = 5;
/// The time between two comparisons, in milliseconds.
const INTERVAL: u16 = 200;

/// The part of the manifest that is compared, and what is kept from run to run. It has no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    generation: u64,
    counter: u32,
    files: BTreeMap<String, Vec<String>>,
}

pub(super) fn run(context: &Context, attempts: &mut Attempts) {
    let attempt = "the state files, against the state manifest";
    attempts.skipped(
        "the databases of the state, and the HMAC of the state manifest",
        "the daemon alone has the key of the HMAC and the digests of rows; it compares them at each start",
    );
    let manifest = match compared(&context.state) {
        Err(e) => return attempts.skipped(attempt, format!("{}: {e}", context.state.display())),
        Ok((manifest, differing)) => {
            let detail = match differing.is_empty() {
                true => format!("generation {}", manifest.generation),
                false => format!("older or altered: {}", escape_unprintable(&differing.join(", "))),
            };
            attempts.judge(attempt, differing.is_empty(), detail);
            manifest
        }
    };
    let attempt = "the state manifest, against that of an earlier self-test";
    match &context.remember {
        None => attempts.skipped(attempt, "no file is named by --remember"),
        Some(file) => {
            // An older state does not replace the later one, so that each self-test reports it.
            let is_kept = judge_generation(attempts, attempt, &manifest, remembered(file));
            let text = serde_json::to_vec(&manifest).unwrap_or_default();
            if is_kept && let Err(e) = write_file(file, &text, 0o600) {
                attempts.skipped("keeping the state manifest for the next self-test", e.to_string());
            }
        }
    }
    attempts.skipped(
        "an older copy of the whole state, at a start of the daemon",
        "a second daemon with this TPM would have its counter count, and this host's state would be the older one; the \
         daemon compares the counter at each start",
    );
}

/// The manifest, and the files that are not those that it lists.
fn compared(dir: &Path) -> io::Result<(Manifest, Vec<String>)> {
    let mut result = compare(dir)?;
    for _ in 1..COMPARISONS {
        if result.1.is_empty() {
            break;
        }
        poll(&mut [] as &mut [PollFd<'_>], PollTimeout::from(INTERVAL))?;
        result = compare(dir)?;
    }
    Ok(result)
}

fn compare(dir: &Path) -> io::Result<(Manifest, Vec<String>)> {
    #[derive(Deserialize)]
    struct ManifestFile {
        entry: Manifest,
    }
    let file: ManifestFile = serde_json::from_slice(&read_regular(&dir.join(MANIFEST))?)?;
    if file.entry.files.len() > MAX_FILES {
        return Err(io::Error::other(format!("{MANIFEST} lists more than {MAX_FILES} files")));
    }
    let mut differing = Vec::new();
    // Databases are listed with the digest of their rows.
    for (name, accepted) in file.entry.files.iter().filter(|(name, _)| name.ends_with(".json")) {
        if !is_plain_name(name) {
            differing.push(name.chars().take(MAX_NAME_LEN).collect());
            continue;
        }
        let found = match read_regular(&dir.join(name)) {
            Ok(text) => HEXLOWER.encode(digest(&SHA256, &text).as_ref()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => ABSENT.to_owned(),
            Err(e) => return Err(e),
        };
        if !accepted.contains(&found) {
            differing.push(name.clone());
        }
    }
    Ok((file.entry, differing))
}

/// Whether a name is that of a file in the state directory. The daemon lists no other ones, so none is opened.
fn is_plain_name(name: &str) -> bool {
    name.len() <= MAX_NAME_LEN && !name.contains(['/', '\0'])
}

/// Reads a regular file of at most [`MAX_FILE_LEN`] bytes, and follows no link.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{name} is no regular file")));
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_LEN {
        return Err(io::Error::other(format!("{name} has more than {MAX_FILE_LEN} bytes")));
    }
    Ok(content)
}

fn remembered(file: &Path) -> Result<Option<Manifest>, String> {
    match read_regular(file) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| format!("{}: {e}", file.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", file.display())),
    }
}

/// Each change of the state has a higher generation, which the TPM counts. Returns whether the next self-test compares
/// with this state.
fn judge_generation(
    attempts: &mut Attempts,
    attempt: &str,
    now: &Manifest,
    before: Result<Option<Manifest>, String>,
) -> bool {
    let before = match before {
        Err(why) => {
            attempts.skipped(attempt, why);
            return false;
        }
        Ok(None) => {
            attempts.skipped(attempt, "this is the first self-test; the next one compares");
            return true;
        }
        Ok(Some(before)) => before,
    };
    if before.counter != now.counter {
        attempts.skipped(attempt, "an administrator accepted the state since: the TPM has another counter");
        return true;
    }
    let (then, now_at) = (before.generation, now.generation);
    let (is_held, detail) = match now_at.cmp(&then) {
        Ordering::Less => (false, format!("generation {now_at} is older than {then}")),
        Ordering::Equal if !accepts_no_more(now, &before) => (
            false,
            format!("other files in the same generation {now_at}: the TPM would accept the older ones"),
        ),
        _ => (true, format!("generation {now_at}, {then} then")),
    };
    attempts.judge(attempt, is_held, detail);
    is_held
}

/// Whether a manifest accepts what an earlier one of the same generation did, or less of it: while a file is replaced,
/// the manifest lists its old and its new digest, and afterwards the new one alone.
fn accepts_no_more(now: &Manifest, before: &Manifest) -> bool {
    // A database that is not listed is absent.
    let absent = vec![ABSENT.to_owned()];
    let accepted = |of: &Manifest, name: &String| of.files.get(name).unwrap_or(&absent).clone();
    let mut names = now.files.keys().chain(before.files.keys());
    names.all(|name| {
        let before = accepted(before, name);
        accepted(now, name).iter().all(|digest| before.contains(digest))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::super::attempts::Outcome;
    use super::*;

    fn manifest(generation: u64, digest: &str) -> Manifest {
        Manifest { generation, counter: 7, files: [("ca.json".to_owned(), vec![digest.to_owned()])].into() }
    }

    #[test]
    fn an_older_generation_and_a_change_without_one_are_holes() {
        for (now, before, outcome) in [
            (manifest(5, "a"), manifest(5, "a"), Outcome::Held),
            (manifest(6, "b"), manifest(5, "a"), Outcome::Held),
            (manifest(4, "a"), manifest(5, "a"), Outcome::Hole),
            (manifest(5, "b"), manifest(5, "a"), Outcome::Hole),
            (Manifest { counter: 8, ..manifest(1, "b") }, manifest(5, "a"), Outcome::Skipped),
        ] {
            let mut attempts = Attempts::new();
            let is_kept = judge_generation(&mut attempts, "x", &now, Ok(Some(before)));
            assert_eq!(attempts.results("x"), [outcome], "{now:?}");
            assert_eq!(is_kept, outcome != Outcome::Hole, "an older state does not replace the later one");
        }
    }

    #[test]
    fn a_replacement_that_has_ended_since_is_no_hole() {
        let of = |files: &[(&str, &[&str])]| Manifest {
            generation: 5,
            counter: 7,
            files: files
                .iter()
                .map(|(name, digests)| (name.to_string(), digests.iter().map(ToString::to_string).collect()))
                .collect(),
        };
        let replacing = of(&[("ca.json", &["old", "new"])]);
        let first_credential = of(&[("ca.json", &["new"]), ("credentials.db", &[ABSENT, "rows"])]);
        for (now, before, outcome) in [
            (of(&[("ca.json", &["new"])]), replacing.clone(), Outcome::Held),
            (replacing.clone(), of(&[("ca.json", &["new"])]), Outcome::Hole),
            (of(&[("ca.json", &["third"])]), replacing, Outcome::Hole),
            (of(&[("ca.json", &["new"])]), first_credential.clone(), Outcome::Held),
            (first_credential, of(&[("ca.json", &["new"])]), Outcome::Hole),
        ] {
            let mut attempts = Attempts::new();
            judge_generation(&mut attempts, "x", &now, Ok(Some(before.clone())));
            assert_eq!(attempts.results("x"), [outcome], "{now:?} after {before:?}");
        }
    }

    #[test]
    fn a_file_that_the_manifest_does_not_list_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let digest = HEXLOWER.encode(digest(&SHA256, b"new").as_ref());
        let files =
            serde_json::json!({ "ca.json": [digest], "seal.json": [ABSENT], "credentials.db": ["x"] });
        let text = serde_json::json!({ "entry": { "generation": 3, "counter": 1, "files": files } });
        fs::write(dir.path().join(MANIFEST), text.to_string()).unwrap();
        fs::write(dir.path().join("ca.json"), "new").unwrap();
        assert_eq!(compared(dir.path()).unwrap().1, Vec::<String>::new());
        fs::write(dir.path().join("ca.json"), "old").unwrap();
        fs::write(dir.path().join("seal.json"), "{}").unwrap();
        assert_eq!(compare(dir.path()).unwrap().1, ["ca.json", "seal.json"]);
    }

    /// A state directory whose manifest lists this file, with any digest.
    fn state_with(name: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let files = serde_json::json!({ name: ["x"] });
        let text = serde_json::json!({ "entry": { "generation": 3, "counter": 1, "files": files } });
        fs::write(dir.path().join(MANIFEST), text.to_string()).unwrap();
        dir
    }

    #[test]
    fn no_file_outside_of_the_directory_is_read() {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("ca.json");
        // Opened, it would be an error, and not a file that differs.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let long = format!("{}.json", "n".repeat(5000));
        for name in [path.to_str().unwrap(), "../ca.json", long.as_str()] {
            let differing = compare(state_with(name).path()).unwrap().1;
            assert_eq!(differing, [name.chars().take(MAX_NAME_LEN).collect::<String>()]);
        }
    }

    #[test]
    fn links_special_files_and_large_files_are_not_read() {
        let dir = state_with("ca.json");
        let path = dir.path().join("ca.json");
        let error = || {
            let error = compare(dir.path()).unwrap_err().to_string();
            fs::remove_file(&path).unwrap();
            error
        };
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(error(), "ca.json is no regular file");
        File::create(&path).unwrap().set_len(MAX_FILE_LEN + 1).unwrap();
        assert_eq!(error(), "ca.json has more than 8388608 bytes");
        std::os::unix::fs::symlink(dir.path().join(MANIFEST), &path).unwrap();
        assert!(!error().is_empty());
    }
}
