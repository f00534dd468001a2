//! Passes over a text once and finds the secrets in it.

use super::assignment::assigned_at;
use super::forms::token_at;
use super::kind::SecretKind;
use super::private_key::private_key_at;

/// A secret in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Find {
    /// What it is.
    pub kind: SecretKind,
    /// Where it begins, in bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// Calls `found` for each secret in a text of any bytes, in their order. They do not overlap.
pub fn find_secrets(text: &[u8], mut found: impl FnMut(Find)) {
    let mut at = 0;
    while at < text.len() {
        match secret_at(text, at) {
            Some(find) => {
                at = find.end.max(at + 1);
                found(find);
            }
            None => at += 1,
        }
    }
}

fn secret_at(text: &[u8], at: usize) -> Option<Find> {
    match text[at] {
        b'=' | b':' => assigned_at(text, at).map(|(kind, start, end)| Find { kind, start, end }),
        b'-' => private_key_at(text, at).map(|end| Find { kind: SecretKind::PrivateKey, start: at, end }),
        _ => token_at(text, at).map(|(kind, end)| Find { kind, start: at, end }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kinds in a text, with what was found.
    fn found(text: &str) -> Vec<(&'static str, &str)> {
        let mut all = Vec::new();
        find_secrets(text.as_bytes(), |find| all.push((find.kind.name(), &text[find.start..find.end])));
        all
    }

    fn kinds(text: &str) -> Vec<&'static str> {
        found(text).into_iter().map(|(kind, _)| kind).collect()
    }

    /// Characters of a token: letters and digits.
    fn random(length: usize) -> String {
        "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYz".chars().cycle().take(length).collect()
    }

    #[test]
    fn each_form_is_found_in_prose_settings_and_programs() {
        let upper = random(58).to_ascii_uppercase();
        let tokens = [
            ("aws-access-key-id", format!("AKIA{}", &upper[..16])),
            ("aws-access-key-id", format!("ASIA{}", &upper[..16])),
            ("github-token", format!("ghp_{}", random(36))),
            ("github-token", format!("gho_{}", random(36))),
            ("github-token", format!("github_pat_{}", random(82))),
            ("gitlab-token", format!("glpat-{}", random(20))),
            ("slack-token", format!("xoxb-123456789012-{}", random(24))),
            ("openai-key", format!("sk-proj-{}", random(48))),
            ("anthropic-key", format!("sk-ant-api03-{}", random(80))),
            ("google-api-key", format!("AIza{}", random(35))),
            ("stripe-key", format!("sk_live_{}", random(24))),
            ("npm-token", format!("npm_{}", random(36))),
            ("pypi-token", format!("pypi-AgEIcHlwaS5vcmc{}", random(100))),
            ("hugging-face-token", format!("hf_{}", random(34))),
            ("hostbadge-recovery-key", format!("hbr1-{}", random(60).to_lowercase())),
            ("age-key", format!("AGE-SECRET-KEY-1{upper}")),
            ("jwt", format!("eyJ{}.eyJ{}.{}", random(40), random(90), random(86))),
        ];
        for (kind, token) in &tokens {
            for text in [
                token.clone(),
                format!("the token is {token}."),
                format!("TOKEN={token}\n"),
                format!("export API_KEY='{token}'"),
                format!("{{\"password\": \"{token}\"}}"),
                format!("Authorization: Bearer {token}\r\n"),
                format!("curl https://x/?token={token}&a=b"),
                format!("\u{ff}\0{token}\0"),
            ] {
                assert_eq!(found(&text), [(*kind, token.as_str())], "{text}");
            }
            assert_eq!(kinds(&format!("a{token}")), [""; 0], "within a word");
            assert_eq!(kinds(&token[..token.len() / 6]), [""; 0], "{token}: only the beginning");
        }
    }

    #[test]
    fn private_keys_are_found_with_their_key_and_not_in_programs() {
        let body = format!("{}\n{}", random(64), random(40));
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
            let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            assert_eq!(kinds(&pem), ["private-key"], "{pem}");
            assert_eq!(kinds(&format!("key: \"{}\"", pem.replace('\n', "\\n"))), ["private-key"], "{pem}");
            assert_eq!(kinds(&pem.replace('\n', "\n      ")), ["private-key"], "{pem}");
        }
        let old =
            format!("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: A,B\n\n{body}\n");
        assert_eq!(kinds(&old), ["private-key"]);
        for harmless in [
            format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"),
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"),
            "const BEGIN: &str = \"-----BEGIN PRIVATE KEY-----\"; // the first line of a key".to_owned(),
            "-----BEGIN PRIVATE KEY-----".to_owned(),
            "-----BEGIN ".to_owned(),
        ] {
            assert_eq!(kinds(&harmless), [""; 0], "{harmless}");
        }
    }

    #[test]
    fn random_values_of_secret_names_are_found_and_others_not() {
        for (text, value) in [
            ("DB_PASSWORD=tr0ub4dor-and-3x", "tr0ub4dor-and-3x"),
            ("export STRIPE_SECRET='9f8Kq2LmZ0pX7w'", "9f8Kq2LmZ0pX7w"),
            ("ADMIN_PASSWORD=CorrectHorse42!", "CorrectHorse42!"),
            ("\"apiKey\": \"9f8Kq2LmZ0pX7w\",", "9f8Kq2LmZ0pX7w"),
            ("client_secret: 9f8Kq2LmZ0pX7w", "9f8Kq2LmZ0pX7w"),
            ("auth-token := `9f8Kq2LmZ0pX7w`", "9f8Kq2LmZ0pX7w"),
            ("Environment=MY_API_KEY=9f8Kq2LmZ0pX7w", "9f8Kq2LmZ0pX7w"),
        ] {
            assert_eq!(found(text), [("assignment", value)], "{text}");
        }
        let secret = format!("aws_secret_access_key = {}", random(40));
        assert_eq!(kinds(&secret), ["aws-secret-access-key"]);
        for harmless in [
            "PASSWORD=",
            "PASSWORD=changeme12345",
            "API_KEY=your-api-key-1234",
            "API_KEY=${API_KEY_2024_PROD}",
            "API_KEY=$(cat /etc/key1234567)",
            "token = settings.auth.token_v2_name",
            "if token == \"9f8Kq2LmZ0pX7w\" {",
            "TOKEN_FILE=/run/credentials/a1b2c3d4",
            "PUBLIC_KEY=9f8Kq2LmZ0pX7w9f8Kq2LmZ0pX7w",
            "password: aaaaaaaaaaaaaa11",
            "tokenizer = cl100k_base",
            "//! Credentials: `TPM2_MakeCredential` in software",
            "\"live_tokens = 5000\\n[tenant.globex]\\ncredentials = 0\\n\"",
            "the password: hunter2 and more",
            "sk-ip-to-the-next-section-of-the-page",
        ] {
            assert_eq!(kinds(harmless), [""; 0], "{harmless}");
        }
    }

    #[test]
    fn signs_at_the_ends_of_a_text_are_no_fault() {
        for text in [
            "=",
            ":",
            "-",
            "token=",
            "=token",
            "token:",
            "-----BEGIN",
            "eyJ",
            "eyJ.",
            "eyJ.eyJ.",
            "A",
            "\"=\"",
        ] {
            assert_eq!(kinds(text), [""; 0], "{text}");
        }
    }
}
