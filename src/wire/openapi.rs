//! Compares the types of `wire` with `docs/openapi.yaml`, in both directions. The route tables are
//! compared by tests beside them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::{
    admin, agent, anomaly, approvals, change, clock, comparison, credentials, delegate, enroll, error, keys,
    leak, lifecycle, offboarding, policy, posture, review, revocation, signal, status, tenants,
};
use crate::clock::Timestamp;

/// Schemas of the document that are not types of `wire`, because they have a specification of their own.
const DOCUMENTS: [&str; 9] = [
    "Bundle",
    "ChallengeAnswer",
    "Discovery",
    "EncryptedCredential",
    "EnrollmentChallenge",
    "EnrollmentRequest",
    "Evidence",
    "Jwks",
    "SignedAttestation",
];
/// Types whose members are members of another type (`serde(flatten)`).
const FLATTENED: [&str; 1] = ["TpmDescription"];
/// Types of what is not JSON: the addresses of service managers.
const OTHER_PROTOCOLS: [&str; 2] = ["InvalidAddress", "ManagerAddress"];

/// Asserts that the document has exactly these operations for a socket, as method, path and caller.
#[track_caller]
pub(crate) fn assert_operations<'a>(socket: &str, routes: impl Iterator<Item = (&'a str, &'a str, &'a str)>) {
    let document = document();
    let operations = object(&document["paths"]).iter().flat_map(|(path, methods)| {
        object(methods).iter().map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    });
    let documented: BTreeSet<_> = operations
        .filter(|(.., operation)| operation["tags"] == json!([socket]))
        .map(|(method, path, operation)| {
            let description = operation["description"].as_str().unwrap_or_default();
            let caller = description.strip_prefix("Caller: ").and_then(|text| text.split('.').next());
            (method, path, caller.unwrap_or_default())
        })
        .collect();
    assert_eq!(documented, routes.collect(), "docs/openapi.yaml and the routes differ");
}

#[test]
fn types_are_as_documented() {
    let (document, types) = (document(), type_schemas());
    let documented = object(&document["components"]["schemas"]);
    let mut faults = Vec::new();
    for name in types.keys().filter(|name| !documented.contains_key(*name)) {
        faults.push(format!("{name} has no schema in the document"));
    }
    for (name, schema) in documented.iter().filter(|(name, _)| !DOCUMENTS.contains(&name.as_str())) {
        match types.get(name) {
            Some(code) => faults.extend(differences(name, code, schema)),
            None => faults.push(format!("the schema {name} has no type in src/wire")),
        }
    }
    assert!(faults.is_empty(), "docs/openapi.yaml and src/wire differ:\n{}", faults.join("\n"));
}

#[test]
fn each_type_is_compared() {
    let compared: BTreeSet<String> =
        type_schemas().keys().cloned().chain(FLATTENED.map(str::to_owned)).collect();
    assert_eq!(compared, type_names());
}

fn document() -> Value {
    serde_norway::from_str(include_str!("../../docs/openapi.yaml")).unwrap()
}

