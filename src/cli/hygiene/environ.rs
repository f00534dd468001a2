//! Environments of processes, as the kernel shows them in `/proc`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use zeroize::{Zeroize, Zeroizing};

use super::finding::{Finding, Place};
use super::scanner::Scanner;
use crate::secrets::{Find, SecretKind, find_secrets, secret_variable};

/// Largest environment that is read, in bytes: more than the kernel gives a program by default.
const MAX_ENVIRON_SIZE: u64 = 4 * 1024 * 1024;

/// What tells a variable and its value from others.
type VariableKey = (String, [u8; 32]);

/// Looks at the environments of all processes that this user may read, except this one.
pub(super) fn scan(scanner: &mut Scanner) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let own = std::process::id();
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut known: HashMap<VariableKey, usize> = HashMap::new();
    let mut environ = Zeroizing::new(Vec::new());
    for pid in pids.into_iter().filter(|pid| *pid != own) {
        match read_environ(pid, &mut environ) {
            Ok(()) => {
                scanner.report.processes += 1;
                for entry in environ.split(|byte| *byte == 0) {
                    scan_variable(scanner, pid, entry, &mut known);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => scanner.report.hidden_processes += 1,
            // It has ended.
            Err(_) => {}
        }
        environ.zeroize();
        scanner.tick();
    }
}

fn read_environ(pid: u32, environ: &mut Vec<u8>) -> io::Result<()> {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/{pid}/environ"))?;
    file.take(MAX_ENVIRON_SIZE).read_to_end(environ)?;
    Ok(())
}

/// Looks at one `NAME=value`. Processes inherit their environment, so the same variable of several is one finding.
fn scan_variable(scanner: &mut Scanner, pid: u32, entry: &[u8], known: &mut HashMap<VariableKey, usize>) {
    let Some(sign) = entry.iter().position(|byte| *byte == b'=') else { return };
    let name = String::from_utf8_lossy(&entry[..sign]).into_owned();
    let mut first: Option<Find> = None;
    find_secrets(entry, |find| first = first.or(Some(find)));
    let is_named = || std::str::from_utf8(entry).is_ok_and(|text| secret_variable(text).is_some());
    let (kind, value) = match first {
        Some(find) => (find.kind, &entry[find.start..find.end]),
        None if is_named() => (SecretKind::Assignment, &entry[sign + 1..]),
        None => return,
    };
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, value).as_ref());
    let listed = scanner.report.findings.len();
    if let Some(at) = known.get(&(name.clone(), digest)) {
        if let Some(Finding { place: Place::Process { more, .. }, .. }) = scanner.report.findings.get_mut(*at)
        {
            *more += 1;
        }
        return;
    }
    let what = scanner.describe(kind, value);
    let place = Place::Process { pid: pid.cast_signed(), command: command(pid), more: 0 };
    known.insert((name.clone(), digest), listed);
    scanner.report.add(Finding { place, variable: Some(name), what });
}

/// The name of a process; empty if it has ended.
fn command(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}
