//! Messages of D-Bus (specification 0.43, "Message Protocol"), as far as reading properties needs them.
//!
//! Requests are little-endian method calls whose arguments are strings. Of replies, the type, the serial
//! number of the call and a body of one variant are read.

/// Longest message that is read, in bytes. The properties that are read are names and numbers.
pub(super) const MAX_MESSAGE_LEN: usize = 64 * 1024;
/// The part of each message that tells its length.
pub(super) const PREFIX_LEN: usize = 16;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// The bus does not start the destination.
const NO_AUTO_START: u8 = 2;
const PROTOCOL_VERSION: u8 = 1;

const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// A method call with strings as arguments.
pub(super) struct Call<'a> {
    /// Not 0, and unique on the connection.
    pub serial: u32,
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [&'a str],
}

/// What a message answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The value of a reply, where it is a variant of a type that is read.
    Return(u32, Option<Value>),
    /// The name of an error.
    Error(u32, String),
    /// A signal, or a call.
    Other,
}

/// The value of a variant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A `u`.
    Number(u32),
    /// An `s`.
    Text(String),
    /// An `as`.
    Texts(Vec<String>),
}

impl Call<'_> {
    /// The bytes of the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for argument in self.arguments {
            push_string(&mut body, argument);
        }
        let mut bytes = vec![b'l', METHOD_CALL, NO_AUTO_START, PROTOCOL_VERSION];
        push_u32(&mut bytes, body.len());
        bytes.extend(self.serial.to_le_bytes());
        let mut fields = Vec::new();
        push_field(&mut fields, FIELD_PATH, b'o', self.path);
        push_field(&mut fields, FIELD_INTERFACE, b's', self.interface);
        push_field(&mut fields, FIELD_MEMBER, b's', self.member);
        push_field(&mut fields, FIELD_DESTINATION, b's', self.destination);
        if !self.arguments.is_empty() {
            pad(&mut fields, 8);
            let signature = "s".repeat(self.arguments.len());
            fields.extend([FIELD_SIGNATURE, 1, b'g', 0, signature.len() as u8]);
            fields.extend(signature.as_bytes());
            fields.push(0);
        }
        push_u32(&mut bytes, fields.len());
        bytes.extend(fields);
        pad(&mut bytes, 8);
        bytes.extend(body);
        bytes
    }
}

/// Appends a field of the header, whose array begins at a multiple of 8.
fn push_field(fields: &mut Vec<u8>, code: u8, kind: u8, text: &str) {
    pad(fields, 8);
    fields.extend([code, 1, kind, 0]);
    push_string(fields, text);
}

