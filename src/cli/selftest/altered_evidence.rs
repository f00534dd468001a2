//! Evidence of this host is altered, and verified as a remote verifier does it.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::attempts::Attempts;
use super::context::Context;
use super::exchange::ask;
use crate::verify::evidence::{CheckResult, Evidence};

/// Length of the verifier's nonce in bytes.
const NONCE_LEN: usize = 32;
/// Members that are binary, as JSON pointers.
const BINARY_MEMBERS: [&str; 8] = [
    "/ak",
    "/ek",
    "/srk",
    "/host_key",
    "/quote/attest",
    "/quote/signature",
    "/certification/attest",
    "/certification/signature",
];
/// The boot event log. Of most of its events, the TPM measured something else than the data in the log, so that a bit
/// in the middle may say nothing: the log is cut instead.
const EVENT_LOG: &str = "/event_log";

/// Evidence with what its verifier knows.
struct Verified {
    evidence: Value,
    nonce: Vec<u8>,
    ak: String,
}

pub(super) fn run(context: &Context, attempts: &mut Attempts) {
    match request(context) {
        Err(why) => attempts.skipped("altered evidence", why),
        Ok(verified) => judge(attempts, &verified, &is_valid),
    }
}

fn judge(attempts: &mut Attempts, real: &Verified, is_valid: &dyn Fn(&Verified) -> bool) {
    if !is_valid(real) {
        return attempts.skipped("altered evidence", "the evidence of this host does not pass unaltered");
    }
    for (what, altered) in alterations(real) {
        if !attempts.has_time(&what) {
            continue;
        }
        let passes = is_valid(&altered);
        attempts.judge(
            what,
            !passes,
            if passes { "the verification passes" } else { "the verification fails" },
        );
    }
}

fn request(context: &Context) -> Result<Verified, String> {
    let mut nonce = vec![0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| "no random numbers")?;
    let evidence = context.ask_as_agent("/v1/attest", &json!({ "nonce": BASE64URL_NOPAD.encode(&nonce) }))?;
    let status = ask(&context.admin_socket, "GET", "/v1/status", None).map_err(|e| e.to_string())?;
    let ak = status.body["tpm"]["ak_name"].as_str().ok_or("the status has no name of the attestation key")?;
    Ok(Verified { evidence, nonce, ak: ak.to_owned() })
}

/// What `hostbadge verify evidence --nonce --ak` checks.
fn is_valid(verified: &Verified) -> bool {
    let Ok(evidence) = Evidence::parse(verified.evidence.to_string().as_bytes()) else { return false };
    let mut checks = evidence.check(&verified.nonce);
    checks.push(evidence.check_ak_by_name(Some(&verified.ak)));
    checks.iter().all(CheckResult::is_acceptable)
}

