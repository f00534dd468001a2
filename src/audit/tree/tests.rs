use super::*;
use crate::audit::chain::ChainedLog;
use crate::verify::audit::{AuditOptions, FindingKind, verify_audit};

fn open(dir: &Path) -> (ChainedLog, Option<String>) {
    let (log, findings) = ChainedLog::open(dir).unwrap();
    (log, findings.restarted)
}

fn append_lines(log: &mut ChainedLog, count: usize) {
    let body = b"\"time\":\"2026-11-26T10:00:00.000000Z\",\"event\":\"token-issued\"}";
    log.append((0..count).map(|_| &body[..])).unwrap();
}

/// The state of a tree over all whole lines of the files, from the first one on.
fn expected(dir: &Path) -> (u64, [u8; 32]) {
    let mut frontier = Frontier::default();
    for path in log_files(dir).unwrap() {
        for line in fs::read(&path).unwrap().split(|byte| *byte == b'\n') {
            if let Some(line) = WholeLine::from_bytes(line) {
                frontier.push(leaf_hash(&line.id.digest));
            }
        }
    }
    (frontier.size(), frontier.root())
}

fn tree_of(log: &ChainedLog) -> (u64, [u8; 32]) {
    let frontier = log.head().state.frontier;
    (frontier.size(), frontier.root())
}

/// What `hostbadge verify audit --chain-only` finds.
fn findings(dir: &Path) -> Vec<FindingKind> {
    let options = AuditOptions { chain_only: true, ..AuditOptions::default() };
    let report = verify_audit(dir, &options, &mut |_, _| {}).unwrap();
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn the_tree_goes_on_across_restarts_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    let log_id = log.head().state.log_id;
    for round in 0..5 {
        append_lines(&mut log, 3);
        assert_eq!(tree_of(&log), expected(dir.path()));
        if round % 2 == 1 {
            log.start_file().unwrap();
        }
        let reopened = open(dir.path());
        assert_eq!(reopened.1, None);
        log = reopened.0;
        assert_eq!((tree_of(&log), log.head().state.log_id), (expected(dir.path()), log_id));
        assert_eq!(log.head().state.seq, log.seq());
    }
    assert_eq!(findings(dir.path()), []);
    // The state of a file alone is enough: older files can be moved away.
    let files = log_files(dir.path()).unwrap();
    let before = tree_of(&log);
    drop(log);
    for path in &files[..files.len() - 1] {
        fs::remove_file(path).unwrap();
        remove_entries(path).unwrap();
        remove_entries(path).unwrap();
    }
    assert_eq!(tree_of(&open(dir.path()).0), before);
}

#[test]
fn a_state_that_was_lost_is_made_from_an_older_one_and_without_any_the_tree_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    append_lines(&mut log, 3);
    log.start_file().unwrap();
    append_lines(&mut log, 3);
    let (path, before, log_id) = (log.path().to_owned(), tree_of(&log), log.head().state.log_id);
    drop(log);
    fs::remove_file(checkpoints_file(&path)).unwrap();
    let (log, report) = open(dir.path());
    assert_eq!((tree_of(&log), log.head().state.log_id, report), (before, log_id, None));
    assert!(checkpoints_file(&path).exists(), "it is written again");
    drop(log);
    for path in log_files(dir.path()).unwrap() {
        fs::remove_file(checkpoints_file(&path)).unwrap();
    }
    let (mut log, report) = open(dir.path());
    assert_eq!(report, None, "as after an upgrade");
    let state = log.head().state;
    assert_eq!((state.begins_after, state.seq, state.frontier.size()), (6, 6, 0));
    assert_ne!(state.log_id, log_id);
    append_lines(&mut log, 2);
    drop(log);
    let (log, report) = open(dir.path());
    assert_eq!((log.head().state.frontier.size(), report), (2, None));
    assert_eq!(findings(dir.path()), []);
}

#[test]
fn a_tree_whose_records_were_changed_begins_anew_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    append_lines(&mut log, 5);
    let (path, log_id) = (log.path().to_owned(), log.head().state.log_id);
    drop(log);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("token-issued", "token-denied", 1)).unwrap();
    let (log, report) = open(dir.path());
    assert!(report.unwrap().contains("could not be continued after record 5"));
    assert_ne!(log.head().state.log_id, log_id);
    assert_eq!(log.head().state.begins_after, 5);
}

#[test]
fn what_a_loss_of_power_leaves_forks_neither_chain_nor_tree() {
    let tails: [&[u8]; 5] = [&[0; 1], &[0; 5000], b"{\"v\":1,\"kind\":\"tr", b"\n\n\xff\xff\n", b"{}\n\0\0"];
    for tail in tails {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path());
        append_lines(&mut log, 4);
        let (path, before) = (log.path().to_owned(), log.head().state);
        drop(log);
        for path in [path.clone(), checkpoints_file(&path)] {
            OpenOptions::new().append(true).open(path).unwrap().write_all(tail).unwrap();
        }
        let (log, findings_at_open) = ChainedLog::open(dir.path()).unwrap();
        let mut log = log;
        assert_eq!(log.head().state, before, "{tail:?}");
        assert!(findings_at_open.set_aside.is_some() && findings_at_open.restarted.is_none());
        log.append([&b"\"event\":\"audit-torn\"}"[..]].into_iter()).unwrap();
        append_lines(&mut log, 2);
        assert_eq!(tree_of(&log), expected(dir.path()));
        assert_eq!(findings(dir.path()), [], "{tail:?}");
        let (reopened, report) = open(dir.path());
        assert_eq!((tree_of(&reopened), report), (tree_of(&log), None));
    }
}

/// Lines that a crash destroyed leave numbers that nobody uses again, and the tree knows the last line.
#[test]
fn skipped_numbers_are_no_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path());
    append_lines(&mut log, 4);
    log.start_file().unwrap();
    fs::write(log.path(), vec![b'x'; 4000]).unwrap();
    drop(log);
    let (mut log, report) = open(dir.path());
    assert_eq!(report, None);
    assert!(log.seq() > 4, "{}", log.seq());
    assert_eq!((log.head().state.seq, log.head().state.frontier.size()), (4, 4));
    log.append([&b"\"event\":\"audit-torn\"}"[..]].into_iter()).unwrap();
    append_lines(&mut log, 1);
    assert_eq!(log.head().state.frontier.size(), 6);
    assert_eq!(findings(dir.path()), []);
    let (reopened, report) = open(dir.path());
    assert_eq!((tree_of(&reopened), report), (tree_of(&log), None));
}