/// Schemas of all types by name: requests as they are read, responses as they are written.
fn type_schemas() -> Map<String, Value> {
    let mut requests = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    requests.subschema_for::<admin::ReloadRequest>();
    requests.subschema_for::<change::ApproveRequest>();
    requests.subschema_for::<anomaly::ResumeRequest>();
    requests.subschema_for::<approvals::DecideRequest>();
    requests.subschema_for::<agent::AttestRequest>();
    requests.subschema_for::<agent::CertificateRequest<'_>>();
    requests.subschema_for::<agent::IntrospectionRequest>();
    requests.subschema_for::<agent::ProveRequest<'_>>();
    requests.subschema_for::<agent::TokenRequest<'_>>();
    requests.subschema_for::<agent::UseNonceRequest>();
    requests.subschema_for::<delegate::DelegateRequest<'_>>();
    requests.subschema_for::<credentials::PutCredentialRequest>();
    requests.subschema_for::<credentials::ReleaseRequest<'_>>();
    requests.subschema_for::<credentials::RemoveCredentialRequest>();
    requests.subschema_for::<credentials::RotateCredentialRequest>();
    requests.subschema_for::<enroll::CredentialRequest>();
    requests.subschema_for::<enroll::InstallRequest>();
    requests.subschema_for::<keys::ConfirmRecoveryKeyRequest>();
    requests.subschema_for::<keys::RecoverRequest>();
    requests.subschema_for::<keys::RotateRequest>();
    requests.subschema_for::<leak::LeakRequest>();
    requests.subschema_for::<review::SignReviewRequest>();
    requests.subschema_for::<revocation::FreezeRequest>();
    requests.subschema_for::<revocation::RevokeOwnRequest>();
    requests.subschema_for::<revocation::RevokeRequest>();
    requests.subschema_for::<signal::SignalRequest>();
    requests.subschema_for::<offboarding::OffboardRequest>();
    requests.subschema_for::<posture::PostureAcceptRequest>();
    requests.subschema_for::<tenants::RemoveTenantRequest>();

    let mut responses = SchemaSettings::draft2020_12().for_serialize().into_generator();
    responses.subschema_for::<admin::Agent>();
    responses.subschema_for::<anomaly::AgentAnomalies>();
    responses.subschema_for::<anomaly::AnomaliesResponse>();
    responses.subschema_for::<anomaly::ResumeResponse>();
    responses.subschema_for::<approvals::ApprovalsResponse>();
    responses.subschema_for::<tenants::RemoveTenantResponse>();
    responses.subschema_for::<tenants::Tenant>();
    responses.subschema_for::<leak::LeakResponse>();
    responses.subschema_for::<review::SignReviewResponse>();
    responses.subschema_for::<revocation::RevocationsResponse>();
    responses.subschema_for::<revocation::RevokeOwnResponse>();
    responses.subschema_for::<revocation::RevokeResponse>();
    responses.subschema_for::<signal::SignalResponse>();
    responses.subschema_for::<admin::AuditRecord>();
    responses.subschema_for::<admin::AuditResponse>();
    responses.subschema_for::<admin::DoneResponse>();
    responses.subschema_for::<admin::ReloadResponse>();
    responses.subschema_for::<agent::CertificateResponse>();
    responses.subschema_for::<agent::EatResponse>();
    responses.subschema_for::<agent::HealthResponse>();
    responses.subschema_for::<agent::IntrospectionResponse>();
    responses.subschema_for::<agent::NonceResponse>();
    responses.subschema_for::<agent::ProveResponse>();
    responses.subschema_for::<agent::StatusListsResponse>();
    responses.subschema_for::<agent::TokenResponse<'_>>();
    responses.subschema_for::<agent::UseNonceResponse>();
    responses.subschema_for::<agent::WhoamiResponse>();
    responses.subschema_for::<clock::ClockStatus>();
    responses.subschema_for::<comparison::WhyResponse>();
    responses.subschema_for::<credentials::AcceptCredentialsResponse>();
    responses.subschema_for::<credentials::PutCredentialResponse>();
    responses.subschema_for::<credentials::ReleaseResponse<'_>>();
    responses.subschema_for::<credentials::RemoveCredentialResponse>();
    responses.subschema_for::<credentials::StoredCredential>();
    responses.subschema_for::<delegate::DelegateResponse>();
    responses.subschema_for::<enroll::CredentialResponse>();
    responses.subschema_for::<error::ErrorResponse>();
    responses.subschema_for::<keys::KeysResponse>();
    responses.subschema_for::<keys::RecoveryKeyResponse>();
    responses.subschema_for::<keys::RotateResponse>();
    responses.subschema_for::<lifecycle::LifecycleResponse>();
    responses.subschema_for::<offboarding::OffboardResponse>();
    responses.subschema_for::<policy::PoliciesResponse>();
    responses.subschema_for::<policy::PolicyWhyResponse>();
    responses.subschema_for::<posture::PostureDiffResponse>();
    responses.subschema_for::<posture::PostureResponse>();
    responses.subschema_for::<status::StatusResponse>();

    let mut schemas = requests.take_definitions(true);
    schemas.extend(responses.take_definitions(true));
    schemas
}

/// Names of the public types in the source of `wire`, except those of other protocols.
fn type_names() -> BTreeSet<String> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire")).unwrap();
    let sources = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    let name = |line: &str| {
        let rest = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "))?;
        rest.split(|c: char| !c.is_alphanumeric()).next().map(str::to_owned)
    };
    let names = sources.flat_map(|source| source.lines().filter_map(name).collect::<Vec<_>>());
    names.filter(|name| !OTHER_PROTOCOLS.contains(&name.as_str())).collect()
}

fn differences(name: &str, code: &Value, documented: &Value) -> Vec<String> {
    let (code, documented) = (facts(name, code), facts(name, documented));
    // The document may list the values of a member that is any text to the code.
    let is_any_text = |fact: &str| {
        let place = fact.split_once(" = ").map(|(place, _)| format!("{place} = "));
        place.is_some_and(|place| !code.iter().any(|fact| fact.starts_with(&place)))
    };
    let missing = code.difference(&documented).map(|fact| format!("not in the document: {fact}"));
    let invented = documented.difference(&code).filter(|fact| !is_any_text(fact));
    missing.chain(invented.map(|fact| format!("not in the code: {fact}"))).collect()
}

/// What a schema requires, one line for each type, value and member.
fn facts(place: &str, schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for branch in ["anyOf", "oneOf"].iter().flat_map(|key| list(&schema[*key])) {
        found.extend(facts(place, branch));
    }
    let kind = &schema["type"];
    for name in kind.as_str().into_iter().chain(list(kind).iter().filter_map(Value::as_str)) {
        found.insert(format!("{place}: {name}"));
    }
    if let Some((_, name)) = schema["$ref"].as_str().and_then(|target| target.rsplit_once('/')) {
        found.insert(format!("{place}: {name}"));
    }
    if schema["format"] == "date-time" {
        found.insert(format!("{place}: date-time"));
    }
    for value in list(&schema["enum"]).iter().chain(schema.get("const")) {
        found.insert(format!("{place} = {value}"));
    }
    let required = list(&schema["required"]);
    for name in required.iter().filter_map(Value::as_str) {
        found.insert(format!("{place}.{name} is required"));
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, schema) in properties {
            let member = format!("{place}.{name}");
            found.extend(facts(&member, schema));
            if !required.contains(&Value::from(name.as_str())) {
                // An optional member is absent rather than null.
                found.remove(&format!("{member}: null"));
            }
        }
    }
    if schema["additionalProperties"] == false {
        found.insert(format!("{place} has no other members"));
    }
    let by_pattern = schema["patternProperties"].as_object().into_iter().flat_map(Map::values);
    for schema in schema.get("items").into_iter().chain(by_pattern) {
        found.extend(facts(&format!("{place}[]"), schema));
    }
    found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}
