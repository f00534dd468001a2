use std::fs::File;

use super::*;
use crate::agents::AgentName;
use crate::config::LogTarget;
use crate::policy::{ErrorCode, Refusal};

fn refusal() -> Refusal {
    let refusal = Refusal::new(ErrorCode::SlowDown, "too many requests");
    refusal.with_agent(&AgentName::parse("a").unwrap())
}

fn open(dir: &Path, sync: AuditSync) -> Audit {
    let journal = Journal::start(LogTarget::Stderr, Clock::System).unwrap();
    let section = AuditSection { sync, ..AuditSection::default() };
    Audit::open(dir, section, journal, Clock::System).unwrap()
}

#[tokio::test]
async fn nothing_is_recorded_while_a_sync_fault_stands_that_refuses_it() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [AuditSync::Always, AuditSync::Interval] {
        let audit = open(dir.path(), sync);
        // Without changes, the log's own thread does not end the fault.
        audit.sync();
        let before = audit.health().last_seq();
        audit.health().record_sync_failure(io::Error::from_raw_os_error(libc::EIO));
        let result = audit.record_refusal(refusal(), None).await;
        if sync == AuditSync::Interval {
            assert!(result.is_ok() && audit.ensure_writable().is_ok());
            continue;
        }
        assert!(matches!(result, Err(AuditUnavailable(WriteError::Sync(_)))));
        assert!(audit.ensure_writable().is_err());
        assert_eq!(audit.health().last_seq(), before, "no record says what is refused");
        audit.health().record_sync_success();
        assert!(audit.ensure_writable().is_ok());
        assert_eq!(audit.record_refusal(refusal(), None).await.unwrap().get().suppressed, 1);
    }
}

#[tokio::test]
async fn a_record_that_could_not_be_synced_is_followed_by_one_that_says_that_it_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path(), AuditSync::Always);
    audit.record_event(Event::DaemonStarted, "x").await.unwrap();
    audit.writer.0.pretend_unsyncable();
    let refused = audit.record_event(Event::IssuerReady, "x").await;
    assert!(matches!(refused, Err(AuditUnavailable(WriteError::Sync(_)))));
    let query = AuditQuery { event: Some(Event::ReplyRefused), ..AuditQuery::default() };
    let mut named = None;
    for _ in 0..500 {
        let page = read_page(dir.path(), &query, 10).unwrap();
        named = page.records.last().map(|line| line.get().to_owned());
        if named.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let named: serde_json::Value = serde_json::from_str(&named.unwrap()).unwrap();
    assert_eq!((&named["seq"], &named["outcome"]), (&serde_json::json!(3), &serde_json::json!("refused")));
    assert!(named["detail"].as_str().unwrap().ends_with("in time: 2"), "{named}");
}

#[tokio::test]
async fn refusals_that_were_not_recorded_are_counted_in_the_next_record() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path(), AuditSync::Interval);
    let full_disk = Arc::new(File::options().append(true).open("/dev/full").unwrap());
    let working_file = audit.writer.0.replace_file(full_disk);
    let mut dropped = refusal();
    dropped.suppressed = 5;
    assert!(audit.record_refusal(dropped, None).await.is_err());
    assert!(audit.record_refusal(refusal(), None).await.is_err());
    assert_eq!(audit.count_refusal(refusal()).get().code, ErrorCode::SlowDown);
    audit.pass_counted_refusal(Refusal { suppressed: 3, ..refusal() });
    audit.writer.0.replace_file(working_file);

    assert_eq!(audit.record_refusal(refusal(), None).await.unwrap().get().suppressed, 5 + 1 + 1 + 1 + 3);
    assert_eq!(audit.record_refusal(refusal(), None).await.unwrap().get().suppressed, 0);
    let suppressed: Vec<serde_json::Value> = read_page(dir.path(), &AuditQuery::default(), 10)
        .unwrap()
        .records
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line.get()).unwrap()["suppressed"].take())
        .collect();
    assert_eq!(suppressed, [serde_json::json!(11), serde_json::Value::Null]);
}
