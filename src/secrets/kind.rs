//! The kinds of secrets that are found.

/// What a secret is, by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecretKind {
    /// A signed JSON Web Token, of any issuer.
    Jwt,
    /// A recovery key of hostbadge.
    RecoveryKey,
    /// A private key in PEM, of any algorithm, also one of OpenSSH or PGP.
    PrivateKey,
    /// A secret key of age.
    AgeKey,
    /// The identifier of an AWS access key.
    AwsAccessKeyId,
    /// The secret of an AWS access key, by the name that it is assigned to.
    AwsSecretAccessKey,
    /// A token of GitHub.
    GithubToken,
    /// A token of GitLab.
    GitlabToken,
    /// A token of Slack.
    SlackToken,
    /// A key of Anthropic.
    AnthropicKey,
    /// A key of OpenAI, or of a service with the same form of keys.
    OpenAiKey,
    /// A key of Google's APIs.
    GoogleApiKey,
    /// A live key of Stripe.
    StripeKey,
    /// A token of npm.
    NpmToken,
    /// A token of PyPI.
    PypiToken,
    /// A token of Hugging Face.
    HuggingFaceToken,
    /// Text that is assigned to the name of a secret.
    Assignment,
}

impl SecretKind {
    /// All kinds.
    pub const ALL: [SecretKind; 17] = [
        SecretKind::Jwt,
        SecretKind::RecoveryKey,
        SecretKind::PrivateKey,
        SecretKind::AgeKey,
        SecretKind::AwsAccessKeyId,
        SecretKind::AwsSecretAccessKey,
        SecretKind::GithubToken,
        SecretKind::GitlabToken,
        SecretKind::SlackToken,
        SecretKind::AnthropicKey,
        SecretKind::OpenAiKey,
        SecretKind::GoogleApiKey,
        SecretKind::StripeKey,
        SecretKind::NpmToken,
        SecretKind::PypiToken,
        SecretKind::HuggingFaceToken,
        SecretKind::Assignment,
    ];

    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            SecretKind::Jwt => "jwt",
            SecretKind::RecoveryKey => "hostbadge-recovery-key",
            SecretKind::PrivateKey => "private-key",
            SecretKind::AgeKey => "age-key",
            SecretKind::AwsAccessKeyId => "aws-access-key-id",
            SecretKind::AwsSecretAccessKey => "aws-secret-access-key",
            SecretKind::GithubToken => "github-token",
            SecretKind::GitlabToken => "gitlab-token",
            SecretKind::SlackToken => "slack-token",
            SecretKind::AnthropicKey => "anthropic-key",
            SecretKind::OpenAiKey => "openai-key",
            SecretKind::GoogleApiKey => "google-api-key",
            SecretKind::StripeKey => "stripe-key",
            SecretKind::NpmToken => "npm-token",
            SecretKind::PypiToken => "pypi-token",
            SecretKind::HuggingFaceToken => "hugging-face-token",
            SecretKind::Assignment => "assignment",
        }
    }

    /// Whether its issuer made the value, so that a part of its digest does not help to guess it. What is assigned
    /// to a name can be a password of a person.
    pub fn is_random(self) -> bool {
        self != SecretKind::Assignment
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = SecretKind::ALL.into_iter().map(SecretKind::name).collect();
        assert_eq!(names.len(), SecretKind::ALL.len());
    }
}
