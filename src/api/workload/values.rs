//! JSON as google.protobuf.Struct.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

pub fn object(json: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: json.iter().map(|(name, json)| (name.clone(), value(json))).collect() }
}

fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(yes) => Kind::BoolValue(*yes),
        // The struct knows no other numbers.
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(value).collect() }),
        Json::Object(fields) => Kind::StructValue(object(fields)),
    };
    Value { kind: Some(kind) }
}
