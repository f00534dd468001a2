//! HTTP Message Signatures (RFC 9421) in the profile of WIMSE (draft-ietf-wimse-http-signature).

use std::fmt;

use data_encoding::BASE64;

use super::action::Action;
use super::error::Error;
use super::jws::new_id;
use super::key::ProofKey;
use super::proof::{PROOF_TTL, Proof, ProofHeader};
use super::values::{check_content_type, check_field, check_token};
use crate::clock::Timestamp;

/// The label of the signature in both fields.
const LABEL: &str = "wimse";
/// The parameter `tag` of the profile.
const TAG: &str = "wimse-workload-to-workload";
/// A scheme, a space and a token of 16 KiB.
const MAX_AUTHORIZATION_LEN: usize = 16 * 1024 + 64;

/// The fields of the request that the profile signs where they exist, exactly as the request has them.
#[derive(Clone, Copy)]
pub struct SignedFields<'a> {
    /// `Workload-Identity-Token`. Its claim `cnf.jwk` is the key.
    pub workload_identity_token: &'a str,
    /// `Authorization`: the scheme and the token.
    pub authorization: Option<&'a str>,
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
}

/// Makes the headers `Signature-Input` and `Signature` for an action, and `Content-Digest` (RFC 9530) for its
/// body.
///
/// The signature is by `ecdsa-p256-sha256` (RFC 9421 section 3.3.4). It covers the method, path with query,
/// the digest of the body and the given fields. The parameter `wimse-aud` is the URL without its query.
///
/// # Errors
///
/// [`Error::Value`] for a text that cannot be the value of its field; [`Error::Random`], [`Error::Signing`].
pub fn http_signature(
    key: &ProofKey,
    action: &Action,
    fields: &SignedFields<'_>,
    now: Timestamp,
) -> Result<Proof, Error> {
    fields.check()?;
    let (nonce, expires) = (new_id()?, now.after(PROOF_TTL));
    let content_digest = action.body.map(|digest| digest.to_content_digest());
    let components = components(action, content_digest.as_deref(), fields);
    // The values have no quotation marks and no backslashes, which a string would have to escape (RFC 8941
    // section 3.3.3): the nonce is base64url, and a URL in normal form has none.
    let parameters = format!(
        "{};created={};expires={};nonce=\"{nonce}\";tag=\"{TAG}\";wimse-aud=\"{}\"",
        inner_list(&components),
        now.as_secs(),
        expires.as_secs(),
        action.url.without_query(),
    );
    let signature = key.sign(signature_base(&components, &parameters).as_bytes())?;
    let signature = BASE64.encode(signature.as_ref());
    let mut headers = vec![
        ProofHeader::new("Signature-Input", format!("{LABEL}={parameters}")),
        ProofHeader::new("Signature", format!("{LABEL}=:{signature}:")),
    ];
    headers.extend(content_digest.map(|digest| ProofHeader::new("Content-Digest", digest)));
    Ok(Proof::new(headers, Some(nonce), expires))
}

impl SignedFields<'_> {
    fn check(&self) -> Result<(), Error> {
        check_token("the workload identity token", self.workload_identity_token)?;
        if let Some(value) = self.authorization {
            check_field("the field Authorization", value, MAX_AUTHORIZATION_LEN)?;
        }
        self.content_type.map_or(Ok(()), check_content_type)
    }
}

/// Only which fields there are: two of them have tokens.
impl fmt::Debug for SignedFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedFields")
            .field("authorization", &self.authorization.is_some())
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

/// Names and values of the covered components (RFC 9421 sections 2.1 and 2.2).
fn components<'a>(
    action: &'a Action,
    content_digest: Option<&'a str>,
    fields: &SignedFields<'a>,
) -> Vec<(&'static str, &'a str)> {
    let mut components =
        vec![("@method", action.method.as_str()), ("@request-target", action.url.request_target())];
    components.extend(fields.content_type.map(|value| ("content-type", value)));
    components.extend(content_digest.map(|value| ("content-digest", value)));
    components.extend(fields.authorization.map(|value| ("authorization", value)));
    components.push(("workload-identity-token", fields.workload_identity_token));
    components
}

/// The names of the components as an inner list (RFC 8941 section 3.1.1).
fn inner_list(components: &[(&str, &str)]) -> String {
    let names: Vec<String> = components.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    format!("({})", names.join(" "))
}

