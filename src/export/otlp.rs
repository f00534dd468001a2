//! Records as logs of the OpenTelemetry protocol, in its JSON form (opentelemetry-proto, `docs/specification.md`: ids in
//! hexadecimal, 64-bit numbers as text).

use serde_json::{Value, json};

use super::{ExportedHost, NotARecord};
use crate::audit::Event;
use crate::wire::admin::AuditRecord;

/// An ExportLogsServiceRequest with a record for each line.
///
/// # Errors
/// A line is no record.
pub fn otlp_request<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    host: &ExportedHost,
) -> Result<Value, NotARecord> {
    let records: Vec<Value> = lines.into_iter().map(log_record).collect::<Result<_, _>>()?;
    let mut attributes = vec![
        text_attribute("service.name", "hostbadged"),
        text_attribute("telemetry.sdk.name", "hostbadge"),
        text_attribute("telemetry.sdk.language", "rust"),
        text_attribute("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ];
    attributes.extend(host.name.as_deref().map(|name| text_attribute("host.name", name)));
    let scope = json!({"name": "hostbadge.audit", "version": env!("CARGO_PKG_VERSION")});
    Ok(json!({"resourceLogs": [{
        "resource": {"attributes": attributes},
        "scopeLogs": [{"scope": scope, "logRecords": records}],
    }]}))
}

fn log_record(line: &str) -> Result<Value, NotARecord> {
    let record: AuditRecord = serde_json::from_str(line).map_err(|_| NotARecord { seq: 0 })?;
    let event = Event::from_name(&record.event);
    let (severity, severity_text) = match event.map(Event::level) {
        Some(tracing::Level::ERROR) => (17, "ERROR"),
        Some(tracing::Level::WARN) => (13, "WARN"),
        _ => (9, "INFO"),
    };
    let nanos = (u128::from(record.time.as_micros()) * 1000).min(u64::MAX.into()).to_string();
    let mut attributes = Vec::new();
    if let Ok(members) = serde_json::from_str::<Value>(line) {
        flatten("hostbadge", &members, &mut attributes);
    }
    attributes.push(text_attribute("log.record.original", line));
    let body = record.detail.as_deref().unwrap_or(&record.event);
    let mut out = json!({
        "timeUnixNano": nanos,
        "observedTimeUnixNano": nanos,
        "severityNumber": severity,
        "severityText": severity_text,
        "eventName": format!("hostbadge.{}", record.event),
        "body": {"stringValue": body},
        "attributes": attributes,
    });
    if let Some(trace_id) = record.correlation_id.filter(|id| is_id(id, 32)) {
        // A trace that the daemon made has one request, whose id is the end of the trace's.
        let span_id = record.span_id.unwrap_or_else(|| trace_id[16..].to_owned());
        if is_id(&span_id, 16) {
            out["spanId"] = json!(span_id);
        }
        out["traceId"] = json!(trace_id);
    }
    Ok(out)
}

/// Whether a text is an id of this many hexadecimal digits that is not zero.
fn is_id(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit()) && text.bytes().any(|b| b != b'0')
}

fn text_attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Adds an attribute for each text, number and truth of a value, named by its path.
fn flatten(path: &str, value: &Value, attributes: &mut Vec<Value>) {
    let value = match value {
        Value::Object(members) => {
            for (name, member) in members {
                flatten(&format!("{path}.{name}"), member, attributes);
            }
            return;
        }
        Value::Null => return,
        Value::String(text) => json!({ "stringValue": text }),
        Value::Bool(truth) => json!({ "boolValue": truth }),
        Value::Number(number) if number.is_i64() => json!({ "intValue": number.to_string() }),
        // No member of a record is an array or a fraction; a later version's is kept as text.
        other => json!({ "stringValue": other.to_string() }),
    };
    attributes.push(json!({"key": path, "value": value}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_log_with_its_trace() {
        let line = format!(
            "{{\"v\":1,\"seq\":7,\"prev\":\"{}\",\"monotonic_us\":5,\"correlation_id\":\
             \"0af7651916cd43dd8448eb211c80319c\",\"time\":\"2026-11-26T10:00:00.000001Z\",\
             \"event\":\"request-refused\",\"detail\":\"no \\u001b[31m\",\"peer\":{{\"pid\":1,\"uid\":2,\"gid\":3,\
             \"pinned\":true}}}}",
            "0".repeat(64)
        );
        let request = otlp_request([line.as_str()], &ExportedHost { name: Some("h".into()) }).unwrap();
        let logs = &request["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
        let log = &logs[0];
        assert_eq!(log["timeUnixNano"], "1795687200000001000");
        assert_eq!(log["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(log["spanId"], "8448eb211c80319c");
        assert_eq!((&log["severityNumber"], &log["severityText"]), (&json!(13), &json!("WARN")));
        let attributes = log["attributes"].as_array().unwrap();
        let of = |key: &str| attributes.iter().find(|found| found["key"] == key).map(|found| &found["value"]);
        assert_eq!(of("hostbadge.seq"), Some(&json!({"intValue": "7"})));
        assert_eq!(of("hostbadge.peer.pinned"), Some(&json!({"boolValue": true})));
        assert_eq!(of("log.record.original"), Some(&json!({"stringValue": line})));
        assert!(otlp_request(["{}"], &ExportedHost::default()).is_err());
    }
}
