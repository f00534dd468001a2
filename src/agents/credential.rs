//! The table `[[credential]]`: which sealed credentials an agent may use.

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::value::Datetime;

use crate::config::{Diagnostic, Key, Kind, PostureMode, SourceFile};

use super::approval_mode::ApprovalMode;
use super::name::is_valid_name;
use super::time_limits::{self, EXPIRES_KEY, HOURS_KEY, TimeLimits};

/// Credentials of one file.
const MAX_CREDENTIALS: usize = 128;

/// Permission to use one sealed credential of the agent's tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CredentialGrant {
    /// The credential's name, which has the form of an agent name.
    pub name: String,
    /// How the agent may use it.
    #[serde(rename = "use")]
    pub usage: CredentialUse,
    /// How the host's posture affects the permission; `None` applies the host's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posture: Option<PostureMode>,
    /// Whether an administrator has to approve requests for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalMode>,
    /// When the permission counts.
    #[serde(skip)]
    pub limits: TimeLimits,
}

/// How an agent may use a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialUse {
    /// The egress proxy adds it to the agent's requests; the agent does not get the value.
    #[default]
    Inject,
    /// The agent gets the value.
    Release,
}

/// The table `[[credential]]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCredential {
    name: Option<Spanned<String>>,
    #[serde(default, rename = "use")]
    usage: CredentialUse,
    posture: Option<PostureMode>,
    approval: Option<ApprovalMode>,
    expires: Option<Spanned<Datetime>>,
    hours: Option<Spanned<String>>,
}

impl RawCredential {
    pub(super) const KEYS: &[Key] = &[
        Key::required("name", Kind::Text("\"github-bot\"")),
        Key::optional("use", Kind::Choice(&["inject", "release"])),
        Key::optional("posture", Kind::Choice(&["off", "warn", "enforce"])),
        Key::optional("approval", Kind::Choice(ApprovalMode::VALUES)),
        EXPIRES_KEY,
        HOURS_KEY,
    ];

    /// Checks the tables of a file and appends their faults.
    pub(super) fn validate_all(
        raw_credentials: Vec<Spanned<RawCredential>>,
        source: &SourceFile,
        faults: &mut Vec<Diagnostic>,
    ) -> Vec<CredentialGrant> {
        if let Some(excess) = raw_credentials.get(MAX_CREDENTIALS) {
            let message = format!("more than {MAX_CREDENTIALS} credentials in one file; split it into two");
            faults.push(source.diagnostic(excess.span(), message));
        }
        let mut credentials: Vec<CredentialGrant> = Vec::new();
        for raw in raw_credentials {
            let span = raw.span();
            let Some(credential) = raw.into_inner().validate(source, faults) else { continue };
            if credentials.iter().any(|existing| existing.name == credential.name) {
                faults.push(source.diagnostic(span, "second table for this credential; remove one"));
            }
            credentials.push(credential);
        }
        credentials
    }

    /// Checks the table and appends its faults. With faults, the returned value is not used. `None` if the
    /// name is missing, which is a fault of the schema.
    fn validate(self, source: &SourceFile, faults: &mut Vec<Diagnostic>) -> Option<CredentialGrant> {
        let name = self.name?;
        if !is_credential_name(name.get_ref()) {
            faults.push(source.diagnostic(
                name.span(),
                "the name of a credential must have the form of an agent name: a-z 0-9 . _ -, at most 63 \
                 characters",
            ));
        }
        let limits = time_limits::validate(self.expires, self.hours, source, faults);
        Some(CredentialGrant {
            name: name.into_inner(),
            usage: self.usage,
            posture: self.posture,
            approval: self.approval,
            limits,
        })
    }
}

/// Checks that `text` has the form of a credential's name, which is that of an agent name.
pub(crate) fn is_credential_name(text: &str) -> bool {
    is_valid_name(text)
}
