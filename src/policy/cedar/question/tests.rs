use super::super::schema;
use super::*;
use crate::clock::Zone;

pub(in super::super) fn question(act: Act<'static>) -> Question<'static> {
    let now = Timestamp::from_secs(1_792_890_000);
    Question {
        principal: Principal {
            name: "researcher",
            tenant: Some("acme"),
            owner: Some("team@example.com"),
            roles: vec!["reader"],
            depth: 0,
        },
        act,
        process: Process {
            uid: 1000,
            unit: Some("researcher.service"),
            invocation: Some("0123456789abcdef0123456789abcdef"),
            exe_sha256: Some("00".repeat(32)),
            pinned: true,
            boundary: Some("kernel"),
        },
        posture: "accepted",
        now,
        local_time: Zone::utc().local_time(now),
    }
}

pub(in super::super) fn token() -> Act<'static> {
    Act::Token {
        audience: "https://api.example.com",
        scopes: vec!["docs.read"],
        ttl: 300,
        assurance: "sealed",
        binding: "none",
        approved: false,
    }
}

#[test]
fn every_question_has_the_types_of_the_schema() {
    let (schema, names) = (schema::parse().unwrap(), SchemaNames::parse().unwrap());
    let request = Some(("GET", "/v1/x"));
    let acts = [
        token(),
        Act::Token {
            audience: "a",
            scopes: Vec::new(),
            ttl: 1,
            assurance: "tpm",
            binding: "dpop",
            approved: true,
        },
        Act::Certificate,
        Act::Attest,
        Act::Delegate { name: "researcher/sub/fetch", ttl: 3600, boundary: "cooperative" },
        Act::Credential { name: "github", usage: "release", approved: true, request: None },
        Act::Credential { name: "github", usage: "inject", approved: false, request },
        Act::Prove {
            kind: "dpop",
            url: "https://api.example.com/v1/x?y",
            origin: "https://api.example.com",
            request: ("GET", "/v1/x"),
            body_sha256: None,
        },
        Act::Prove {
            kind: "http-signature",
            url: "https://api.example.com/",
            origin: "https://api.example.com",
            request: ("POST", "/"),
            body_sha256: Some("00"),
        },
    ];
    for act in acts {
        let full = question(act.clone());
        let principal = Principal { tenant: None, owner: None, roles: Vec::new(), ..full.principal.clone() };
        let process = Process { unit: None, invocation: None, exe_sha256: None, ..full.process.clone() };
        let least = Question { principal, process, ..full.clone() };
        for question in [full, least] {
            let CedarQuestion { request, entities } = question.to_cedar(&names, Needs::ALL).unwrap();
            let parts = (request.principal(), request.action(), request.resource());
            let (principal, action, resource) = (parts.0.unwrap(), parts.1.unwrap(), parts.2.unwrap());
            let context = request.context().unwrap().clone();
            Request::new(principal.clone(), action.clone(), resource.clone(), context, Some(&schema))
                .unwrap();
            let entities: Vec<Entity> = entities.iter().cloned().collect();
            Entities::from_entities(entities, Some(&schema)).unwrap();
        }
    }
}
