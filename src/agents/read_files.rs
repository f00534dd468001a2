//! Reads the files of a directory on several threads.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;

use crate::config::Diagnostic;

use super::file::{self, ReadAgent};
use super::role_set::RoleSet;
use super::source::FileRules;

/// Threads that read at the same time.
const MAX_THREADS: usize = 4;
/// Files that are worth a thread.
const MIN_FILES_OF_THREAD: usize = 64;

/// Reads each file as [`file::read`] does. The results are in the order of the files. Blocking.
pub(super) fn read_files(
    paths: &[PathBuf],
    rules: FileRules,
    roles: &RoleSet,
) -> Vec<Result<ReadAgent, Vec<Diagnostic>>> {
    let read = |paths: &[PathBuf]| -> Vec<Result<ReadAgent, Vec<Diagnostic>>> {
        paths.iter().map(|path| file::read(path, rules, roles)).collect()
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(MAX_THREADS).min(paths.len() / MIN_FILES_OF_THREAD);
    if threads < 2 {
        return read(paths);
    }
    thread::scope(|scope| {
        let start = |paths| {
            let thread = thread::Builder::new().name("agents-read".into());
            (paths, thread.spawn_scoped(scope, move || read(paths)))
        };
        let started: Vec<_> = paths.chunks(paths.len().div_ceil(threads)).map(start).collect();
        let finish = |(paths, thread): (&[PathBuf], std::io::Result<thread::ScopedJoinHandle<'_, _>>)| {
            match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // The process has as many threads as it may have.
                Err(_) => read(paths),
            }
        };
        started.into_iter().flat_map(finish).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_files_are_read_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..300).map(|n| dir.path().join(format!("{n}.toml"))).collect();
        for (n, path) in paths.iter().enumerate() {
            let text = match n % 100 {
                99 => "name = \"\"".to_owned(),
                _ => format!("name = \"a{n}\"\n[match]\nuser = {n}\n"),
            };
            std::fs::write(path, text).unwrap();
        }
        let results = read_files(
            &paths,
            FileRules { trust_domain_length: 35, requires_owner: false },
            &RoleSet::default(),
        );
        assert_eq!(results.len(), paths.len());
        for (n, result) in results.iter().enumerate() {
            match result {
                Ok(agent) => assert_eq!(agent.entry.name.as_str(), format!("a{n}")),
                Err(faults) => assert!(n % 100 == 99 && faults[0].file == paths[n], "{n}: {faults:?}"),
            }
        }
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 3);
    }
}
