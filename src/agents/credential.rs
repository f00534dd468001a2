//! The table `[[credential]]`: which sealed credentials an agent may use.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::value::Datetime;

use crate::config::{Diagnostic, Key, Kind, PostureMode, SourceFile};
use crate::present::{Action, ActionPattern, SigV4Scope};

use super::approval_mode::ApprovalMode;
use super::name::is_valid_name;
use super::proofs::parse_actions;
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
    /// Which requests it signs; present with [`CredentialUse::Sign`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing: Option<SigningGrant>,
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
    /// The credential is an access key, with which the daemon signs the agent's requests; the agent does not get the
    /// value.
    Sign,
}

/// What an access key signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SigningGrant {
    /// The region in the signatures.
    pub region: String,
    /// The service in the signatures.
    pub service: String,
    /// The HTTP requests, at least one pattern.
    pub actions: Vec<ActionPattern>,
}

impl CredentialGrant {
    /// Whether the credential signs this request.
    pub fn signs(&self, action: &Action) -> bool {
        self.signing
            .as_ref()
            .is_some_and(|signing| signing.actions.iter().any(|pattern| pattern.matches(action)))
    }
}

/// The table `[[credential]]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCredential {
    name: Option<Spanned<String>>,
    #[serde(default, rename = "use")]
    usage: CredentialUse,
    region: Option<Spanned<String>>,
    service: Option<Spanned<String>>,
    actions: Option<Vec<Spanned<String>>>,
    posture: Option<PostureMode>,
    approval: Option<ApprovalMode>,
    expires: Option<Spanned<Datetime>>,
    hours: Option<Spanned<String>>,
}

impl RawCredential {
    pub(super) const KEYS: &[Key] = &[
        Key::required("name", Kind::Text("\"github-bot\"")),
        Key::optional("use", Kind::Choice(&["inject", "release", "sign"])),
        Key::optional("region", Kind::Text("\"eu-west-1\"")),
        Key::optional("service", Kind::Text("\"bedrock\"")),
        Key::optional(
            "actions",
            Kind::TextList("[\"POST https://bedrock-runtime.eu-west-1.amazonaws.com/model/*\"]"),
        ),
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
            let Some(credential) = raw.into_inner().validate(span.clone(), source, faults) else { continue };
            if credentials.iter().any(|existing| existing.name == credential.name) {
                faults.push(source.diagnostic(span, "second table for this credential; remove one"));
            }
            credentials.push(credential);
        }
        credentials
    }

    /// Checks the table and appends its faults. With faults, the returned value is not used. `None` if the
    /// name is missing, which is a fault of the schema.
    fn validate(
        mut self,
        span: Range<usize>,
        source: &SourceFile,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<CredentialGrant> {
        let signing = self.signing(span, source, faults);
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
            signing,
            posture: self.posture,
            approval: self.approval,
            limits,
        })
    }
}

impl RawCredential {
    /// What the credential signs. `None` without `use = "sign"`, and with a missing key, which is a fault.
    fn signing(
        &mut self,
        span: Range<usize>,
        source: &SourceFile,
        faults: &mut Vec<Diagnostic>,
    ) -> Option<SigningGrant> {
        let (region, service, actions) = (self.region.take(), self.service.take(), self.actions.take());
        if self.usage != CredentialUse::Sign {
            let action = actions.as_ref().and_then(|actions| actions.first());
            for written in [region.as_ref(), service.as_ref(), action].into_iter().flatten() {
                let message = "region, service and actions are for use = \"sign\"; add it, or remove them";
                faults.push(source.diagnostic(written.span(), message));
            }
            return None;
        }
        let (Some(region), Some(service), Some(actions)) = (region, service, actions) else {
            let message = "use = \"sign\" needs region, service and actions, as in region = \"eu-west-1\", service = \
                           \"bedrock\", actions = [\"POST https://bedrock-runtime.eu-west-1.amazonaws.com/model/*\"]";
            faults.push(source.diagnostic(span, message));
            return None;
        };
        let scopes = [
            (SigV4Scope { region: region.get_ref(), service: "x" }, region.span()),
            (SigV4Scope { region: "x", service: service.get_ref() }, service.span()),
        ];
        for (scope, span) in scopes {
            if let Err(e) = scope.check() {
                faults.push(source.diagnostic(span, e.to_string()));
            }
        }
        if actions.is_empty() {
            faults.push(source.diagnostic(span, "actions is empty, so that this credential signs nothing"));
        }
        let actions = parse_actions(actions, source, faults);
        let (region, service) = (region.into_inner(), service.into_inner());
        Some(SigningGrant { region, service, actions })
    }
}

/// Checks that `text` has the form of a credential's name, which is that of an agent name.
pub(crate) fn is_credential_name(text: &str) -> bool {
    is_valid_name(text)
}
