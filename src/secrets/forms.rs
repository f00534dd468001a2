//! Tokens and keys to which issuers give a fixed beginning, and JSON Web Tokens.

use super::kind::SecretKind;

/// The longest JSON Web Token that is found as one, in bytes.
const MAX_JWT_LEN: usize = 64 * 1024;
/// The shortest header, payload and signature of a JSON Web Token.
const MIN_JWT_PART_LEN: usize = 10;
/// How the base64url of a JSON object begins: `{"`.
const JSON_OBJECT: &[u8] = b"eyJ";

/// A token with a fixed beginning.
struct Form {
    prefix: &'static str,
    kind: SecretKind,
    /// The characters after the prefix.
    body: fn(u8) -> bool,
    /// How many there are at least, and at most.
    length: (usize, usize),
    /// Whether digits and letters must be among them, because words of prose would fit otherwise.
    needs_digit: bool,
}

const fn form(prefix: &'static str, kind: SecretKind, body: fn(u8) -> bool, length: (usize, usize)) -> Form {
    Form { prefix, kind, body, length, needs_digit: false }
}

/// A prefix that is the beginning of another stands after it.
#[rustfmt::skip]
const FORMS: &[Form] = &[
    form("AKIA", SecretKind::AwsAccessKeyId, is_upper_or_digit, (16, 16)),
    form("ASIA", SecretKind::AwsAccessKeyId, is_upper_or_digit, (16, 16)),
    form("AIza", SecretKind::GoogleApiKey, is_base64url, (35, 35)),
    form("AGE-SECRET-KEY-1", SecretKind::AgeKey, is_upper_or_digit, (58, 58)),
    form("ghp_", SecretKind::GithubToken, is_word, (30, 255)),
    form("gho_", SecretKind::GithubToken, is_word, (30, 255)),
    form("ghu_", SecretKind::GithubToken, is_word, (30, 255)),
    form("ghs_", SecretKind::GithubToken, is_word, (30, 1024)),
    form("ghr_", SecretKind::GithubToken, is_word, (30, 255)),
    form("github_pat_", SecretKind::GithubToken, is_word, (22, 255)),
    form("glpat-", SecretKind::GitlabToken, is_base64url_or_dot, (20, 512)),
    form("hbr1-", SecretKind::RecoveryKey, is_base64url, (40, 128)),
    form("hf_", SecretKind::HuggingFaceToken, is_alphanumeric, (30, 64)),
    form("npm_", SecretKind::NpmToken, is_alphanumeric, (36, 36)),
    form("pypi-", SecretKind::PypiToken, is_base64url, (50, 1024)),
    form("rk_live_", SecretKind::StripeKey, is_alphanumeric, (16, 255)),
    form("sk_live_", SecretKind::StripeKey, is_alphanumeric, (16, 255)),
    Form { needs_digit: true, ..form("sk-ant-", SecretKind::AnthropicKey, is_base64url, (20, 255)) },
    Form { needs_digit: true, ..form("sk-", SecretKind::OpenAiKey, is_base64url, (20, 255)) },
    Form { needs_digit: true, ..form("xoxa-", SecretKind::SlackToken, is_base64url, (10, 255)) },
    Form { needs_digit: true, ..form("xoxb-", SecretKind::SlackToken, is_base64url, (10, 255)) },
    Form { needs_digit: true, ..form("xoxe-", SecretKind::SlackToken, is_base64url, (10, 255)) },
    Form { needs_digit: true, ..form("xoxo-", SecretKind::SlackToken, is_base64url, (10, 255)) },
    Form { needs_digit: true, ..form("xoxp-", SecretKind::SlackToken, is_base64url, (10, 255)) },
    Form { needs_digit: true, ..form("xoxr-", SecretKind::SlackToken, is_base64url, (10, 255)) },
    Form { needs_digit: true, ..form("xoxs-", SecretKind::SlackToken, is_base64url, (10, 255)) },
];

/// The first characters of all forms, and of JSON Web Tokens.
const FIRST: [bool; 256] = {
    let mut first = [false; 256];
    let mut at = 0;
    while at < FORMS.len() {
        first[FORMS[at].prefix.as_bytes()[0] as usize] = true;
        at += 1;
    }
    first[JSON_OBJECT[0] as usize] = true;
    first
};

/// Whether a token of a known issuer begins as this text does; the rest may have any form.
pub(super) fn has_known_prefix(value: &str) -> bool {
    FORMS.iter().any(|form| value.starts_with(form.prefix))
}

/// The kind and the end of a token that begins at `start`.
pub(super) fn token_at(text: &[u8], start: usize) -> Option<(SecretKind, usize)> {
    if !FIRST[usize::from(text[start])] || start.checked_sub(1).is_some_and(|before| is_word(text[before])) {
        return None;
    }
    let rest = &text[start..];
    if rest.starts_with(JSON_OBJECT) {
        return jwt_len(rest).map(|length| (SecretKind::Jwt, start + length));
    }
    let form = FORMS.iter().find(|form| rest.starts_with(form.prefix.as_bytes()))?;
    let body = &rest[form.prefix.len()..];
    let mut length = run_length(body, form.body, form.length.1 + 1);
    // The end of a sentence.
    while length > 0 && body[length - 1] == b'.' {
        length -= 1;
    }
    let has_digit = || body[..length].iter().any(u8::is_ascii_digit);
    let is_token = (form.length.0..=form.length.1).contains(&length) && (!form.needs_digit || has_digit());
    is_token.then_some((form.kind, start + form.prefix.len() + length))
}

/// The length of a signed JSON Web Token in compact serialization, whose header and payload are objects.
fn jwt_len(text: &[u8]) -> Option<usize> {
    let header = run_length(text, is_base64url, MAX_JWT_LEN);
    let payload = text.get(header..)?.strip_prefix(b".").filter(|rest| rest.starts_with(JSON_OBJECT))?;
    let payload_len = run_length(payload, is_base64url, MAX_JWT_LEN - header);
    let signature = payload.get(payload_len..)?.strip_prefix(b".")?;
    let signature_len = run_length(signature, is_base64url, MAX_JWT_LEN);
    let is_jwt = [header, payload_len, signature_len].iter().all(|length| *length >= MIN_JWT_PART_LEN);
    is_jwt.then_some(header + payload_len + signature_len + 2)
}

/// How many of the first bytes, at most `max`, are of this kind.
fn run_length(text: &[u8], is_part: fn(u8) -> bool, max: usize) -> usize {
    text.iter().take(max).take_while(|byte| is_part(**byte)).count()
}

/// Letters, digits and the underscore. A token does not begin within a word.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

pub(super) fn is_base64url(byte: u8) -> bool {
    is_word(byte) || byte == b'-'
}

fn is_base64url_or_dot(byte: u8) -> bool {
    is_base64url(byte) || byte == b'.'
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_upper_or_digit(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_hides_a_later_one() {
        for (at, form) in FORMS.iter().enumerate() {
            let is_hidden = FORMS[..at].iter().any(|earlier| form.prefix.starts_with(earlier.prefix));
            assert!(!is_hidden, "{}", form.prefix);
        }
    }
}
