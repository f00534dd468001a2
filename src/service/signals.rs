//! Revocation by security event tokens of configured issuers.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::sync::Mutex;

use super::admin::Admin;
use super::error::AdminError;
use super::identity_service::IdentityService;
use super::signal_error::SignalError;
use crate::agents::root_agent;
use crate::config::{SignalSection, insecure_permissions};
use crate::issue::IssuerState;
use crate::revocation::{Target, TargetKind};
use crate::verify::{
    EventExpectation, EventSubject, JwtAuthorities, SecurityEvent, unverified_issuer, verify_security_event,
};
use crate::wire::revocation::{RevokeRequest, RevokeResponse};
use crate::wire::signal::{SignalRequest, SignalResponse};

/// How old a signal may be.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// How long a signal is remembered after it was issued: longer than it is accepted.
const REMEMBERED: Duration = Duration::from_secs(2 * 3600);
/// Largest file of keys, in bytes.
const MAX_JWKS_SIZE: u64 = 256 * 1024;
/// Characters of a text of a signal in messages and records.
const MAX_QUOTED: usize = 64;

/// One signal is carried out at a time, so that of a signal that is presented twice at once one is a repetition.
static TURN: Mutex<()> = Mutex::const_new(());

/// What a signal revokes.
enum SignalTarget {
    Agent(String),
    Token(String),
}

impl IdentityService {
    /// Revokes what a security event token of a configured issuer names: an agent, until the revocation is lifted, or
    /// a single token.
    ///
    /// # Errors
    /// [`AdminError::Signal`], and those of [`IdentityService::revoke`]. A signal whose revocation failed can be
    /// presented again.
    pub async fn revoke_by_signal(
        &self,
        admin: &Admin,
        request: SignalRequest,
    ) -> Result<SignalResponse, AdminError> {
        let text = request.set.trim_ascii();
        let section = self.signal_section(text)?;
        let keys = read_keys(section).await?;
        let now = self.deps.clock.now();
        let expected =
            EventExpectation { issuer: &section.issuer, audience: &section.audience, now, max_age: MAX_AGE };
        let event = verify_security_event(text, &keys, expected).map_err(SignalError::from)?;
        let _turn = TURN.lock().await;
        // Before everything that depends on the state of the host, which can have changed since the first time.
        let use_id = use_id(&section.issuer, &event.jti);
        if self.deps.revocations.is_token_used(&use_id) {
            return Err(SignalError::Replayed(quoted(&event.jti)).into());
        }
        let target = self.signal_target(section, &event).await?;
        let revoked = self.revoke_named(admin, section, &event, target).await?;
        self.deps.revocations.use_once(&use_id, event.issued_at.after(REMEMBERED)).await?;
        let event_name = event.event.name().to_owned();
        Ok(SignalResponse { issuer: section.issuer.clone(), jti: event.jti, event: event_name, revoked })
    }

    /// The table of the issuer that a signal names, which is not verified yet.
    fn signal_section(&self, text: &str) -> Result<&SignalSection, SignalError> {
        if self.deps.signals.is_empty() {
            return Err(SignalError::NoIssuers);
        }
        let issuer = unverified_issuer(text)?;
        let section = self.deps.signals.iter().find(|section| section.issuer == issuer);
        section.ok_or_else(|| SignalError::UnknownIssuer(quoted(&issuer)))
    }

    async fn signal_target(
        &self,
        section: &SignalSection,
        event: &SecurityEvent,
    ) -> Result<SignalTarget, AdminError> {
        let issuer_state = self.ready_issuer()?;
        let agent = match &event.subject {
            EventSubject::Uri { uri } => self.agent_with_id(&issuer_state, uri)?,
            EventSubject::IssSub { iss, sub } => {
                require_own_issuer(&issuer_state, iss)?;
                self.agent_with_id(&issuer_state, sub)?
            }
            EventSubject::Opaque { id } => match self.deps.agents.registrations().find(id) {
                Some(entry) => entry.name.to_string(),
                None => {
                    let text = format!("no agent has the name \"{}\"", quoted(id));
                    return Err(SignalError::UnknownSubject(text).into());
                }
            },
            EventSubject::JwtId { iss, jti } => {
                require_own_issuer(&issuer_state, iss)?;
                return self.token_target(section, jti).await;
            }
        };
        match section.may_revoke(root_agent(&agent)) {
            true => Ok(SignalTarget::Agent(agent)),
            false => Err(SignalError::NotAllowed(agent).into()),
        }
    }

