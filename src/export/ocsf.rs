//! A record as an event of OCSF 1.8.0.

use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::{ExportedHost, NotARecord};
use crate::audit::{Event, Outcome};
use crate::clock::Timestamp;
use crate::wire::admin::AuditRecord;

/// The version of the schema.
pub const OCSF_VERSION: &str = "1.8.0";

/// Members of a record that have attributes of their own in each event.
const MAPPED: [&str; 6] = ["time", "event", "seq", "detail", "reason", "tenant"];

/// The event of a line of the audit log, which it contains as `raw_data`.
///
/// # Errors
/// The line is no record.
pub fn ocsf_event(line: &str, host: &ExportedHost) -> Result<Value, NotARecord> {
    let record: AuditRecord = serde_json::from_str(line).map_err(|_| NotARecord { seq: 0 })?;
    let event = Event::from_name(&record.event);
    let kind = Kind::of(event, record.peer.is_some(), record.request.as_deref(), record.audience.is_some());
    let (class, class_name, activity, activity_name) = class_of(kind);
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    let category = class / 1000;
    set("class_uid", json!(class));
    set("class_name", json!(class_name));
    set("category_uid", json!(category));
    set("category_name", json!(category_name(category)));
    set("activity_id", json!(activity));
    set("activity_name", json!(activity_name));
    set("type_uid", json!(class * 100 + activity));
    set("type_name", json!(format!("{class_name}: {activity_name}")));
    let (severity, severity_name) = severity(event);
    set("severity_id", json!(severity));
    set("severity", json!(severity_name));
    set("time", json!(millis(record.time)));
    set("message", json!(record.detail.as_deref().unwrap_or(&record.event)));
    let (status_id, status) = match kind {
        // The state of the finding, which nobody has looked at.
        Kind::Detection => (1, "New"),
        _ if has_failed(&record, event) => (2, "Failure"),
        _ => (1, "Success"),
    };
    set("status_id", json!(status_id));
    set("status", json!(status));
    set("status_code", json!(record.reason));
    set("status_detail", json!(record.detail));
    set("metadata", metadata(&record));
    set("device", device(&record, host));
    set("actor", actor(&record));
    set("raw_data", json!(line));
    set("unmapped", unmapped(line));
    match kind {
        Kind::Authentication(_) => authentication(&record, &mut set),
        Kind::Api(_) => api_activity(&record, &mut set),
        Kind::Detection => detection(&record, host, &mut set),
        Kind::Entity(_, entity) => set("entity", managed_entity(&record, entity)),
        Kind::Lifecycle(_) => set("app", product()),
        Kind::Base => {}
    }
    Ok(Value::Object(out))
}

fn class_of(kind: Kind) -> (u32, &'static str, u32, &'static str) {
    match kind {
        Kind::Authentication(ticket) => (3002, "Authentication", ticket as u32, ticket.name()),
        Kind::Detection => (2004, "Detection Finding", 1, "Create"),
        Kind::Entity(change, _) => (3004, "Entity Management", change as u32, change.name()),
        Kind::Lifecycle(phase) => (6002, "Application Lifecycle", phase as u32, phase.name()),
        Kind::Api(access) => (6003, "API Activity", access as u32, access.name()),
        Kind::Base => (0, "Base Event", 99, "Other"),
    }
}

fn category_name(category: u32) -> &'static str {
    match category {
        2 => "Findings",
        3 => "Identity & Access Management",
        6 => "Application Activity",
        _ => "Uncategorized",
    }
}

fn severity(event: Option<Event>) -> (u32, &'static str) {
    match event {
        Some(Event::RequestRefused) => (2, "Low"),
        Some(event) => match event.level() {
            tracing::Level::ERROR => (4, "High"),
            tracing::Level::WARN => (3, "Medium"),
            _ => (1, "Informational"),
        },
        None => (0, "Unknown"),
    }
}

fn has_failed(record: &AuditRecord, event: Option<Event>) -> bool {
    match record.outcome.as_deref() {
        Some(outcome) => matches!(outcome, "refused" | "failed"),
        None => matches!(event.map(Event::outcome), Some(Outcome::Refused | Outcome::Failed)),
    }
}

