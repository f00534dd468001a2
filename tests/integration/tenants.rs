//! Tenants: what an agent of one tenant may do, an agent of another may not.

use std::fs;

use crate::common::callers::{Credentials, NOBODY, text_field};
use crate::common::http::{Response, claims, part};
use crate::common::{API, Host, template, until_true};
use hostbadge::clock::Clock;
use hostbadge::verify::{Expectation, Jwks, verify_access_token};
use serde_json::{Value, json};

/// One agent: its name, tenant and uid.
struct Member {
    name: &'static str,
    tenant: Option<&'static str>,
    uid: u32,
}

/// Two tenants, and an agent without one.
const MEMBERS: [Member; 3] = [
    Member { name: "alpha", tenant: Some("acme"), uid: 0 },
    Member { name: "beta", tenant: Some("globex"), uid: NOBODY },
    Member { name: "gamma", tenant: None, uid: NOBODY - 1 },
];

impl Member {
    fn register(&self, host: &Host) {
        let tenant = self.tenant.map_or(String::new(), |tenant| format!("tenant = \"{tenant}\"\n"));
        host.agents_file(
            self.name,
            &format!(
                "name = \"{}\"\n{tenant}[match]\nuser = {}\n[[grant]]\naudience = \"{API}\"\n\
                 scopes = [\"docs.read\"]\nttl = \"5m\"\n[[credential]]\nname = \"key\"\nuse = \"release\"\n\
                 [[credential]]\nname = \"{}-only\"\nuse = \"release\"\n\
                 [[credential]]\nname = \"alpha-only-by-name\"\nuse = \"release\"\n",
                self.name, self.uid, self.name
            ),
        );
    }

    fn post(&self, host: &Host, target: &str, body: &Value) -> Response {
        let body = body.to_string();
        Credentials::user(self.uid).curl(host, target, &["-H", "Content-Type: application/json", "-d", &body])
    }

