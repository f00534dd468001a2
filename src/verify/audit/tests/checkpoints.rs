//! Checkpoints that are missing, forged, or by another key or index.

use super::*;

#[test]
fn a_removed_checkpoint_and_an_index_that_moved_otherwise_are_found() {
    let log = log();
    let removed = with_change(&log, |dir| {
        change_lines(&file(dir, 9, "checkpoints"), |lines| drop(lines.remove(1)));
    });
    assert_eq!(first_bad(&removed), (FindingKind::CheckpointGap, Some(14)));
    let first = with_change(&log, |dir| {
        change_lines(&file(dir, 1, "checkpoints"), |lines| drop(lines.remove(1)));
    });
    assert_eq!(first_bad(&first), (FindingKind::CheckpointGap, Some(12)));
    let repeated = with_change(&log, |dir| {
        change_lines(&file(dir, 1, "checkpoints"), |lines| lines.push(lines[1].clone()));
    });
    assert_eq!(first_bad(&repeated), (FindingKind::CheckpointGap, Some(5)));
    let reordered = with_change(&log, |dir| {
        change_lines(&file(dir, 9, "checkpoints"), |lines| lines.swap(1, 2));
    });
    assert!(!reordered.is_valid());
    // The last one: what it covered is not covered any more, which the report says.
    let last = with_change(&log, |dir| {
        change_lines(&file(dir, 9, "checkpoints"), |lines| drop(lines.pop()));
    });
    assert!(last.is_valid());
    assert_eq!((last.covered_to, last.not_covered()), (Some(12), 2));
    assert_eq!(last.findings[0].kind, FindingKind::NotCovered);
    // Together with the records, nothing in the directory shows it.
    let all = with_change(&log, |dir| {
        for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
            change_lines(&file(dir, 9, extension), |lines| drop(lines.pop()));
        }
        change_lines(&file(dir, 9, "jsonl"), |lines| drop(lines.pop()));
    });
    assert!(all.is_valid() && all.findings.is_empty());

    let mut log = SampleLog::new();
    log.write(1);
    log.checkpoint();
    log.tpm.value = extended(&log.tpm.value, &[1; 32]);
    log.write(1);
    log.checkpoint();
    assert_eq!(first_bad(&verify(&log)), (FindingKind::CheckpointGap, Some(2)));
    let mut log = SampleLog::new();
    log.write(1);
    log.checkpoint();
    log.tpm.value = first_value();
    log.write(1);
    log.checkpoint();
    let report = verify(&log);
    assert!(report.first_bad().unwrap().message.contains("deleted and defined again"), "{report:#?}");
}

