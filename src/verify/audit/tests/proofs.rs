//! Proofs of records and of consistency.

use super::*;

#[test]
fn each_record_is_proven_by_itself_and_the_log_continues_each_checkpoint() {
    let mut log = log();
    let keys = log.tpm.keys();
    for seq in 1..=14 {
        let proof = prove_record(log.path(), seq).unwrap();
        let checkpoint = proof.checkpoint.verify(&keys, &[9; 16]).unwrap().checkpoint;
        assert_eq!(proof.index, seq - 1);
        let leaf = leaf_hash(&sha256(proof.record.as_bytes()));
        assert!(is_included(&leaf, proof.index, checkpoint.size, &proof.hashes, &checkpoint.root));
        assert!(proof.record.contains(&format!("\"seq\":{seq},")));
        let text = proof.to_tlog_proof();
        assert!(text.starts_with("c2sp.org/tlog-proof@v1\nextra ") && text.ends_with(&proof.checkpoint.note));
    }
    let note = prove_record(log.path(), 2).unwrap().checkpoint.note;
    let proof = prove_consistency(log.path(), &note).unwrap();
    assert_eq!((proof.old_size, proof.checkpoint.unverified().unwrap().size), (5, 14));
    log.write(1);
    let missing = prove_record(log.path(), 15).unwrap_err().to_string();
    assert!(missing.contains("no checkpoint covers record 15 yet"), "{missing}");
    log.checkpoint();
    prove_record(log.path(), 15).unwrap();
    assert!(prove_record(log.path(), 16).is_err() && prove_record(log.path(), 0).is_err());
    let other = SampleLog::new();
    assert!(prove_consistency(other.path(), &note).is_err());
    // From the second file alone.
    for extension in ["jsonl", CHECKPOINTS_EXTENSION] {
        fs::remove_file(file(log.path(), 1, extension)).unwrap();
    }
    assert_eq!(prove_record(log.path(), 11).unwrap().index, 10);
    assert!(prove_record(log.path(), 3).is_err());
    change_lines(&file(log.path(), 9, "jsonl"), |lines| {
        lines[1] = lines[1].replace("token-issued", "token-denied")
    });
    assert!(prove_record(log.path(), 11).unwrap_err().to_string().contains("verify audit"));
}