fn metadata(record: &AuditRecord) -> Value {
    let mut metadata = json!({
        "version": OCSF_VERSION,
        "profiles": ["host"],
        "product": product(),
        "event_code": record.event,
        "sequence": record.seq,
        "uid": record.seq.to_string(),
        "log_name": "hostbadge audit log",
        "log_version": record.v.to_string(),
    });
    if let Some(correlation_id) = &record.correlation_id {
        metadata["correlation_uid"] = json!(correlation_id);
    }
    if let Some(tenant) = &record.tenant {
        metadata["tenant_uid"] = json!(tenant);
    }
    metadata
}

fn product() -> Value {
    json!({"name": "hostbadge", "vendor_name": "hostbadge", "version": env!("CARGO_PKG_VERSION")})
}

fn device(record: &AuditRecord, host: &ExportedHost) -> Value {
    let Some(name) = &host.name else { return Value::Null };
    let mut device = json!({"hostname": name, "type_id": 0, "type": "Unknown"});
    if let Some(boot_id) = &record.boot_id {
        device["boot_uid"] = json!(boot_id);
    }
    device
}

/// The calling process.
fn actor(record: &AuditRecord) -> Value {
    let Some(peer) = &record.peer else { return Value::Null };
    let mut process = json!({"pid": peer.pid, "user": {"uid": peer.uid.to_string()}});
    if let Some(exe) = &peer.exe {
        let path = exe.to_string();
        let name = path.rsplit('/').find(|name| !name.is_empty()).unwrap_or("/");
        let mut file = json!({"name": name, "path": path, "type_id": 1, "type": "Regular File"});
        if let Some(digest) = &peer.exe_sha256 {
            let digest = digest.to_string();
            file["hashes"] = json!([{"algorithm_id": 3, "algorithm": "SHA-256", "value": digest}]);
        }
        process["file"] = file;
        process["name"] = json!(name);
    }
    let mut actor = json!({"process": process});
    if let Some(agent) = &record.agent {
        actor["app_name"] = json!(agent);
    }
    if let Some(unit) = &peer.unit {
        actor["invoked_by"] = json!(unit);
    }
    if let Some(invocation) = &peer.invocation {
        actor["session"] = json!({"uid": invocation});
    }
    actor
}

fn authentication(record: &AuditRecord, set: &mut impl FnMut(&str, Value)) {
    set("user", user(record));
    let service = record.audience.as_deref().or(record.credential.as_deref());
    set("service", json!({"name": service.unwrap_or("hostbadge")}));
    set("is_remote", json!(false));
    set("auth_protocol_id", json!(99));
    set("auth_protocol", json!("process credentials of the kernel"));
    let id = record.jti.as_deref().or(record.serial.as_deref());
    if let Some(id) = id {
        let mut session = json!({"uid": id});
        if let Some(kid) = &record.kid {
            session["credential_uid"] = json!(kid);
        }
        if let Some(exp) = record.exp {
            session["expiration_time"] = json!(millis(Timestamp::from_secs(exp)));
        }
        set("session", session);
    }
}

/// The agent, or the user of a process that is none.
fn user(record: &AuditRecord) -> Value {
    let uid = record.peer.as_ref().map(|peer| peer.uid.to_string());
    let mut user = match (&record.agent, uid) {
        (Some(agent), _) => json!({"name": agent, "type_id": 4, "type": "Service"}),
        (None, Some(uid)) => json!({"uid": uid, "type_id": 0, "type": "Unknown"}),
        (None, None) => json!({"name": "unknown", "type_id": 0, "type": "Unknown"}),
    };
    if let Some(owner) = &record.owner {
        user["org"] = json!({"name": owner});
    }
    if let Some(spiffe_id) = &record.spiffe_id {
        user["uid_alt"] = json!(spiffe_id);
    }
    user
}