    fn token(&self, host: &Host) -> String {
        let response = self.post(host, "/v1/token", &json!({ "audience": API }));
        assert_eq!(response.status, 200, "{}: {}", self.name, response.text());
        response.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A JWT-SVID from the workload socket.
    fn jwt_svid(&self, host: &Host) -> String {
        Credentials::user(self.uid).jwt_svid(host, API).expect("a JWT-SVID")
    }

    /// Whether ValidateJWTSVID accepts a JWT-SVID.
    fn accepts_svid(&self, host: &Host, svid: &str) -> bool {
        let message = [text_field(1, API), text_field(2, svid)].concat();
        let reply = Credentials::user(self.uid).call_workload_api(host, "ValidateJWTSVID", &message);
        reply.windows(9).any(|window| window == b"spiffe://")
    }
}

fn host_with(toml: &str) -> Host {
    let mut host = Host::new();
    host.configure(toml);
    MEMBERS.iter().for_each(|member| member.register(&host));
    host.start();
    host
}

#[track_caller]
fn put(host: &Host, tenant: Option<&str>, name: &str, value: &str) {
    let response =
        host.admin().post("/v1/credentials/put", &json!({ "name": name, "tenant": tenant, "value": value }));
    assert_eq!(response.status, 200, "{}", response.text());
}

/// The lines that `audit tail` prints with these options.
fn audited(host: &Host, options: &[&str]) -> Vec<Value> {
    let words = [&["audit", "tail", "--json", "-n", "1000"], options].concat();
    let output = host.hostbadge(&words);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each verb of the agent socket, and those of the workload socket that name another's identity or token, by
/// each caller for each tenant.
#[test]
fn each_verb_gives_an_agent_its_own_tenant_and_nothing_of_another() {
    let host = host_with("");
    for member in &MEMBERS {
        put(&host, member.tenant, "key", &format!("value of {}", member.name));
        put(&host, member.tenant, &format!("{}-only", member.name), "x");
    }
    put(&host, Some("acme"), "alpha-only-by-name", "x");
    let tokens: Vec<String> = MEMBERS.iter().map(|member| member.token(&host)).collect();
    let svids: Vec<String> = MEMBERS.iter().map(|member| member.jwt_svid(&host)).collect();
    for caller in &MEMBERS {
        for (index, owner) in MEMBERS.iter().enumerate() {
            let is_own = caller.name == owner.name;
            let case = format!("{} for {}", caller.name, owner.name);
            let expected = if is_own { 200 } else { 401 };

            let body = json!({ "audience": API, "agent": owner.name });
            assert_eq!(caller.post(&host, "/v1/token", &body).status, expected, "token: {case}");
            let body = json!({ "agent": owner.name });
            assert_eq!(caller.post(&host, "/v1/certificate", &body).status, expected, "certificate: {case}");
            let body = json!({ "name": "key", "agent": owner.name });
            assert_eq!(caller.post(&host, "/v1/credential", &body).status, expected, "credential: {case}");

            let answer = caller.post(&host, "/v1/introspect", &json!({ "token": tokens[index] })).json();
            assert_eq!(answer["active"], is_own, "introspect: {case}");
            assert_eq!(answer.as_object().unwrap().len() > 1, is_own, "introspect: {case}");
            assert_eq!(caller.accepts_svid(&host, &svids[index]), is_own, "ValidateJWTSVID: {case}");
        }
        // The same name is a credential of each tenant.
        let released = caller.post(&host, "/v1/credential", &json!({ "name": "key" }));
        assert_eq!(released.json()["value"], format!("value of {}", caller.name));
        // Naming a credential of another tenant in an agent's file gives nothing: nothing crosses tenants.
        let released = caller.post(&host, "/v1/credential", &json!({ "name": "alpha-only-by-name" }));
        let expected = if caller.name == "alpha" { 200 } else { 400 };
        assert_eq!(released.status, expected, "{}", released.text());

        let whoami = Credentials::user(caller.uid).curl(&host, "/v1/whoami", &[]).json().to_string();
        let why = Credentials::user(caller.uid).curl(&host, "/v1/whoami/why", &[]).json().to_string();
        for other in MEMBERS.iter().filter(|other| other.name != caller.name) {
            assert!(!whoami.contains(other.name) && !why.contains(other.name), "{}", caller.name);
        }
    }
}

#[test]
fn a_process_that_is_agents_of_two_tenants_can_introspect_tokens_of_both() {
    let mut host = Host::new();
    MEMBERS.iter().for_each(|member| member.register(&host));
    Member { name: "omega", tenant: Some("globex"), uid: 0 }.register(&host);
    host.start();
    let token = MEMBERS[1].token(&host);
    assert_eq!(host.introspect(&token)["active"], true);
    assert_eq!(host.introspect(&MEMBERS[2].token(&host))["active"], false);
}

#[test]
fn the_audit_view_of_a_tenant_has_its_records_and_no_others() {
    let host = host_with("");
    for member in &MEMBERS {
        let token = member.token(&host);
        put(&host, member.tenant, "key", "x");
        member.post(&host, "/v1/credential", &json!({ "name": "key" }));
        // A refusal, an introspection and a certificate.
        member.post(&host, "/v1/token", &json!({ "audience": "https://other.example" }));
        member.post(&host, "/v1/introspect", &json!({ "token": token }));
        member.post(&host, "/v1/certificate", &json!({}));
    }
    let events = |lines: &[Value]| {
        let mut events: Vec<String> =
            lines.iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect();
        events.sort();
        events.dedup();
        events
    };
    for member in &MEMBERS {
        let Some(tenant) = member.tenant else { continue };
        let lines = audited(&host, &["--tenant", tenant]);
        assert!(lines.iter().all(|line| line["tenant"] == tenant), "{lines:?}");
        let agents = lines.iter().filter_map(|line| line["agent"].as_str());
        assert!(agents.clone().count() >= 5 && agents.clone().all(|agent| agent == member.name));
        for event in [
            "certificate-issued",
            "credential-released",
            "credential-stored",
            "introspected",
            "request-refused",
            "token-issued",
        ] {
            assert!(events(&lines).iter().any(|found| found == event), "{event}: {:?}", events(&lines));
        }
        let refused = audited(&host, &["--tenant", tenant, "--event", "request-refused"]);
        assert_eq!(refused.len(), 1);
    }
    assert!(audited(&host, &["--tenant", "unknown"]).is_empty());
}

#[test]
fn the_quotas_of_a_tenant_bound_all_its_agents_together_and_no_others() {
    let host = host_with(
        "[tenant.acme]\nlive_tokens = 3\ncredentials = 1\ncertificates = 2\n[tenant.globex]\nrate = 1\nburst = 4\n",
    );
    let [alpha, beta, gamma] = &MEMBERS;
    Member { name: "alpha2", tenant: Some("acme"), uid: 1234 }.register(&host);
    host.reload();
    let alpha2 = Member { name: "alpha2", tenant: Some("acme"), uid: 1234 };

    alpha.token(&host);
    alpha2.token(&host);
    alpha.jwt_svid(&host);
    for member in [alpha, &alpha2] {
        let refused = member.post(&host, "/v1/token", &json!({ "audience": API }));
        assert_eq!((refused.status, refused.error().as_str()), (429, "slow_down"));
        assert!(refused.text().contains("3 tokens, which is its quota"), "{}", refused.text());
        assert!(refused.header("retry-after").is_some());
    }
    gamma.token(&host);

    alpha.post(&host, "/v1/certificate", &json!({}));
    assert_eq!(alpha2.post(&host, "/v1/certificate", &json!({})).status, 200);
    let refused = alpha.post(&host, "/v1/certificate", &json!({}));
    assert_eq!((refused.status, refused.error().as_str()), (429, "slow_down"), "{}", refused.text());
    assert_eq!(gamma.post(&host, "/v1/certificate", &json!({})).status, 200);

    put(&host, Some("acme"), "key", "x");
    let body = json!({ "name": "other", "tenant": "acme", "value": "x" });
    let refused = host.admin().post("/v1/credentials/put", &body);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("this tenant has 1 credentials, which is its quota"));
    put(&host, Some("globex"), "key", "x");
    put(&host, Some("globex"), "other", "x");

    until_true("the rate of the tenant is reached", || {
        let answer = beta.post(&host, "/v1/token", &json!({ "audience": API }));
        assert!(answer.status == 200 || answer.error() == "slow_down", "{}", answer.text());
        answer.status == 429
    });
    gamma.token(&host);
}

/// The `kid` of a token.
fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

/// The `kid`s of a key set.
fn kids(jwks: &Value) -> Vec<String> {
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn jwks(host: &Host, tenant: Option<&str>) -> Value {
    let prefix = tenant.map_or(String::new(), |tenant| format!("/tenant/{tenant}"));
    let response = host.get(&format!("{prefix}/.well-known/jwks.json"));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// Whether a key set verifies a token, as an issuer's relying party does.
fn verifies(jwks: &Value, token: &str) -> bool {
    let keys = Jwks::parse(jwks.to_string().as_bytes()).unwrap();
    let expected = Expectation { issuer: None, audience: Some(API) };
    verify_access_token(token, &keys, Clock::System.now(), false, expected).is_ok()
}

/// The states of the keys of a tenant, or of the host itself, as `key list` has them.
fn key_states(host: &Host, tenant: Option<&str>) -> Vec<(String, String)> {
    let keys = host.admin().get("/v1/keys").json();
    let own = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|key| key["kind"] == "issuing" && key.get("tenant").and_then(Value::as_str) == tenant);
    own.map(|key| (key["kid"].as_str().unwrap().to_owned(), key["state"].as_str().unwrap().to_owned()))
        .collect()
}

#[track_caller]
fn run(host: &Host, words: &[&str]) -> String {
    let output = host.hostbadge(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_tenant_has_an_issuer_with_a_key_of_its_own() {
    let host = host_with("issuer = \"https://id.example.org\"\n");
    let (mut issuers, mut signers) = (Vec::new(), Vec::new());
    for member in &MEMBERS {
        let token = member.token(&host);
        let issuer = member.tenant.map_or("https://id.example.org".to_owned(), |tenant| {
            format!("https://id.example.org/tenant/{tenant}")
        });
        assert_eq!(claims(&token)["iss"], issuer);
        assert_eq!(claims(&member.jwt_svid(&host))["iss"], issuer);
        assert!(kids(&jwks(&host, member.tenant)).contains(&kid(&token)));
        for other in &MEMBERS {
            let is_own = other.name == member.name;
            assert_eq!(
                verifies(&jwks(&host, other.tenant), &token),
                is_own,
                "{} {}",
                member.name,
                other.name
            );
        }
        if let Some(tenant) = member.tenant {
            let path = format!("/tenant/{tenant}/.well-known/openid-configuration");
            let discovery = host.get(&path).json();
            assert_eq!(discovery["issuer"], issuer);
            assert_eq!(discovery["jwks_uri"], format!("{issuer}/.well-known/jwks.json"));
            assert_eq!(discovery["token_endpoint"], "https://id.example.org/v1/token");
            let exported = run(&host, &["export", "jwks", "--tenant", tenant]);
            assert_eq!(serde_json::from_str::<Value>(&exported).unwrap(), jwks(&host, member.tenant));
            let exported = run(&host, &["export", "discovery", "--tenant", tenant]);
            assert!(exported.contains(&issuer), "{exported}");
        }
        issuers.push(issuer);
        signers.push(kid(&token));
    }
    for list in [&mut issuers, &mut signers] {
        list.sort();
        list.dedup();
        assert_eq!(list.len(), MEMBERS.len());
    }
    // The bundle is that of the trust domain, which the SVIDs of all tenants name.
    let bundle = kids_of_bundle(&host);
    assert!(signers.iter().all(|signer| bundle.contains(signer)), "{bundle:?}");
    for path in ["/tenant/none/.well-known/jwks.json", "/tenant/none/.well-known/openid-configuration"] {
        assert_eq!(host.get(path).status, 404, "{path}");
    }
    assert!(!host.hostbadge(&["export", "jwks", "--tenant", "none"]).status.success());
}

fn kids_of_bundle(host: &Host) -> Vec<String> {
    let bundle = host.get("/v1/bundle").json();
    let keys = bundle["keys"].as_array().unwrap().iter();
    keys.filter_map(|key| key["kid"].as_str()).map(str::to_owned).collect()
}

#[test]
fn a_rotation_in_one_tenant_leaves_the_others_alone() {
    let mut host = host_with("");
    let before: Vec<_> = MEMBERS.iter().map(|member| key_states(&host, member.tenant)).collect();
    let old_token = MEMBERS[0].token(&host);
    let sequence = host.get("/v1/bundle").json()["spiffe_sequence"].as_u64().unwrap();
    run(&host, &["key", "rotate", "--now", "--tenant", "acme"]);
    let now = key_states(&host, Some("acme"));
    assert_eq!((now.len(), now[0].1.as_str(), now[1].1.as_str()), (2, "active", "retired"));
    assert_eq!(now[1].0, before[0][0].0);
    assert_eq!(kid(&MEMBERS[0].token(&host)), now[0].0);
    assert_eq!(
        MEMBERS[0].post(&host, "/v1/introspect", &json!({ "token": old_token })).json()["active"],
        true
    );
    assert!(host.get("/v1/bundle").json()["spiffe_sequence"].as_u64().unwrap() > sequence);
    for (member, before) in MEMBERS.iter().zip(&before).skip(1) {
        assert_eq!(&key_states(&host, member.tenant), before, "{}", member.name);
    }
    let refused = host.admin().post("/v1/keys/rotate", &json!({ "tenant": "none" }));
    assert_eq!((refused.status, refused.error().as_str()), (422, "invalid_request"), "{}", refused.text());
    let events = audited(&host, &["--tenant", "acme", "--event", "key-retired"]);
    assert_eq!(events.len(), 1);
    assert!(events[0]["detail"].as_str().unwrap().contains("of tenant acme"));
    assert!(audited(&host, &["--tenant", "globex", "--event", "key-retired"]).is_empty());

    run(&host, &["key", "rotate", "--tenant", "globex"]);
    assert_eq!(key_states(&host, Some("globex"))[1].1, "published");
    let before: Vec<_> = MEMBERS.iter().map(|member| key_states(&host, member.tenant)).collect();
    host.stop();
    host.start();
    for (member, before) in MEMBERS.iter().zip(&before) {
        assert_eq!(&key_states(&host, member.tenant), before, "{}", member.name);
    }
    assert_eq!(
        MEMBERS[0].post(&host, "/v1/introspect", &json!({ "token": old_token })).json()["active"],
        true
    );
}

#[test]
fn a_host_without_tenants_has_no_files_of_tenants_and_gets_keys_at_a_reload() {
    let mut host = Host::new();
    MEMBERS[2].register(&host);
    host.start();
    MEMBERS[2].token(&host);
    for file in ["tenants.json", "tenant_issuing.json"] {
        assert!(!host.path("state").join(file).exists(), "{file}");
    }
    assert_eq!(host.admin().get("/v1/tenants").json(), json!([]));
    MEMBERS[0].register(&host);
    host.reload();
    until_true("the key of the tenant is made", || {
        let answer = MEMBERS[0].post(&host, "/v1/token", &json!({ "audience": API }));
        assert!(answer.status == 200 || answer.error() == "temporarily_unavailable", "{}", answer.text());
        answer.status == 200
    });
    let listed = host.admin().get("/v1/tenants").json();
    assert_eq!((&listed[0]["name"], &listed[0]["agents"]), (&json!("acme"), &json!(1)));
    assert_eq!(listed[0]["kid"], key_states(&host, Some("acme"))[0].0);
    assert!(run(&host, &["tenant", "list"]).contains("acme"));
}

#[test]
fn keys_of_tenants_are_sealed_at_rest_and_an_older_copy_is_refused() {
    let mut host = host_with("");
    put(&host, Some("acme"), "key", "secret-value");
    let token = MEMBERS[0].token(&host);
    host.stop();
    let state = host.path("state");
    for file in ["tenants.json", "tenant_issuing.json"] {
        let older = fs::read(state.join(file)).unwrap();
        host.start();
        if file == "tenants.json" {
            put(&host, Some("another"), "key", "x");
        } else {
            run(&host, &["key", "rotate", "--now", "--tenant", "acme"]);
        }
        host.stop();
        let latest = fs::read(state.join(file)).unwrap();
        assert_ne!(older, latest, "{file}");
        fs::write(state.join(file), &older).unwrap();
        host.launch();
        let mut reason = String::new();
        until_true("the older copy is found", || {
            reason = host.status()["issuer_blocked_reason"].as_str().unwrap_or_default().to_owned();
            reason.contains("the latest")
        });
        assert!(reason.contains(file), "{reason}");
        host.stop();
        fs::write(state.join(file), &latest).unwrap();
    }
    host.start();
    assert_eq!(MEMBERS[0].post(&host, "/v1/introspect", &json!({ "token": token })).json()["active"], true);
    let released = MEMBERS[0].post(&host, "/v1/credential", &json!({ "name": "key" }));
    assert_eq!(released.json()["value"], "secret-value");
}

#[test]
fn a_new_key_encryption_key_and_recovery_on_another_tpm_keep_the_keys_of_tenants() {
    let mut host = host_with("");
    MEMBERS.iter().for_each(|member| put(&host, member.tenant, "key", member.name));
    let file = host.path("recovery-key");
    let sealed = |host: &Host| fs::read(host.path("state/tenants.json")).unwrap();
    let before = sealed(&host);
    run(&host, &["key", "recovery", "--output", file.to_str().unwrap()]);
    until_true("the keys of tenants are encrypted under the new key", || sealed(&host) != before);
    let recovery_key = fs::read_to_string(&file).unwrap();
    let states: Vec<_> = MEMBERS.iter().map(|member| key_states(&host, member.tenant)).collect();
    host.stop();
    host.start();
    for (member, states) in MEMBERS.iter().zip(&states) {
        assert_eq!(&key_states(&host, member.tenant), states, "{}", member.name);
    }
    host.stop();

    fs::remove_dir_all(host.path("tpm")).unwrap();
    template::copy(&Host::other().path("tpm"), &host.path("tpm"));
    host.start();
    assert_eq!(host.status()["tpm"]["state"], "replaced");
    let answer = host.admin().post("/v1/keys/recover", &json!({ "recovery_key": recovery_key.trim() }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    until_true("the host issues", || {
        MEMBERS[0].post(&host, "/v1/token", &json!({ "audience": API })).status == 200
    });
    for (member, states) in MEMBERS.iter().zip(&states) {
        assert_eq!(&key_states(&host, member.tenant), states, "{}", member.name);
        assert_eq!(kid(&member.token(&host)), states[0].0);
        until_true("credentials are released", || {
            let released = member.post(&host, "/v1/credential", &json!({ "name": "key" }));
            released.status == 200 && released.json()["value"] == member.name
        });
    }
}

/// With an old recovery key and an old copy of the disk, nothing is decrypted that is encrypted later: a tenant's own key
/// is another one too, and so is that of its credentials.
#[test]
fn tenants_get_other_keys_with_each_key_encryption_key_of_the_host() {
    let mut host = host_with("");
    MEMBERS.iter().for_each(|member| put(&host, member.tenant, "key", member.name));
    let token = MEMBERS[0].token(&host);
    let json_of = |host: &Host, file: &str| -> Value {
        serde_json::from_slice(&fs::read(host.path("state").join(file)).unwrap()).unwrap()
    };
    let sealed = |host: &Host| {
        let file = json_of(host, "tenant_issuing.json");
        file["tenants"]["acme"]["keys"]["active"]["sealed"]["key"].as_str().unwrap().to_owned()
    };
    for _ in 0..2 {
        let before = sealed(&host);
        run(&host, &["key", "recovery"]);
        until_true("the keys of the tenant are encrypted under another key", || sealed(&host) != before);
        until_true("its previous key is dropped", || {
            let tenants = json_of(&host, "tenants.json")["tenants"].clone();
            tenants.as_object().unwrap().values().all(|tenant| tenant.get("previous").is_none())
        });
    }
    for restarted in [false, true] {
        if restarted {
            host.crash();
            host.start();
        }
        for member in &MEMBERS {
            until_true("credentials are released", || {
                let released = member.post(&host, "/v1/credential", &json!({ "name": "key" }));
                released.status == 200 && released.json()["value"] == member.name
            });
        }
        assert_eq!(kid(&MEMBERS[0].token(&host)), kid(&token), "the issuing key itself is the same");
    }
}

#[test]
fn a_removed_tenant_loses_its_keys_and_credentials_and_no_other_does() {
    let mut host = host_with("");
    MEMBERS.iter().for_each(|member| put(&host, member.tenant, "key", member.name));
    let token = MEMBERS[0].token(&host);
    let others = [key_states(&host, Some("globex")), key_states(&host, None)];
    let refused = host.hostbadge(&["tenant", "rm", "acme"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("agents name this tenant"));
    fs::remove_file(host.path("etc/agents.d/alpha.toml")).unwrap();
    host.reload();
    // The keys stay published, because tokens that they signed may still be valid.
    assert!(verifies(&jwks(&host, Some("acme")), &token));
    assert_eq!(key_states(&host, Some("acme")).len(), 1);

    assert!(run(&host, &["tenant", "rm", "acme"]).contains("1 credential"));
    assert_eq!(host.get("/tenant/acme/.well-known/jwks.json").status, 404);
    assert!(key_states(&host, Some("acme")).is_empty());
    let text = |file: &str| fs::read_to_string(host.path("state").join(file)).unwrap();
    for file in ["tenants.json", "tenant_issuing.json"] {
        assert!(!text(file).contains("acme") && text(file).contains("globex"), "{file}");
    }
    assert_eq!([key_states(&host, Some("globex")), key_states(&host, None)], others);
    let removed = audited(&host, &["--tenant", "acme", "--event", "tenant-removed"]);
    assert_eq!(removed.len(), 1);
    let again = host.admin().post("/v1/tenants/remove", &json!({ "name": "acme" }));
    assert_eq!(again.status, 422, "{}", again.text());

    // Its agents come back: they get other keys, and no credential.
    MEMBERS[0].register(&host);
    host.stop();
    host.start();
    for member in &MEMBERS[1..] {
        let released = member.post(&host, "/v1/credential", &json!({ "name": "key" }));
        assert_eq!(released.json()["value"], member.name);
    }
    assert_eq!(MEMBERS[0].post(&host, "/v1/credential", &json!({ "name": "key" })).status, 400);
    assert_ne!(kid(&MEMBERS[0].token(&host)), kid(&token));
    assert_eq!(MEMBERS[0].post(&host, "/v1/introspect", &json!({ "token": token })).json()["active"], false);
}

/// The entry of a tenant in `tenant_issuing.json`.
fn stored(host: &Host, tenant: &str) -> Value {
    let text = fs::read_to_string(host.path("state/tenant_issuing.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["tenants"][tenant].take()
}

/// Stops the host, moves the time at which the last agent of the tenant left into the past, and starts it.
fn start_with_left_earlier(host: &mut Host, tenant: &str, seconds: u64) {
    assert!(host.stop().success());
    let path = host.path("state/tenant_issuing.json");
    let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let left = &mut file["tenants"][tenant]["left"];
    *left = json!(left.as_u64().unwrap() - seconds);
    fs::write(&path, file.to_string()).unwrap();
    host.start();
    run(host, &["key", "accept"]);
    until_true("the file is accepted", || host.get("/.well-known/jwks.json").status == 200);
}

#[test]
fn keys_of_a_tenant_without_agents_are_removed_once_its_last_token_has_expired() {
    let mut host = host_with("");
    let (token, alpha) = (MEMBERS[0].token(&host), host.path("etc/agents.d/alpha.toml"));
    let leave = |host: &Host| {
        fs::remove_file(&alpha).unwrap();
        host.reload();
        until_true("it is noted that no agent names the tenant", || stored(host, "acme")["left"].is_u64());
    };
    leave(&host);
    // An agent that names the tenant again finds its key.
    MEMBERS[0].register(&host);
    host.reload();
    until_true("it is noted that an agent names the tenant", || stored(&host, "acme")["left"].is_null());
    assert_eq!(kid(&MEMBERS[0].token(&host)), kid(&token));

    leave(&host);
    let others = [key_states(&host, Some("globex")), key_states(&host, None)];
    start_with_left_earlier(&mut host, "acme", 3600);
    assert!(verifies(&jwks(&host, Some("acme")), &token), "within the leeway");
    start_with_left_earlier(&mut host, "acme", 60);
    until_true("the keys are removed", || host.get("/tenant/acme/.well-known/jwks.json").status == 404);
    assert!(stored(&host, "acme").is_null());
    assert_eq!([key_states(&host, Some("globex")), key_states(&host, None)], others);
    until_true("the removal is recorded", || {
        !audited(&host, &["--tenant", "acme", "--event", "key-destroyed"]).is_empty()
    });
}

#[test]
fn more_tenants_than_can_have_keys_are_named_and_the_others_are_served() {
    let mut host = Host::new();
    for number in 0..65 {
        let text = format!(
            "name = \"agent-{number:02}\"\ntenant = \"tenant-{number:02}\"\n[match]\nuser = {}\n[[grant]]\n\
             audience = \"{API}\"\nttl = \"5m\"\n",
            2000 + number
        );
        host.agents_file(&format!("agent-{number:02}"), &text);
    }
    MEMBERS[2].register(&host);
    host.start();
    MEMBERS[2].token(&host);
    let status = |number: u32| Credentials::user(2000 + number).token(&host).status;
    until_true("tenants are served", || status(0) == 200 && status(63) == 200);
    assert_eq!(status(64), 503);
    until_true("the reason is named", || {
        let keys = host.admin().get("/v1/keys").json();
        keys["blocked_reason"].as_str().is_some_and(|reason| reason.contains("tenant-64"))
    });
    fs::remove_file(host.path("etc/agents.d/agent-00.toml")).unwrap();
    host.reload();
    run(&host, &["tenant", "rm", "tenant-00"]);
    until_true("the last tenant is served too", || status(64) == 200);
}

#[test]
fn a_token_names_its_tenant() {
    let host = host_with("");
    let own = claims(&MEMBERS[0].token(&host));
    assert_eq!(own["hostbadge"]["tenant"], "acme");
    assert!(own["sub"].as_str().unwrap().ends_with("/tenant/acme/agent/alpha"));
    assert!(claims(&MEMBERS[2].token(&host))["hostbadge"].get("tenant").is_none());
}
