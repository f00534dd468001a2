//! Every way to revoke against every request: what was issued before is revoked, and what is refused from then on.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::callers::{Credentials, NOBODY, Unit, text_field};
use crate::common::http::{Response, claims, jti, part};
use crate::common::processes::Running;
use crate::common::status_list::status;
use crate::common::{API, Host, pause, until_true};
use hostbadge::verify::Status;
use serde_json::{Value, json};

const INVOCATION: &str = "0123456789abcdef0123456789abcdef";

/// A way to revoke what the agent `subject` has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Token,
    Jti,
    Own,
    Agent,
    Owner,
    Tenant,
    Invocation,
    Key,
    Everything,
}

impl Way {
    const ALL: [Way; 9] = [
        Way::Token,
        Way::Jti,
        Way::Own,
        Way::Agent,
        Way::Owner,
        Way::Tenant,
        Way::Invocation,
        Way::Everything,
        Way::Key,
    ];

    /// Whether nothing is issued to `subject` until it is lifted.
    fn blocks(self) -> bool {
        !matches!(self, Way::Token | Way::Jti | Way::Own | Way::Key)
    }

    /// Whether other tokens than the one that is named are revoked, too.
    fn revokes_all_tokens(self) -> bool {
        !matches!(self, Way::Token | Way::Jti | Way::Own)
    }

    /// Whether the certificates of `subject` are revoked.
    fn revokes_certificates(self) -> bool {
        self.blocks()
    }

    fn revoke(self, world: &World, held: &Held) {
        let answer = match self {
            Way::Own => {
                let answer = world.post("/v1/revoke", &json!({ "token": held.token }));
                assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
                return;
            }
            Way::Everything => world.host.admin().post("/v1/freeze", &json!({ "reason": "a test" })),
            other => world.host.admin().post("/v1/revocations/revoke", &other.request(held)),
        };
        assert_eq!(answer.status, 200, "{self:?}: {}", answer.text());
        assert_eq!(answer.json()["outcome"], "revoked", "{self:?}");
    }

    fn request(self, held: &Held) -> Value {
        match self {
            Way::Token => json!({ "token": held.token, "reason": "a test" }),
            Way::Jti => json!({ "jti": jti(&held.token) }),
            Way::Agent => json!({ "agent": "subject" }),
            Way::Owner => json!({ "owner": "team" }),
            Way::Tenant => json!({ "tenant": "acme" }),
            Way::Invocation => json!({ "invocation": INVOCATION }),
            Way::Key => json!({ "key": part(&held.token, 0)["kid"] }),
            Way::Own | Way::Everything => unreachable!("has a route of its own"),
        }
    }

    /// The path and the request that lift the revocation.
    fn lifted_by(self, held: &Held) -> (&'static str, Value) {
        match self {
            Way::Everything => ("/v1/thaw", json!({})),
            other => ("/v1/revocations/lift", other.request(held)),
        }
    }
}

/// A host with the agents `subject`, of the tenant `acme` and in a unit, `colleague` of the same tenant, and
/// `bystander` of none.
struct World {
    host: Host,
    subject: Credentials,
    colleague: Credentials,
    bystander: Credentials,
    // Dropped first: a cgroup with a process cannot be removed.
    _process: Running,
    _unit: Unit,
}

/// What `subject` got before.
struct Held {
    token: String,
    other_token: String,
    svid: String,
    serials: usize,
}

impl World {
    fn new() -> World {
        let mut unit = Unit::new("subject");
        unit.set_invocation_id(INVOCATION);
        // An invocation lasts as long as its unit has a process.
        let mut command = Command::new("sleep");
        command.arg("600").stdin(Stdio::null());
        let process = Running::start(command);
        unit.add_process(&process.pid().to_string());
        let mut host = Host::new();
        let agent = |name: &str, lines: &str, user: u32| {
            let text = format!(
                "name = \"{name}\"\n{lines}[match]\nuser = {user}\n[[grant]]\naudience = \"{API}\"\nttl = \"5m\"\n\
                 status_list = true\n[[credential]]\nname = \"key\"\nuse = \"release\"\n"
            );
            host.agents_file(name, &text);
        };
        agent("subject", "owner = \"team\"\ntenant = \"acme\"\n", NOBODY);
        agent("colleague", "owner = \"others\"\ntenant = \"acme\"\n", NOBODY - 1);
        agent("bystander", "", 0);
        host.start();
        for tenant in [Some("acme"), None] {
            let body = json!({ "name": "key", "tenant": tenant, "value": "v" });
            assert_eq!(host.admin().post("/v1/credentials/put", &body).status, 200);
        }
        let subject = Credentials::user(NOBODY).in_unit(&unit);
        let colleague = Credentials::user(NOBODY - 1);
        World { host, subject, colleague, bystander: Credentials::root(), _unit: unit, _process: process }
    }

    /// A request of `subject`.
    fn post(&self, target: &str, body: &Value) -> Response {
        post(&self.host, &self.subject, target, body)
    }