/// The text that is signed (RFC 9421 section 2.5): one line for each component, and the parameters.
fn signature_base(components: &[(&str, &str)], parameters: &str) -> String {
    let mut base = String::new();
    for (name, value) in components {
        base.push_str(&format!("\"{name}\": {value}\n"));
    }
    base.push_str(&format!("\"@signature-params\": {parameters}"));
    base
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Jwk;
    use data_encoding::BASE64URL_NOPAD;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn fields<'a>(authorization: Option<&'a str>, content_type: Option<&'a str>) -> SignedFields<'a> {
        SignedFields { workload_identity_token: "wit", authorization, content_type }
    }

    /// What `Signature` has, decoded.
    fn signature_of(proof: &Proof) -> Vec<u8> {
        let value = proof.header("Signature").unwrap();
        let text = value.strip_prefix("wimse=:").unwrap().strip_suffix(':').unwrap();
        BASE64.decode(text.as_bytes()).unwrap()
    }

    /// RFC 9421 appendix B.2.4: the base of a response's signature, and the published signature over it.
    #[test]
    fn base_is_that_of_rfc_9421() {
        let components = [
            ("@status", "200"),
            ("content-type", "application/json"),
            (
                "content-digest",
                "sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuah\
                 q4l5aGgfLQ==:",
            ),
            ("content-length", "23"),
        ];
        let parameters =
            format!("{};created=1618884473;keyid=\"test-key-ecc-p256\"", inner_list(&components));
        assert!(
            parameters
                .starts_with("(\"@status\" \"content-type\" \"content-digest\" \"content-length\");created")
        );
        let coordinate = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        let point = [
            vec![4],
            coordinate("qIVYZVLCrPZHGHjP17CTW0_-D9Lfw0EkjqF7xB4FivA"),
            coordinate("Mc4nN9LTDOBhfoUeg8Ye9WedFRhnZXZJA12Qp0zZ6F0"),
        ];
        let key = Jwk::from_point(&point.concat().try_into().unwrap());
        let signature =
            "wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw==";
        let base = signature_base(&components, &parameters);
        key.verify(base.as_bytes(), &BASE64.decode(signature.as_bytes()).unwrap()).unwrap();
    }

    #[test]
    fn request_without_body_covers_what_it_has() {
        let key = ProofKey::generate(NOW).unwrap();
        let action = Action::parse("GET", "https://api.example.com/v1/a?b=c", None).unwrap();
        let proof = http_signature(&key, &action, &fields(None, None), NOW).unwrap();
        let parameters = format!(
            "(\"@method\" \"@request-target\" \"workload-identity-token\");created=1790000000;\
             expires=1790000060;nonce=\"{}\";tag=\"wimse-workload-to-workload\";\
             wimse-aud=\"https://api.example.com/v1/a\"",
            proof.id().unwrap()
        );
        assert_eq!(proof.header("Signature-Input").unwrap(), format!("wimse={parameters}"));
        assert_eq!(proof.header("Content-Digest"), None);
        let base = format!(
            "\"@method\": GET\n\"@request-target\": /v1/a?b=c\n\"workload-identity-token\": wit\n\
             \"@signature-params\": {parameters}"
        );
        key.jwk().verify(base.as_bytes(), &signature_of(&proof)).unwrap();
    }

    #[test]
    fn request_with_body_and_token_covers_them() {
        let key = ProofKey::generate(NOW).unwrap();
        let digest = "5f8f04f6a3a892aaabbddb6cf273894493773960d4a325b105fee46eef4304f1";
        let action = Action::parse("POST", "https://a", Some(digest)).unwrap();
        let fields = fields(Some("DPoP token-1"), Some("application/json; charset=utf-8"));
        let proof = http_signature(&key, &action, &fields, NOW).unwrap();
        let content_digest = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:";
        assert_eq!(proof.header("Content-Digest"), Some(content_digest));
        let parameters = proof.header("Signature-Input").unwrap().strip_prefix("wimse=").unwrap();
        assert!(parameters.starts_with(
            "(\"@method\" \"@request-target\" \"content-type\" \"content-digest\" \"authorization\" \
             \"workload-identity-token\");created="
        ));
        let base = format!(
            "\"@method\": POST\n\"@request-target\": /\n\"content-type\": application/json; charset=utf-8\n\
             \"content-digest\": {content_digest}\n\"authorization\": DPoP token-1\n\
             \"workload-identity-token\": wit\n\"@signature-params\": {parameters}"
        );
        key.jwk().verify(base.as_bytes(), &signature_of(&proof)).unwrap();
        assert!(!format!("{fields:?} {proof:?}").contains("token-1"));
    }

    #[test]
    fn values_cannot_add_lines() {
        let key = ProofKey::generate(NOW).unwrap();
        let action = Action::parse("GET", "https://a/", None).unwrap();
        for value in ["", "a\n\"@method\": POST", "a\r\nX: 1", " a", "a\0", "\u{e9}"] {
            for fields in [
                fields(Some(value), None),
                fields(None, Some(value)),
                SignedFields { workload_identity_token: value, authorization: None, content_type: None },
            ] {
                let refused = http_signature(&key, &action, &fields, NOW);
                assert!(matches!(refused, Err(Error::Value { .. })), "{value:?} {fields:?}");
            }
        }
        assert!(http_signature(&key, &action, &fields(None, Some(&"a".repeat(257))), NOW).is_err());
    }
}
