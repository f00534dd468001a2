//! Bodies become wire types: JSON objects, and forms where OAuth asks for them. Both refuse a field that the
//! type does not have, and name the one that may be meant.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::value::{Error as FormError, MapDeserializer};
use serde::de::{Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::body::RequestBody;
use crate::json;
use crate::nearest::nearest;
use crate::stack::wipe_unused_stack;

/// Longest name of an unknown field that an error repeats, in bytes: a longer one can be a token or a key
/// that stands in the wrong place.
const MAX_REPEATED_NAME_LEN: usize = 32;

/// Why a body is not of the expected type. The texts go to the caller.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    /// The type has no such field.
    #[error("{}", describe_unknown(.name, .fields))]
    UnknownField {
        /// The field as the caller wrote it.
        name: String,
        /// The fields of the type.
        fields: &'static [&'static str],
    },
    /// The body is not an object of JSON, or a member has another type. The text can repeat a value.
    #[error(transparent)]
    Json(serde_json::Error),
    /// A field of the form occurs twice, is missing or has no valid value. The text can repeat a value.
    #[error(transparent)]
    Form(FormError),
}

/// Decodes a body of either encoding.
pub(super) fn decode<'a, T: Deserialize<'a>>(body: &'a RequestBody) -> Result<T, DecodeError> {
    if body.is_form { decode_form(&body.bytes) } else { decode_json(&body.bytes) }
}

/// Decodes a JSON object.
pub(super) fn decode_json<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, DecodeError> {
    let mut fields: &[&str] = &[];
    T::deserialize(JsonObject { text, fields: &mut fields }).map_err(|error| {
        // Read again only for the error: a caller with a wrong field gets its name and not a position.
        let mut unknown = None;
        let visitor = UnknownMember { fields, unknown: &mut unknown };
        // The text need not be valid behind the unknown field.
        let _ = serde_json::Deserializer::from_slice(text).deserialize_map(visitor);
        // To tell the column of an error, serde_json searches the text in pieces of 32 bytes, which stay on the
        // stack.
        wipe_unused_stack();
        match unknown {
            Some(name) => DecodeError::UnknownField { name, fields },
            None => DecodeError::Json(error),
        }
    })
}

/// Decodes a form (RFC 6749 appendix B).
fn decode_form<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, DecodeError> {
    let mut fields: &[&str] = &[];
    T::deserialize(Form { text, fields: &mut fields }).map_err(|error| {
        let mut names = form_urlencoded::parse(text).map(|(name, _)| name);
        match names.find(|name| !fields.contains(&&**name)) {
            Some(name) => DecodeError::UnknownField { name: name.into_owned(), fields },
            None => DecodeError::Form(error),
        }
    })
}

fn describe_unknown(name: &str, fields: &[&str]) -> String {
    if name.len() > MAX_REPEATED_NAME_LEN {
        return format!("a field has a name of {} bytes; the fields are {}", name.len(), fields.join(", "));
    }
    let unknown = format!("unknown field \"{}\"", name.escape_debug());
    match nearest(name, fields) {
        Some(field) => format!("{unknown}; did you mean \"{field}\"?"),
        None => format!("{unknown}; the fields are {}", fields.join(", ")),
    }
}

/// Finds the first member of a JSON object that is none of these fields.
struct UnknownMember<'u> {
    fields: &'static [&'static str],
    unknown: &'u mut Option<String>,
}

impl<'de> Visitor<'de> for UnknownMember<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            if !self.fields.contains(&&*name) {
                *self.unknown = Some(name.into_owned());
                break;
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Reads a struct from a JSON object and nothing else, and keeps the names of its fields.
struct JsonObject<'a, 'f> {
    text: &'a [u8],
    fields: &'f mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for JsonObject<'de, '_> {
    type Error = serde_json::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, serde_json::Error> {
        *self.fields = fields;
        if !json::is_object(self.text) {
            return Err(serde_json::Error::custom("not a JSON object"));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(self.text);
        let value = deserializer.deserialize_struct(name, fields, visitor)?;
        deserializer.end()?;
        Ok(value)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, serde_json::Error> {
        Err(serde_json::Error::custom("the type of a body must be a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Reads a struct from a form, and keeps the names of its fields.
struct Form<'a, 'f> {
    text: &'a [u8],
    fields: &'f mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for Form<'de, '_> {
    type Error = FormError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FormError> {
        *self.fields = fields;
        let pairs = form_urlencoded::parse(self.text).map(|(name, value)| (name, FormValue(value)));
        visitor.visit_map(MapDeserializer::new(pairs))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, FormError> {
        Err(FormError::custom("the type of a body must be a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A value of a form, which is a text.
struct FormValue<'a>(Cow<'a, str>);

impl<'de> IntoDeserializer<'de, FormError> for FormValue<'de> {
    type Deserializer = FormValue<'de>;

    fn into_deserializer(self) -> FormValue<'de> {
        self
    }
}

impl<'de> Deserializer<'de> for FormValue<'de> {
    type Error = FormError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FormError> {
        match self.0 {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FormError> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FormError> {
        // The text is the name of a variant without content.
        visitor.visit_enum(IntoDeserializer::<FormError>::into_deserializer(self.0))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FormError> {
        match &*self.0 {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(FormError::custom("a field that is true or false has another value")),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}