/// Each forgery of one part, made with the real keys where the forger could use them.
#[test]
fn forged_checkpoints_are_found() {
    let mut log = SampleLog::new();
    log.write(3);
    let forge = |log: &SampleLog, forge: &dyn Fn(&mut SampleLog) -> CheckpointLine| {
        let mut copy = SampleLog::new();
        copy.tpm = log.tpm.duplicate();
        copy.write(3);
        let line = forge(&mut copy);
        copy.append_entry(&Entry::Checkpoint(Box::new(line)));
        let report = verify_with(copy.path(), &options(log));
        report.first_bad().unwrap_or_else(|| panic!("{report:#?}")).message.clone()
    };
    let check = |expected: &str, change: &dyn Fn(&mut SampleLog) -> CheckpointLine| {
        let message = forge(&log, change);
        assert!(message.contains(expected), "{message}");
    };
    let with = |content: &dyn Fn(&mut Checkpoint)| {
        let mut log = SampleLog::new();
        log.write(3);
        let mut changed = log.content();
        content(&mut changed);
        changed
    };
    check("host key did not make", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        let other = SampleTpm::new().note(&copy.content());
        let signature = |note: &str| {
            let line = note.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
            (BASE64.decode(line.as_bytes()).unwrap(), line)
        };
        // The id of the real key, with the signature of another.
        let ((own, line_of_own), (foreign, _)) = (signature(&line.note), signature(&other));
        let spliced = BASE64.encode(&[&own[..4], &foreign[4..]].concat());
        line.note = line.note.replace(&line_of_own, &spliced);
        line
    });
    check("another key", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        line.note = SampleTpm::new().note(&copy.content());
        line
    });
    check("the AK did not make the signature", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        line.after = SampleTpm::new().certify(&after_binding(&copy.content().digest()));
        line
    });
    check("made for another checkpoint", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        line.after = copy.tpm.certify(&before_binding(&copy.content().digest()));
        line
    });
    check("made for another checkpoint", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        std::mem::swap(&mut line.before, &mut line.after);
        line
    });
    check("its Name is not the pinned one", &|copy| {
        let digest = copy.content().digest();
        let mut line = copy.tpm.checkpoint(&copy.content());
        copy.tpm.nv_index += 1;
        line.after = copy.tpm.certify(&after_binding(&digest));
        line
    });
    check("not trusted", &|copy| {
        copy.tpm.nv_index += 1;
        copy.tpm.checkpoint(&copy.content())
    });
    check("not trusted", &|copy| SampleTpm::new().checkpoint(&copy.content()));
    check("certifies no NV index", &|copy| {
        let mut line = copy.tpm.checkpoint(&copy.content());
        line.after = copy.tpm.other_certification(&after_binding(&copy.content().digest()));
        line
    });
    check("was not extended with the digest", &|copy| {
        let content = copy.content();
        let mut line = copy.tpm.checkpoint(&content);
        line.after = copy.tpm.certify(&after_binding(&content.digest()));
        copy.tpm.value = extended(&copy.tpm.value, &[1; 32]);
        line.after = copy.tpm.certify(&after_binding(&content.digest()));
        line
    });
    check("a past that is not in the directory", &|copy| {
        copy.tpm.value = [3; 32];
        copy.tpm.checkpoint(&copy.content())
    });
    for (expected, content) in [
        ("not the one that the TPM certified", with(&|content| content.head = [1; 32])),
        ("not the one that the TPM certified", with(&|content| content.root = [1; 32])),
        ("not as many as the TPM certified", with(&|content| content.size = 2)),
        ("not as many as the TPM certified", with(&|content| content.begins_after = 1)),
        ("another name", with(&|content| content.origin = origin("otherhost", &[9; 16]))),
        ("another name", with(&|content| content.origin = origin(super::sample::HOST, &[8; 16]))),
        ("this is of record 4", with(&|content| content.seq = 4)),
    ] {
        check(expected, &|copy| copy.tpm.checkpoint(&content));
    }
    log.checkpoint();
    assert_valid(&verify(&log));
}

#[test]
fn keys_that_an_ak_does_not_certify_are_refused() {
    let tpm = SampleTpm::new();
    let line = serde_json::to_value(&tpm.line).unwrap();
    let other = serde_json::to_value(&SampleTpm::new().line).unwrap();
    let parse = |line: &serde_json::Value| LogKeys::parse_file(format!("{line}\n").as_bytes());
    assert_eq!(parse(&line).unwrap(), [tpm.keys()]);
    for member in ["ak", "host_key", "certification"] {
        let mut changed = line.clone();
        changed[member] = other[member].clone();
        assert!(parse(&changed).is_err(), "{member}");
    }
    for (member, value) in
        [("v", 2.into()), ("nv_index", 0x0180_4881.into()), ("host", "a/b".into()), ("x", 1.into())]
    {
        let mut changed = line.clone();
        changed[member] = value;
        assert!(parse(&changed).is_err(), "{member}");
    }
    // A host key in place of the AK: it signs whatever it is given.
    let mut unrestricted = line.clone();
    unrestricted["ak"] = line["host_key"].clone();
    assert!(parse(&unrestricted).unwrap_err().to_string().contains("those of an AK"));
    assert!(LogKeys::parse_file(b"").unwrap().is_empty());
    // What a crash left behind the last newline is no line; a line that is damaged otherwise is one.
    let whole = format!("{line}\n");
    for rest in ["", "{\"v\":1,\"ho", "\0\0\0"] {
        assert_eq!(LogKeys::parse_file(format!("{whole}{rest}").as_bytes()).unwrap(), [tpm.keys()]);
    }
    assert_eq!(LogKeys::parse_file(format!("{whole}{line}").as_bytes()).unwrap().len(), 2);
    let damaged = LogKeys::parse_file(format!("{whole}{{\"v\":1,\"ho\n{whole}").as_bytes()).unwrap_err();
    assert!(damaged.to_string().contains("line 2"), "{damaged}");
}

