use super::*;
use crate::audit::line::MAX_BODY_LEN;
use crate::audit::policy_member;

/// The longest member `peer`: its texts at their bounds, a digest, and 512 bytes for names and numbers.
const MAX_PEER_LEN: usize = MAX_CALLER_TEXT + MAX_NAME + MAX_EXE_PATH + 64 + 512;

#[test]
fn every_kind_of_record_fits_a_line_whatever_its_texts_contain() {
    for unit in ["x", "\u{1}", "\u{7f}", "\"", "\u{2028}", "🦀"] {
        let text = unit.repeat(40_000);
        let text = text.as_str();
        let token = Record {
            agent: Some(name(text)),
            tenant: Some(name(text)),
            audience: Some(granted(text)),
            scope: Some(granted(text)),
            jti: Some(name(text)),
            kid: Some(name(text)),
            exp: Some(u64::MAX),
            posture: Some(Posture::Unaccepted),
            ..Record::new(Event::TokenIssued, Timestamp::from_secs(1 << 32))
        };
        let certificate = Record {
            spiffe_id: Some(granted(text)),
            serial: Some(name(text)),
            posture: Some(Posture::Unaccepted),
            ..Record::new(Event::CertificateIssued, Timestamp::from_secs(1 << 32))
        };
        let mut refusal = Refusal::new(ErrorCode::TemporarilyUnavailable, text).with_audience(text);
        refusal.suppressed = u64::MAX;
        let refusal = Record::for_refusal(&refusal, Some(text), Timestamp::from_secs(1 << 32));
        let event =
            Record::for_key_event(Event::EnrollmentAnswered, text, Some(text), text, Timestamp::from_secs(0));
        for record in [&token, &certificate, &refusal, &event] {
            let length = record.to_json_members(ClockSync::Unsynchronized).unwrap().len();
            let length = length + MAX_PEER_LEN + policy_member::MAX_LEN;
            assert!(length <= MAX_BODY_LEN, "{unit:?}: {length} bytes of {record:.100?}");
            assert!(record.journal_entry().message.len() <= 8192);
        }
    }
}
