//! Journal entries in a real journald: their fields, no secrets in them, and a stalled journald.

use crate::common::http::{claims, jti};
use crate::common::journald::Journald;
use crate::common::{self, API, Host, until};
use serde_json::{Value, json};

const AUTO: &str = "[limits]\nrate = 1000000\nburst = 1000000\n[log]\nto = \"auto\"\n";

fn host_logging_to(journald: &Journald) -> Host {
    let mut host = Host::new();
    host.configure(AUTO);
    host.agent("researcher", "user = 0");
    journald.attach_to(&mut host);
    host.start();
    assert_eq!(host.status()["journal"]["sink"], "journald", "{}", host.status());
    host
}

#[test]
fn each_decision_has_an_entry_with_the_documented_fields_and_without_the_token() {
    let journald = Journald::start();
    let host = host_logging_to(&journald);
    let token = host.token();
    let denied = host.post("/v1/token", json!({ "audience": "https://bank.example.com" }));
    assert_eq!(denied.error(), "invalid_target");

    let of_the_agent = ["--identifier=hostbadged", "HOSTBADGE_AGENT=researcher"];
    let entries = until("both decisions are in the journal", || {
        let entries = journald.entries(&of_the_agent);
        (entries.len() == 2).then_some(entries)
    });
    let [issued, denied] = &entries[..] else { unreachable!() };
    let field = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(field(issued, "HOSTBADGE_EVENT"), "token-issued");
    assert_eq!(field(issued, "HOSTBADGE_AUDIENCE"), API);
    assert_eq!(field(issued, "HOSTBADGE_JTI"), jti(&token));
    assert_eq!(field(issued, "HOSTBADGE_PEER_UID"), "0");
    assert_eq!(field(issued, "HOSTBADGE_PEER_PID"), std::process::id().to_string());
    assert_eq!(field(issued, "PRIORITY"), "6");
    assert_eq!(field(issued, "MESSAGE_ID").len(), 32);
    assert_eq!(field(denied, "HOSTBADGE_EVENT"), "request-refused");
    assert_eq!(field(denied, "HOSTBADGE_AUDIENCE"), "https://bank.example.com");
    assert_eq!(field(denied, "HOSTBADGE_REASON"), "invalid_target");
    assert_ne!(field(denied, "MESSAGE_ID"), field(issued, "MESSAGE_ID"));

    let whole = format!("{:?}", journald.entries(&[]));
    assert!(whole.contains(&jti(&token)));
    for part in token.split('.') {
        assert!(!whole.contains(part), "no part of a token is in the journal");
    }
    assert_eq!(claims(&token)["client_id"], "researcher");
}

#[test]
fn a_stalled_journald_blocks_no_token_and_gets_the_number_of_dropped_entries() {
    let journald = Journald::start();
    let host = host_logging_to(&journald);
    journald.pause();
    let mut connection = host.connect();
    let mut asked = 0;
    // Bounded by their number, since a busy machine needs a minute for them.
    while host.status()["journal"]["dropped"].as_u64() == Some(0) {
        for _ in 0..500 {
            let answer = connection.post("/v1/token", &json!({ "audience": API }));
            assert_eq!(answer.status, 200, "{}", answer.text());
            asked += 1;
        }
        assert!(asked < 40_000, "no entry is dropped");
    }
    assert!(asked > 4096, "the queue holds some: {asked}");
    journald.resume();
    let told = until("the journal has the number of dropped entries", || {
        journald.entries(&["HOSTBADGE_EVENT=journal-dropped"]).into_iter().next()
    });
    let said = told["MESSAGE"].as_str().unwrap();
    assert!(said.ends_with("entries were dropped while the journal was not reading"), "{said}");
    // The audit log has all of them.
    assert_eq!(common::audit_log::with_event(&host.audit(), "token-issued").len(), asked);
}