fn push_string(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    push_u32(bytes, text.len());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

/// Appends a length, which is below the longest message.
fn push_u32(bytes: &mut Vec<u8>, number: usize) {
    bytes.extend((number as u32).to_le_bytes());
}

fn pad(bytes: &mut Vec<u8>, alignment: usize) {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

/// The length of the whole message that begins with `prefix`; `None` if it is no message, or too long.
pub(super) fn message_len(prefix: &[u8; PREFIX_LEN]) -> Option<usize> {
    let mut reader = Reader::new(prefix)?;
    reader.at = 4;
    let body_len = reader.u32()? as usize;
    reader.at = 12;
    let fields_len = reader.u32()? as usize;
    let header_len = PREFIX_LEN.checked_add(fields_len)?.checked_next_multiple_of(8)?;
    header_len.checked_add(body_len).filter(|length| *length <= MAX_MESSAGE_LEN)
}

/// Parses a whole message; `None` if it is malformed.
pub(super) fn parse(message: &[u8]) -> Option<Message> {
    let prefix: &[u8; PREFIX_LEN] = message.first_chunk()?;
    if message_len(prefix)? != message.len() {
        return None;
    }
    let kind = message[1];
    let mut reader = Reader::new(message)?;
    reader.at = 12;
    let fields_end = PREFIX_LEN + reader.u32()? as usize;
    let (mut reply_serial, mut error_name, mut signature) = (None, None, String::new());
    while reader.at < fields_end {
        reader.align(8)?;
        let code = reader.u8()?;
        match (code, reader.signature()?.as_str()) {
            (FIELD_REPLY_SERIAL, "u") => reply_serial = Some(reader.u32()?),
            (FIELD_ERROR_NAME, "s") => error_name = Some(reader.string()?),
            (FIELD_SIGNATURE, "g") => signature = reader.signature()?,
            (_, "s" | "o") => drop(reader.string()?),
            (_, "u") => drop(reader.u32()?),
            (_, "g") => drop(reader.signature()?),
            _ => return None,
        }
    }
    reader.align(8)?;
    Some(match kind {
        METHOD_RETURN if signature == "v" => Message::Return(reply_serial?, reader.variant()?),
        METHOD_RETURN => Message::Return(reply_serial?, None),
        ERROR => Message::Error(reply_serial?, error_name?),
        _ => Message::Other,
    })
}

/// Reads values of either byte order at their alignments.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(message: &'a [u8]) -> Option<Reader<'a>> {
        let is_big_endian = match message.first()? {
            b'l' => false,
            b'B' => true,
            _ => return None,
        };
        Some(Reader { bytes: message, at: 0, is_big_endian })
    }

    fn align(&mut self, alignment: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(alignment)?;
        Some(())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = *self.take(4)?.first_chunk()?;
        Some(if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn string(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        self.text(length)
    }

    /// Text that a NUL follows.
    fn text(&mut self, length: usize) -> Option<String> {
        let text = std::str::from_utf8(self.take(length)?).ok()?.to_owned();
        (self.u8()? == 0).then_some(text)
    }

    /// The inner `None` is a value of another type.
    fn variant(&mut self) -> Option<Option<Value>> {
        Some(Some(match self.signature()?.as_str() {
            "u" => Value::Number(self.u32()?),
            "s" => Value::Text(self.string()?),
            "as" => {
                let length = self.u32()? as usize;
                let end = self.at.checked_add(length)?;
                let mut texts = Vec::new();
                while self.at < end {
                    texts.push(self.string()?);
                }
                Value::Texts(texts)
            }
            _ => return Some(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply with this type, header fields after the serial of the call, and body.
    fn message(kind: u8, big: bool, fields: &[u8], body: &[u8]) -> Vec<u8> {
        let number = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut all_fields = vec![FIELD_REPLY_SERIAL, 1, b'u', 0];
        all_fields.extend(number(7));
        all_fields.extend(fields);
        let mut bytes = vec![if big { b'B' } else { b'l' }, kind, 0, 1];
        bytes.extend(number(body.len() as u32));
        bytes.extend(number(1));
        bytes.extend(number(all_fields.len() as u32));
        bytes.extend(all_fields);
        pad(&mut bytes, 8);
        bytes.extend(body);
        bytes
    }

    const VARIANT: &[u8] = &[FIELD_SIGNATURE, 1, b'g', 0, 1, b'v', 0];

    #[test]
    fn values_of_both_byte_orders_are_read() {
        let number = message(METHOD_RETURN, true, VARIANT, &[1, b'u', 0, 0, 0, 0, 3, 0xe8]);
        assert_eq!(parse(&number), Some(Message::Return(7, Some(Value::Number(1000)))));
        let text = message(METHOD_RETURN, false, VARIANT, b"\x01s\0\0\x04\0\0\0root\0");
        assert_eq!(parse(&text), Some(Message::Return(7, Some(Value::Text("root".into())))));
        let texts =
            message(METHOD_RETURN, false, VARIANT, b"\x02as\0\x11\0\0\0\x01\0\0\0a\0\0\0\x04\0\0\0four\0");
        assert_eq!(
            parse(&texts),
            Some(Message::Return(7, Some(Value::Texts(vec!["a".into(), "four".into()]))))
        );
        let other = message(METHOD_RETURN, false, VARIANT, b"\x01b\0\0\x01\0\0\0");
        assert_eq!(parse(&other), Some(Message::Return(7, None)));
    }

    #[test]
    fn truncated_and_oversized_messages_are_refused() {
        let whole = message(METHOD_RETURN, false, VARIANT, b"\x01s\0\0\x04\0\0\0root\0");
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
        for index in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[index] = byte;
                // Any result but a panic.
                let _ = parse(&changed);
            }
        }
        let mut prefix: [u8; PREFIX_LEN] = *whole.first_chunk().unwrap();
        assert_eq!(message_len(&prefix), Some(whole.len()));
        prefix[6] = 1;
        assert_eq!(message_len(&prefix), None, "longer than what is read");
        prefix[..16].copy_from_slice(&[0xff; 16]);
        assert_eq!(message_len(&prefix), None);
    }
}
