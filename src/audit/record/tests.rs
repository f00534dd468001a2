use super::*;
use crate::audit::line::{LineId, MAX_BODY_LEN, append_line, parse};
use crate::audit::policy_member;
use crate::audit::text::MAX_EXE_PATH;
use crate::correlation::{Correlation, RequestContext};
use crate::policy::Refusal;

/// The longest member `peer`: its texts at their bounds, a digest, and 192 bytes for names and numbers.
const MAX_PEER_LEN: usize = MAX_CALLER_TEXT + MAX_NAME + MAX_EXE_PATH + 64 + 192;

const NOW: Timestamp = Timestamp::from_secs(1 << 32);

fn request() -> RequestContext {
    let traceparent: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let correlation = Correlation::of_request([traceparent]);
    RequestContext { verb: "POST", path: "/v1/keys/recovery/confirm", correlation }
}

fn clock() -> Clock {
    let clock = Clock::manual(NOW);
    clock.set_sync(crate::clock::ClockSync::Unsynchronized);
    clock
}

/// The members of a record as a reader gets them.
fn members(record: &Record<'_>) -> serde_json::Value {
    let mut line = Vec::new();
    let body = record.to_json_members(&clock()).unwrap();
    append_line(&mut line, LineId::without_digest(0), &body);
    line.pop();
    assert!(parse(&line).is_some());
    serde_json::from_slice(&line).unwrap()
}

#[test]
fn every_kind_of_record_fits_a_line_whatever_its_texts_contain() {
    for unit in ["x", "\u{1}", "\u{7f}", "\"", "\u{2028}", "🦀"] {
        let text = unit.repeat(40_000);
        let text = text.as_str();
        let decided = |event| Record {
            agent: Some(name(text)),
            owner: Some(name(text)),
            tenant: Some(name(text)),
            fingerprint: Some(Fingerprint::of(b"")),
            verdicts: Some(Verdicts::PASS),
            posture: Some(Posture::Unaccepted),
            policy: Some(PolicySetId { version: u64::MAX, sha256: [255; 32] }),
            request: Some(request()),
            exp: Some(u64::MAX),
            ..Record::new(event, NOW)
        };
        let token = Record {
            audience: Some(granted(text)),
            scope: Some(granted(text)),
            jti: Some(name(text)),
            kid: Some(name(text)),
            ..decided(Event::TokenIssued)
        };
        let certificate = Record {
            spiffe_id: Some(granted(text)),
            serial: Some(name(text)),
            ..decided(Event::CertificateIssued)
        };
        let mut refusal = Refusal::new(ErrorCode::TemporarilyUnavailable, text).with_audience(text);
        refusal.suppressed = u64::MAX;
        let refusal = Record {
            owner: Some(name(text)),
            tenant: Some(name(text)),
            request: Some(request()),
            ..Record::for_refusal(&refusal, None, NOW)
        };
        let event = Record::for_key_event(Event::EnrollmentAnswered, text, Some(text), text, NOW);
        for record in [&token, &certificate, &refusal, &event] {
            let length = record.to_json_members(&clock()).unwrap().len();
            let length = length + MAX_PEER_LEN + policy_member::MAX_LEN;
            assert!(length <= MAX_BODY_LEN, "{unit:?}: {length} bytes of {record:.100?}");
            assert!(record.journal_entry().message.len() <= 8192);
        }
    }
}

#[test]
fn a_record_names_boot_clock_and_request_before_its_other_members() {
    let record = Record { request: Some(request()), ..Record::for_event(Event::DaemonStarted, "x", NOW) };
    let value = members(&record);
    assert_eq!(value["boot_id"], crate::peer::boot_id());
    assert!(value["monotonic_us"].as_u64().unwrap() > 0);
    assert_eq!(value["clock"], "unsynchronized");
    assert_eq!(value.get("clock_error_us"), None, "an unsynchronized clock has no bound");
    assert_eq!(value["correlation_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(value["span_id"].as_str().unwrap().len(), 16);
    assert_eq!(value["request"], "POST /v1/keys/recovery/confirm");
    assert_eq!(value["outcome"], "done");

    let value = members(&Record::for_event(Event::PoliciesRejected, "x", NOW));
    assert_eq!(value["outcome"], "failed");
    assert_eq!(value.get("correlation_id"), None, "no request");
}

#[test]
fn the_bound_of_a_synchronized_clock_is_recorded() {
    let mut text = Vec::new();
    let quality = crate::clock::ClockQuality {
        boot_time: crate::clock::BootTime::now(),
        sync: crate::clock::ClockSync::Synchronized,
        max_error: Some(std::time::Duration::from_micros(1234)),
    };
    origin::append_clock(&mut text, quality);
    let text = String::from_utf8(text).unwrap();
    assert!(text.ends_with("\"clock_error_us\":1234,") && !text.contains("\"clock\":"), "{text}");
}

#[test]
fn a_refusal_has_its_verdicts_and_hostile_text_is_one_line() {
    let hostile = "a\"},\n{\"seq\":1}\r\u{1b}]0;x\u{7}\u{202e}".repeat(50_000);
    let agent = crate::agents::AgentName::parse("a").unwrap();
    let refusal =
        Refusal::new(ErrorCode::InvalidTarget, &*hostile).with_audience(&hostile).with_agent(&agent);
    let record = Record::for_refusal(&refusal, None, NOW);
    let body = record.to_json_members(&clock()).unwrap();
    assert!(!body.contains(&b'\n') && !body.contains(&0x1b) && body.len() < 2048);
    let value = members(&record);
    assert_eq!(value["outcome"], "refused");
    assert_eq!(
        value["verdicts"],
        serde_json::json!({"identity": "pass", "privilege": "fail", "context": "none"})
    );
    assert!(value["audience"].as_str().unwrap().contains(&format!("… ({} bytes, SHA-256 ", hostile.len())));
}