/// A new index has its first value, also where the beginning of the log is elsewhere.
#[test]
fn another_index_or_ak_in_the_middle_has_no_past_of_its_own() {
    let log_with = |change: &dyn Fn(&mut SampleTpm)| {
        let mut log = SampleLog::new();
        log.write(1);
        log.checkpoint();
        let mut all = vec![log.tpm.keys()];
        change(&mut log.tpm);
        log.write(1);
        log.checkpoint();
        all.push(log.tpm.keys());
        let partial = AuditOptions { keys: all, partial: true, ..AuditOptions::default() };
        verify_with(log.path(), &partial)
    };
    let other_index = |value| {
        move |tpm: &mut SampleTpm| {
            tpm.use_index(AUDIT_INDICES.start + 1);
            tpm.value = value;
        }
    };
    let other_ak = |value| {
        move |tpm: &mut SampleTpm| {
            *tpm = SampleTpm::new();
            tpm.value = value;
        }
    };
    for report in [log_with(&other_index(first_value())), log_with(&other_ak(first_value()))] {
        assert!(report.is_valid(), "{report:#?}");
        assert_eq!(report.findings[0].kind, FindingKind::TpmChanged);
    }
    for report in [log_with(&other_index([3; 32])), log_with(&other_ak([3; 32]))] {
        assert_eq!(first_bad(&report), (FindingKind::CheckpointGap, Some(2)));
    }
}

#[test]
fn a_log_from_before_checkpoints_has_its_chain_alone_and_its_records_stay_covered_by_it() {
    let mut log = SampleLog::without_tree();
    log.write(6);
    assert_eq!(first_bad(&verify(&log)), (FindingKind::NotCovered, None));
    let chain_only = AuditOptions { chain_only: true, ..AuditOptions::default() };
    let report = verify_with(log.path(), &chain_only);
    assert_valid(&report);
    assert_eq!((report.covered_to, report.not_covered()), (None, 6));
    // The upgrade.
    log.state.begins_after = 6;
    log.state.frontier = Frontier::default();
    log.append_entry(&Entry::Tree(log.state.clone()));
    log.write(3);
    log.checkpoint();
    let report = verify(&log);
    assert_valid(&report);
    assert_eq!((report.covered_to, report.tree_from), (Some(9), Some(7)));
    let changed = with_change(&log, |dir| {
        change_lines(&file(dir, 1, "jsonl"), |lines| {
            lines[2] = lines[2].replace("token-issued", "token-denied")
        });
    });
    assert_eq!(first_bad(&changed), (FindingKind::RecordChanged, Some(3)));
}

#[test]
fn a_tree_that_began_anew_and_another_tpm_are_told() {
    let mut log = SampleLog::new();
    log.write(3);
    log.checkpoint();
    log.state = TreeState {
        log_id: [8; 16],
        begins_after: log.state.seq,
        frontier: Frontier::default(),
        ..log.state.clone()
    };
    log.append_entry(&Entry::Tree(log.state.clone()));
    log.write(3);
    log.checkpoint();
    let report = verify(&log);
    assert!(report.is_valid(), "{report:#?}");
    assert_eq!(report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::LogRestarted]);
    let keys = log.tpm.keys();
    log.tpm = SampleTpm::new();
    log.write(1);
    log.checkpoint();
    let both = AuditOptions { keys: vec![keys, log.tpm.keys()], ..AuditOptions::default() };
    let report = verify_with(log.path(), &both);
    assert!(report.is_valid(), "{report:#?}");
    assert_eq!(report.findings.last().unwrap().kind, FindingKind::TpmChanged);
    assert_eq!(first_bad(&verify(&log)).0, FindingKind::Checkpoint, "the first AK is not trusted");
}
