//! JSON as `google.protobuf.Struct`.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// The same object as a struct. Numbers become 64-bit floating-point numbers, the only ones that a struct
/// has.
pub fn from_json_object(json: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: json.iter().map(|(name, json)| (name.clone(), from_json(json))).collect() }
}

fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(*flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(from_json).collect() }),
        Json::Object(fields) => Kind::StructValue(from_json_object(fields)),
    };
    Value { kind: Some(kind) }
}