    /// The audit log tells whose token it is. Without a record, only an issuer that may revoke every agent revokes it.
    async fn token_target(&self, section: &SignalSection, jti: &str) -> Result<SignalTarget, AdminError> {
        match self.issued_to(jti).await? {
            Some((agent, _)) if section.may_revoke(root_agent(&agent)) => {
                Ok(SignalTarget::Token(jti.to_owned()))
            }
            Some((agent, _)) => Err(SignalError::NotAllowed(agent).into()),
            None if section.may_revoke_all() => Ok(SignalTarget::Token(jti.to_owned())),
            None => {
                let text = format!("the audit log of the last hour has no token \"{}\"", quoted(jti));
                Err(SignalError::UnknownSubject(text).into())
            }
        }
    }

    fn agent_with_id(&self, issuer_state: &IssuerState, spiffe_id: &str) -> Result<String, SignalError> {
        let registrations = self.deps.agents.registrations();
        let entry = registrations.all().find(|entry| issuer_state.host().spiffe_id(entry) == spiffe_id);
        entry.map(|entry| entry.name.to_string()).ok_or_else(|| {
            SignalError::UnknownSubject(format!("no agent has the SPIFFE ID \"{}\"", quoted(spiffe_id)))
        })
    }

    async fn revoke_named(
        &self,
        admin: &Admin,
        section: &SignalSection,
        event: &SecurityEvent,
        target: SignalTarget,
    ) -> Result<RevokeResponse, AdminError> {
        let issuer: String = section.issuer.chars().take(MAX_QUOTED).collect();
        let reason = format!("{} by signal {} of {issuer}", event.event.name(), quoted(&event.jti));
        match target {
            SignalTarget::Agent(agent) => {
                self.revoke_target(admin, Target::new(TargetKind::Agent, &agent), reason).await
            }
            SignalTarget::Token(jti) => {
                let request =
                    RevokeRequest { jti: Some(jti), reason: Some(reason), ..RevokeRequest::default() };
                self.revoke(admin, request).await
            }
        }
    }
}

/// What remembers a signal. No `jti` of a token has a line end.
fn use_id(issuer: &str, jti: &str) -> String {
    format!("signal\n{issuer}\n{jti}")
}

fn require_own_issuer(issuer_state: &IssuerState, issuer: &str) -> Result<(), SignalError> {
    let host = issuer_state.host();
    let is_own = host.issuer_of(None) == issuer
        || issuer_state.tenants().any(|tenant| host.issuer_of(Some(tenant)) == issuer);
    match is_own {
        true => Ok(()),
        false => Err(SignalError::UnknownSubject(format!("its issuer is \"{}\"", quoted(issuer)))),
    }
}

/// Reads the keys of an issuer on a blocking thread.
async fn read_keys(section: &SignalSection) -> Result<JwtAuthorities, AdminError> {
    let path = section.jwks.clone();
    let read = tokio::task::spawn_blocking(move || {
        read_signal_keys(&path).map_err(|reason| SignalError::Keys { path, reason })
    });
    Ok(read.await??)
}

/// Reads a file with the keys of an issuer of signals. Blocking.
///
/// # Errors
/// What is wrong with the file, to follow its path.
pub fn read_signal_keys(path: &Path) -> Result<JwtAuthorities, String> {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let opened = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|e| e.to_string())?;
    let metadata = file.metadata().map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("is no regular file".to_owned());
    }
    if let Some(fault) = insecure_permissions(&metadata) {
        return Err(fault);
    }
    let mut bytes = Vec::new();
    file.take(MAX_JWKS_SIZE + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_JWKS_SIZE {
        return Err(format!("is larger than {} KiB", MAX_JWKS_SIZE / 1024));
    }
    let keys = JwtAuthorities::parse_signing_keys(&bytes).map_err(|e| e.to_string())?;
    match keys.is_empty() {
        true => Err("has no key that signs by ES256 or RS256".to_owned()),
        false => Ok(keys),
    }
}

/// The beginning of a text of a signal, escaped.
fn quoted(text: &str) -> String {
    let escaped = text.chars().take(MAX_QUOTED).collect::<String>().escape_debug().to_string();
    escaped.chars().take(2 * MAX_QUOTED).collect()
}