    /// What each request of a caller is answered: token, certificate, credential, evidence, JWT-SVID.
    fn asked(&self, who: &Credentials) -> [bool; 5] {
        let host = &self.host;
        let is_issued = |target: &str, body: Value| {
            let answer = post(host, who, target, &body);
            assert!([200, 403].contains(&answer.status), "{target}: {} {}", answer.status, answer.text());
            assert!(answer.status == 200 || answer.error() == "access_denied", "{}", answer.text());
            answer.status == 200
        };
        let token = is_issued("/v1/token", json!({ "audience": API }));
        let certificate = is_issued("/v1/certificate", json!({}));
        let credential = is_issued("/v1/credential", json!({ "name": "key" }));
        let evidence = is_issued("/v1/attest", json!({ "nonce": "AAAAAAAAAAA" }));
        pause(Duration::from_millis(1100));
        [token, certificate, credential, evidence, who.jwt_svid(host, API).is_some()]
    }

    fn hold(&self) -> Held {
        let token = || {
            let answer = self.post("/v1/token", &json!({ "audience": API }));
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.json()["access_token"].as_str().unwrap().to_owned()
        };
        assert_eq!(self.post("/v1/certificate", &json!({})).status, 200);
        Held {
            token: token(),
            other_token: token(),
            svid: self.subject.jwt_svid(&self.host, API).unwrap(),
            serials: revoked(&self.host),
        }
    }

    /// Whether a token of `subject` is active, as another agent of its tenant learns.
    fn is_active(&self, token: &str) -> bool {
        let answer = post(&self.host, &self.colleague, "/v1/introspect", &json!({ "token": token }));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["active"].as_bool().unwrap()
    }

    /// Whether the status lists that any process gets say of these tokens that they are revoked.
    fn listed(&self, held: &Held) -> [bool; 3] {
        let tokens = [&held.token, &held.other_token, &held.svid];
        tokens.map(|token| status(&self.host, token) == Status::Invalid)
    }

    fn is_valid_svid(&self, svid: &str) -> bool {
        let message = [text_field(1, API), text_field(2, svid)].concat();
        let reply = self.colleague.call_workload_api(&self.host, "ValidateJWTSVID", &message);
        reply.windows(9).any(|window| window == b"spiffe://")
    }
}

fn post(host: &Host, who: &Credentials, target: &str, body: &Value) -> Response {
    who.curl(host, target, &["-H", "Content-Type: application/json", "-d", &body.to_string()])
}

/// How many certificates are on the revocation lists.
fn revoked(host: &Host) -> usize {
    let text = std::fs::read_to_string(host.path("state/ca.json")).unwrap();
    let ca: Value = serde_json::from_str(&text).unwrap();
    ca["issuing"].as_array().unwrap().iter().map(|ca| ca["revoked"].as_array().unwrap().len()).sum()
}

#[test]
fn each_way_to_revoke_takes_effect_for_each_request() {
    let world = World::new();
    assert_eq!(world.asked(&world.subject), [true; 5]);
    for way in Way::ALL {
        let held = world.hold();
        assert_eq!(claims(&held.token)["hostbadge"]["invocation"], INVOCATION);
        way.revoke(&world, &held);

        // An introspecting agent that is itself revoked gets the same answers: introspection issues nothing.
        assert!(!world.is_active(&held.token), "{way:?}");
        assert_eq!(world.is_active(&held.other_token), !way.revokes_all_tokens(), "{way:?}");
        assert_eq!(world.is_valid_svid(&held.svid), !way.revokes_all_tokens(), "{way:?}");
        let all = way.revokes_all_tokens();
        assert_eq!(world.listed(&held), [true, all, all], "{way:?}");
        assert_eq!(world.asked(&world.subject), [!way.blocks(); 5], "{way:?}");
        let colleague_is_blocked = matches!(way, Way::Tenant | Way::Everything);
        assert_eq!(world.asked(&world.colleague), [!colleague_is_blocked; 5], "{way:?}");
        assert_eq!(world.asked(&world.bystander), [way != Way::Everything; 5], "{way:?}");
        if way.revokes_certificates() {
            until_true("the certificates are revoked", || revoked(&world.host) > held.serials);
        }
        if way.blocks() {
            let (path, request) = way.lifted_by(&held);
            let again = world.host.admin().post(path, &request);
            assert_eq!(again.json()["outcome"], "lifted", "{way:?}: {}", again.text());
            assert_eq!(world.asked(&world.subject), [true; 5], "{way:?}: lifted");
            let twice = world.host.admin().post(path, &request);
            assert_eq!(twice.status, 409, "{way:?}: {}", twice.text());
        }
        assert!(!world.is_active(&held.token), "{way:?}: what was revoked stays revoked");
        assert_eq!(world.listed(&held), [true, all, all], "{way:?}");
        assert_eq!(world.is_active(&held.other_token), !way.revokes_all_tokens(), "{way:?}");
        let token = world.post("/v1/token", &json!({ "audience": API }));
        assert!(world.is_active(token.json()["access_token"].as_str().unwrap()), "{way:?}: a new token");
    }
}