fn api_activity(record: &AuditRecord, set: &mut impl FnMut(&str, Value)) {
    let operation = record.request.as_deref().unwrap_or(&record.event);
    let mut api = json!({"operation": operation, "service": {"name": "hostbadge"}});
    if let Some(correlation_id) = &record.correlation_id {
        api["request"] = json!({"uid": correlation_id});
    }
    set("api", api);
    let peer = record.peer.as_ref();
    let name = peer.and_then(|peer| peer.unit.clone()).unwrap_or_else(|| "local process".to_owned());
    let mut endpoint = json!({"name": name});
    if let Some(peer) = peer {
        endpoint["uid"] = json!(format!("pid {}", peer.pid));
    }
    set("src_endpoint", endpoint);
    if peer.is_none() {
        set("actor", json!({"app_name": record.agent.as_deref().unwrap_or("unknown")}));
    }
    if let Some(credential) = &record.credential {
        let version = record.credential_version.map(|version| version.to_string());
        set(
            "resources",
            json!([{"name": credential, "type": "credential", "version": version.unwrap_or_default()}]),
        );
    }
}

/// What a rule has found, and about which agent.
fn detection(record: &AuditRecord, host: &ExportedHost, set: &mut impl FnMut(&str, Value)) {
    let rule = record.rule.as_deref().unwrap_or("unknown");
    // Other hosts have records with this number too.
    let host = host.name.as_deref().unwrap_or("unknown host");
    set("is_alert", json!(true));
    set(
        "finding_info",
        json!({
            "uid": format!("{host} {}", record.seq),
            "title": format!("{rule}: {}", record.agent.as_deref().unwrap_or("unknown agent")),
            "desc": record.detail.as_deref().unwrap_or(&record.event),
            "created_time": millis(record.time),
            "types": ["anomaly"],
            "product": product(),
            "analytic": {"name": rule, "type_id": 1, "type": "Rule"},
        }),
    );
    if let Some(agent) = &record.agent {
        let mut resource = json!({"name": agent, "type": "agent"});
        if let Some(tenant) = &record.tenant {
            resource["namespace"] = json!(tenant);
        }
        set("resources", json!([resource]));
    }
}

fn managed_entity(record: &AuditRecord, entity: &str) -> Value {
    let id = [&record.kid, &record.jti, &record.credential, &record.agent, &record.tenant];
    let uid = id.into_iter().flatten().next();
    let mut out = json!({"name": entity, "type": entity});
    if let Some(uid) = uid {
        out["uid"] = json!(uid);
    }
    out
}

/// The members of the line that have no attribute in every event, so that nothing is lost.
fn unmapped(line: &str) -> Value {
    let Ok(Value::Object(mut members)) = serde_json::from_str(line) else { return Value::Null };
    members.retain(|name, _| !MAPPED.contains(&name.as_str()));
    json!({ "hostbadge": members })
}

fn millis(time: Timestamp) -> u64 {
    time.as_micros() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anomaly_is_a_detection_finding_with_the_members_that_the_class_requires() {
        let line = format!(
            "{{\"v\":1,\"seq\":7,\"prev\":\"{}\",\"time\":\"2026-11-26T10:00:00.000001Z\",\"event\":\
             \"anomaly-detected\",\"outcome\":\"done\",\"agent\":\"a\",\"tenant\":\"t\",\"rule\":\"new-audience\",\
             \"detail\":\"x\"}}",
            "0".repeat(64)
        );
        let event = ocsf_event(&line, &ExportedHost { name: Some("h".into()) }).unwrap();
        for (name, value) in [
            ("class_uid", json!(2004)),
            ("category_uid", json!(2)),
            ("activity_id", json!(1)),
            ("type_uid", json!(200_401)),
            ("severity_id", json!(3)),
            ("status_id", json!(1)),
            ("time", json!(1_795_687_200_000_u64)),
            ("is_alert", json!(true)),
        ] {
            assert_eq!(event[name], value, "{name}");
        }
        let finding = &event["finding_info"];
        assert_eq!((&finding["uid"], &finding["title"]), (&json!("h 7"), &json!("new-audience: a")));
        assert_eq!(finding["analytic"]["type_id"], 1);
        assert_eq!(event["resources"], json!([{"name": "a", "type": "agent", "namespace": "t"}]));
        assert_eq!(event["metadata"]["version"], OCSF_VERSION);
    }
}
