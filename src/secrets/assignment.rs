//! Assignments of secrets to names: `NAME=value`, in files of shells, settings and programs.

use zeroize::Zeroizing;

use super::forms;
use super::kind::SecretKind;

/// Parts of the names of variables that have secrets.
const SECRET_PARTS: &[&str] = &[
    "ACCESS_KEY",
    "API_KEY",
    "APIKEY",
    "AUTH_KEY",
    "CREDENTIAL",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PRIVATE_KEY",
    "SECRET",
    "TOKEN",
];
/// Ends of the names of variables that only say where a secret is, how it is called, or what its digest is.
const HARMLESS_ENDS: &[&str] = &[
    "_DIGEST",
    "_DIR",
    "_ENDPOINT",
    "_FILE",
    "_FINGERPRINT",
    "_HASH",
    "_ID",
    "_LIFETIME",
    "_NAME",
    "_PATH",
    "_SHA256",
    "_SOCKET",
    "_TTL",
    "_TYPE",
    "_URI",
    "_URL",
];
/// The shortest value that is a secret, where its name says so.
const MIN_NAMED_LEN: usize = 8;
/// The longest name that is looked at, in bytes.
const MAX_NAME_LEN: usize = 128;
/// The shortest and the longest value that is random enough to be a secret.
const VALUE_LEN: std::ops::RangeInclusive<usize> = 12..=4096;
/// The least entropy of the characters of such a value, in bits for each.
const MIN_ENTROPY: f64 = 3.0;
/// How often letters and digits follow each other in it at least.
const MIN_CHANGES: usize = 2;
/// Spaces between a name, the sign and the value.
const MAX_SPACES: usize = 8;
/// Parts of values that stand for a secret.
const PLACEHOLDERS: &[&[u8]] = &[
    b"example",
    b"changeme",
    b"placeholder",
    b"xxxx",
    b"your",
    b"redacted",
    b"dummy",
    b"****",
    b"env.",
    b"environ",
];
/// The length of the secret of an AWS access key.
const AWS_SECRET_LEN: usize = 40;

/// Whether variables of this name have secrets.
pub fn is_secret_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase().replace(['-', '.'], "_");
    (SECRET_PARTS.iter().any(|part| upper.contains(part)) || upper.ends_with("_KEY"))
        && !upper.contains("PUBLIC")
        && !HARMLESS_ENDS.iter().any(|end| upper.ends_with(end))
}

/// The name of a variable, if its assignment `NAME=VALUE` in an environment looks like a secret, whether the value is
/// random or not.
pub fn secret_variable(assignment: &str) -> Option<&str> {
    let (name, value) = assignment.split_once('=')?;
    let (name, value) = (name.trim(), value.trim().trim_matches(['"', '\'']));
    // A path, a specifier or another variable only leads to a secret.
    let is_value = value.len() >= MIN_NAMED_LEN && !value.starts_with(['/', '%', '$']);
    (is_value && (is_secret_name(name) || forms::has_known_prefix(value))).then_some(name)
}

/// The kind of a secret that is assigned by the sign `=` or `:` at `sign`, with the beginning and the end of its
/// value.
pub(super) fn assigned_at(text: &[u8], sign: usize) -> Option<(SecretKind, usize, usize)> {
    let name = name_before(text, sign)?;
    if !is_secret_name(name) {
        return None;
    }
    let (begin, end) = value_after(text, sign)?;
    let value = &text[begin..end];
    let is_quoted = matches!(text[begin - 1], b'"' | b'\'' | b'`');
    if forms::token_at(text, begin).is_some() || !is_random(value) || !is_quoted && is_path_of_names(value) {
        return None;
    }
    let is_aws = name.to_ascii_lowercase().contains("aws") && value.len() == AWS_SECRET_LEN;
    let kind = if is_aws { SecretKind::AwsSecretAccessKey } else { SecretKind::Assignment };
    Some((kind, begin, end))
}

