//! The access key in a sealed credential.

use std::fmt;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::Error;
use super::sigv4::SigV4Credentials;

/// An access key of AWS, or of a service with its signatures. `Debug` shows only its identifier.
pub struct AccessKey {
    id: String,
    secret_key: Zeroizing<String>,
    session_token: Option<Zeroizing<String>>,
}

/// As a program of `credential_process` prints it; members that do not count are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawAccessKey {
    access_key_id: String,
    secret_access_key: Zeroizing<String>,
    session_token: Option<Zeroizing<String>>,
}

impl AccessKey {
    /// Parses the JSON object that `aws configure export-credentials` prints: `AccessKeyId`, `SecretAccessKey` and,
    /// with a temporary access key, `SessionToken`. Other members are ignored.
    ///
    /// # Errors
    ///
    /// [`Error::AccessKeyForm`], which has nothing of the text; [`Error::Value`].
    pub fn parse(text: &str) -> Result<AccessKey, Error> {
        // The parser's own error can have a part of the value.
        let raw: RawAccessKey = serde_json::from_str(text).map_err(|_| Error::AccessKeyForm)?;
        let key = AccessKey {
            id: raw.access_key_id,
            secret_key: raw.secret_access_key,
            session_token: raw.session_token,
        };
        key.credentials().check()?;
        Ok(key)
    }

    /// Its identifier, which is no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// As the signature takes it.
    pub fn credentials(&self) -> SigV4Credentials<'_> {
        SigV4Credentials {
            access_key_id: &self.id,
            secret_key: &self.secret_key,
            session_token: self.session_token.as_ref(),
        }
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_keys_are_as_credential_process_prints_them() {
        let text = r#"{"Version": 1, "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "wJalr/+x",
                       "SessionToken": "abc==", "Expiration": "2026-12-01T00:00:00Z"}"#;
        let key = AccessKey::parse(text).unwrap();
        let credentials = key.credentials();
        assert_eq!((key.id(), credentials.secret_key.as_str()), ("AKIDEXAMPLE", "wJalr/+x"));
        assert_eq!(credentials.session_token.map(|token| token.as_str()), Some("abc=="));
        assert_eq!(format!("{key:?}"), r#"AccessKey { id: "AKIDEXAMPLE", .. }"#);
        let key = AccessKey::parse(r#"{"AccessKeyId":"A","SecretAccessKey":"s"}"#).unwrap();
        assert!(key.credentials().session_token.is_none());
    }

    #[test]
    fn errors_have_nothing_of_the_value() {
        for text in [
            "hunter2",
            r#"{"AccessKeyId":"A"}"#,
            r#"{"AccessKeyId":"A","SecretAccessKey":"hunter2","SecretAccessKey":"hunter2"}"#,
            r#"{"AccessKeyId":"A","SecretAccessKey":["hunter2"]}"#,
            r#"{"AccessKeyId":"A/B","SecretAccessKey":"hunter2"}"#,
            r#"{"AccessKeyId":"A","SecretAccessKey":"hunter2\r\nX: y"}"#,
            r#"{"AccessKeyId":"A","SecretAccessKey":""}"#,
            r#"{"AccessKeyId":"A","SecretAccessKey":"s","SessionToken":"hunter2 x"}"#,
        ] {
            let error = AccessKey::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