fn alterations(real: &Verified) -> Vec<(String, Verified)> {
    let with = |evidence| Verified { evidence, nonce: real.nonce.clone(), ak: real.ak.clone() };
    let mut all = Vec::new();
    for member in BINARY_MEMBERS {
        let Some(bytes) = real.evidence.pointer(member).and_then(Value::as_str) else { continue };
        let Ok(mut bytes) = BASE64.decode(bytes.as_bytes()) else { continue };
        if bytes.is_empty() {
            continue;
        }
        flip_middle(&mut bytes);
        all.push((
            format!("one bit of {}", member.trim_start_matches('/')),
            with(replaced(&real.evidence, member, BASE64.encode(&bytes))),
        ));
    }
    let log = real.evidence.pointer(EVENT_LOG).and_then(Value::as_str);
    if let Some(log) = log.and_then(|log| BASE64.decode(log.as_bytes()).ok()).filter(|log| !log.is_empty()) {
        let half = BASE64.encode(&log[..log.len() / 2]);
        all.push((
            "an event log without its second half".to_owned(),
            with(replaced(&real.evidence, EVENT_LOG, half)),
        ));
    }
    let pcr = real.evidence["pcrs"].as_object().and_then(|pcrs| pcrs.keys().next());
    if let Some(pcr) = pcr {
        let mut value = HEXLOWER.decode(real.evidence["pcrs"][pcr].as_str().unwrap_or_default().as_bytes());
        if let Ok(value) = &mut value {
            flip_middle(value);
            let pointer = format!("/pcrs/{pcr}");
            all.push((
                format!("one bit of PCR {pcr}"),
                with(replaced(&real.evidence, &pointer, HEXLOWER.encode(value))),
            ));
        }
    }
    if let Some(endorsement) = real.evidence.pointer("/endorsements/0").and_then(Value::as_str) {
        let other = endorsement.rsplit_once('.').map(|(signed, _)| format!("{signed}.{}", "A".repeat(86)));
        all.push((
            "another signature of an endorsement".to_owned(),
            with(replaced(&real.evidence, "/endorsements/0", other.unwrap_or_default())),
        ));
    }
    let mut nonce = real.nonce.clone();
    flip_middle(&mut nonce);
    all.push(("replayed for another nonce".to_owned(), Verified { nonce, ..with(real.evidence.clone()) }));
    let mut ak = HEXLOWER.decode(real.ak.as_bytes()).unwrap_or_default();
    flip_middle(&mut ak);
    let ak = HEXLOWER.encode(&ak);
    all.push(("the AK of another host".to_owned(), Verified { ak, ..with(real.evidence.clone()) }));
    all
}

fn replaced(evidence: &Value, pointer: &str, text: String) -> Value {
    let mut evidence = evidence.clone();
    if let Some(member) = evidence.pointer_mut(pointer) {
        *member = Value::String(text);
    }
    evidence
}

fn flip_middle(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::attempts::Outcome;
    use super::*;

    fn evidence() -> Verified {
        let signed = json!({ "attest": "AAAA", "signature": "AAAA" });
        let evidence = json!({
            "ak": "AAAA", "ek": "AAAA", "srk": "AAAA", "host_key": "AAAA", "quote": signed, "certification": signed,
            "pcrs": { "0": "00ff" }, "endorsements": ["a.b.c"],
        });
        Verified { evidence, nonce: vec![1; NONCE_LEN], ak: "000b".to_owned() }
    }

    #[test]
    fn each_alteration_that_passes_is_a_hole() {
        let mut attempts = Attempts::new();
        judge(&mut attempts, &evidence(), &|_| true);
        assert_eq!(attempts.results(""), [Outcome::Hole; 12]);
        // A verifier that looks at one thing less.
        let real = evidence();
        let mut attempts = Attempts::new();
        judge(&mut attempts, &real, &|one| one.evidence == real.evidence && one.ak == real.ak);
        assert_eq!(attempts.results("nonce"), [Outcome::Hole]);
        assert_eq!(attempts.results("").iter().filter(|result| **result == Outcome::Held).count(), 11);
    }

    #[test]
    fn a_member_without_bytes_is_not_altered() {
        let mut real = evidence();
        real.evidence["event_log"] = "".into();
        real.evidence["ak"] = "".into();
        let unaltered =
            |one: &Verified| one.evidence == real.evidence && one.nonce == real.nonce && one.ak == real.ak;
        assert!(alterations(&real).iter().all(|(_, altered)| !unaltered(altered)));
        real.evidence["event_log"] = BASE64.encode(b"ab").into();
        assert!(alterations(&real).iter().any(|(what, _)| what.contains("event log")));
    }

    #[test]
    fn without_time_nothing_is_judged() {
        let mut attempts = Attempts::without_time();
        judge(&mut attempts, &evidence(), &|_| true);
        assert_eq!(attempts.results(""), [Outcome::Skipped; 12]);
    }

    #[test]
    fn evidence_that_does_not_pass_unaltered_shows_nothing() {
        let mut attempts = Attempts::new();
        judge(&mut attempts, &evidence(), &is_valid);
        assert_eq!(attempts.results(""), [Outcome::Skipped]);
    }
}
