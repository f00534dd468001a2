//! The journal, by a real journald: its entries' fields, no secret among them, and a journald that does not listen.

mod common;

use common::http::{claims, jti};
use common::journald::Journald;
use common::{API, Host, until, until_true};
use serde_json::{Value, json};

const AUTO: &str = "[limits]\nrate = 1000000\nburst = 1000000\n[log]\nto = \"auto\"\n";

fn host_heard_by(journald: &Journald) -> Host {
    let mut host = Host::new();
    host.configure(AUTO);
    host.agent("researcher", "user = 0");
    journald.hear(&mut host);
    host.start();
    assert_eq!(host.status()["journal"]["sink"], "journald", "{}", host.status());
    host
}

#[test]
fn each_decision_is_an_entry_with_the_contracts_fields_and_without_the_token() {
    let journald = Journald::start();
    let host = host_heard_by(&journald);
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
fn a_journald_that_does_not_listen_stops_no_token_and_is_told_how_much_it_missed() {
    let journald = Journald::start();
    let host = host_heard_by(&journald);
    journald.stall();
    let mut connection = host.connect();
    let mut asked = 0;
    until_true("entries are dropped", || {
        for _ in 0..500 {
            let answer = connection.post("/v1/token", &json!({ "audience": API }));
            assert_eq!(answer.status, 200, "{}", answer.text());
            asked += 1;
        }
        host.status()["journal"]["dropped"].as_u64() > Some(0)
    });
    assert!(asked > 4096, "the queue holds some: {asked}");
    journald.go_on();
    let told = until("the journal is told", || {
        journald.entries(&["HOSTBADGE_EVENT=journal-dropped"]).into_iter().next()
    });
    let said = told["MESSAGE"].as_str().unwrap();
    assert!(said.ends_with("entries were dropped while the journal did not listen"), "{said}");
    // The record has them all.
    assert_eq!(common::record::of_event(&host.audit(), "token-issued").len(), asked);
}