/// The name before a sign, without its quotes.
fn name_before(text: &[u8], sign: usize) -> Option<&str> {
    let mut end = sign;
    let is_space = |byte: u8| byte == b' ' || byte == b'\t';
    while end > 0 && is_space(text[end - 1]) && sign - end < MAX_SPACES {
        end -= 1;
    }
    if end > 0 && matches!(text[end - 1], b'"' | b'\'') {
        end -= 1;
    }
    let length = text[..end].iter().rev().take(MAX_NAME_LEN).take_while(|byte| is_name(**byte)).count();
    std::str::from_utf8(&text[end - length..end]).ok().filter(|name| !name.is_empty())
}

/// The place of the value after a sign, without its quotes.
fn value_after(text: &[u8], sign: usize) -> Option<(usize, usize)> {
    let mut begin = sign + 1;
    // `:=` and `=>` assign too; `==` compares.
    match (text[sign], text.get(begin)?) {
        (b':', b'=') | (b'=', b'>') => begin += 1,
        (b'=', b'=') | (b':', b':') => return None,
        _ => {}
    }
    let spaces =
        text[begin..].iter().take(MAX_SPACES).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    begin += spaces;
    let first = *text.get(begin)?;
    let rest = |begin: usize| text[begin..].iter().take(*VALUE_LEN.end() + 1);
    let length = match first {
        b'"' | b'\'' | b'`' => {
            begin += 1;
            rest(begin).position(|byte| *byte == first || *byte == b'\n')?
        }
        _ => rest(begin).take_while(|byte| is_unquoted(**byte)).count(),
    };
    VALUE_LEN.contains(&length).then_some((begin, begin + length))
}

/// Whether a value is as random as tokens and generated passwords are.
fn is_random(value: &[u8]) -> bool {
    let leads_elsewhere =
        matches!(value[0], b'/' | b'%' | b'$' | b'<' | b'{' | b'[' | b'(' | b'*' | b'&' | b'@');
    let is_text = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'(' | b')' | b'<' | b'>' | b'\\');
    !leads_elsewhere
        && value.iter().all(is_text)
        && is_mixed(value)
        && entropy(value) >= MIN_ENTROPY
        && !is_placeholder(value)
}

/// Whether letters and digits are mixed, or stand with the punctuation of passwords. Names in programs, such as
/// `TPM2_MakeCredential`, have few digits.
fn is_mixed(value: &[u8]) -> bool {
    let is_change = |pair: &[u8]| {
        let [one, other] = [pair[0], pair[1]];
        one.is_ascii_digit() && other.is_ascii_alphabetic()
            || one.is_ascii_alphabetic() && other.is_ascii_digit()
    };
    let changes = value.windows(2).filter(|pair| is_change(pair)).count();
    let is_punctuation =
        |byte: &u8| matches!(byte, b'!' | b'#' | b'$' | b'%' | b'*' | b'+' | b'=' | b'?' | b'@' | b'^');
    changes >= MIN_CHANGES || changes == 1 && value.iter().any(is_punctuation)
}

fn is_placeholder(value: &[u8]) -> bool {
    let lower = Zeroizing::new(value.to_ascii_lowercase());
    PLACEHOLDERS.iter().any(|part| lower.windows(part.len()).any(|window| window == *part))
}

/// Whether a value is a name in a program, such as `settings.token_2`.
fn is_path_of_names(value: &[u8]) -> bool {
    let is_name = |part: &[u8]| {
        part.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
            && part.iter().all(|byte| forms::is_word(*byte))
    };
    value.contains(&b'.') && value.split(|byte| *byte == b'.').all(is_name)
}

/// The entropy of the characters of a text by their frequencies, in bits for each (Shannon).
fn entropy(text: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    text.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let length = text.len() as f64;
    let share = |count: &u32| f64::from(*count) / length;
    counts.iter().filter(|count| **count > 0).map(share).map(|share| -share * share.log2()).sum()
}

fn is_name(byte: u8) -> bool {
    forms::is_base64url(byte) || byte == b'.'
}

/// What a value without quotes consists of.
fn is_unquoted(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'"' | b'\'' | b'`' | b'\\' | b';' | b',' | b'}' | b']' | b'&' | b'|')
}
