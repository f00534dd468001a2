//! A leak: what a token or certificate is, what the audit log has of it, and its revocation.

use tokio::sync::Semaphore;

use super::admin::Admin;
use super::error::{AdminError, InvalidRequest};
use super::identity_service::IdentityService;
use super::leak_advice::next_steps;
use crate::agents::{CredentialUse, MAX_TOKEN_TTL};
use crate::audit::{IssuedId, Trail, read_refusals, read_trail};
use crate::clock::{BACKDATE, Timestamp};
use crate::issue::OwnToken;
use crate::json;
use crate::revocation::IssuedToken;
use crate::verify::{TokenKind, unverified_token};
use crate::wire::admin::AuditRecord;
use crate::wire::leak::{LeakRequest, LeakResponse, LeakedKind};
use crate::wire::revocation::RevokeRequest;

/// Searches of the audit log at once, each of which takes up to 6 s of a processor.
static SEARCHES: Semaphore = Semaphore::const_new(2);
/// How much earlier than its `iat` the record of a token is looked for.
const SEARCH_MARGIN: std::time::Duration = std::time::Duration::from_secs(60);
/// Longest `jti` and serial number of a request in bytes.
const MAX_ID_LEN: usize = 128;
/// The reason of a revocation for which the administrator gives none.
const REASON: &str = "leaked";

/// What the audit log has.
#[derive(Default)]
struct Records {
    issued: Option<AuditRecord>,
    later: Vec<AuditRecord>,
    later_count: usize,
    refusals: Vec<AuditRecord>,
    is_complete: bool,
}

impl IdentityService {
    /// Tells what a token or certificate is, whose, and where it was asked for and used, as far as the audit log
    /// knows; revokes the token and, if asked, its agent or invocation.
    ///
    /// # Errors
    /// [`AdminError::InvalidRequest`], [`AdminError::ReadAudit`], and those of [`IdentityService::revoke`]. What was
    /// revoked before stays so.
    pub async fn leak(&self, admin: &Admin, request: LeakRequest) -> Result<LeakResponse, AdminError> {
        let members = [&request.token, &request.jti, &request.serial];
        if members.iter().filter(|member| member.is_some()).count() != 1 {
            return Err(InvalidRequest::new("give exactly one of token, jti and serial").into());
        }
        let mut report = match (&request.token, &request.jti, &request.serial) {
            (Some(token), ..) => match self.leaked_token(token).await? {
                Ok(report) => report,
                Err(mut report) => {
                    report.next = next_steps(&report, &request, false);
                    return Ok(report);
                }
            },
            (_, Some(jti), _) => self.leaked_id(IssuedId::Jti(checked_id("jti", jti)?)).await?,
            (.., serial) => {
                let serial = checked_id("serial", serial.as_deref().unwrap_or_default())?;
                self.leaked_id(IssuedId::Serial(recorded_serial(&serial))).await?
            }
        };
        self.add_agent(&mut report);
        if !request.dry_run {
            self.revoke_leaked(admin, &request, &mut report).await?;
        }
        let registrations = self.deps.agents.registrations();
        let is_registered = report.agent.as_deref().is_some_and(|name| registrations.find(name).is_some());
        report.next = next_steps(&report, &request, is_registered);
        Ok(report)
    }

    /// What is known of a token; `Err` of one that is none of this host.
    async fn leaked_token(&self, text: &str) -> Result<Result<LeakResponse, LeakResponse>, AdminError> {
        let issuer_state = self.ready_issuer()?;
        let text = text.trim_ascii();
        let token = match issuer_state.own_token(text) {
            Ok(token) => token,
            Err(error) => {
                let own_issuer = issuer_state.own().issuer();
                return Ok(Err(foreign(text, own_issuer, &error.to_string())));
            }
        };
        let claims = &token.verified().claims;
        let since = Timestamp::from_secs(claims.iat).before(SEARCH_MARGIN);
        let id = IssuedId::Jti(token.jti().to_owned());
        let records = self.search(id, Some(since), Some(token.agent().to_owned())).await?;
        let now = self.deps.clock.now();
        let text = |name: &str| token.host_claim(name).map(str::to_owned);
        let is_expired = token.expires() <= now;
        let state = if is_expired { "It has expired." } else { "It has not expired." };
        let mut report = LeakResponse {
            what: match token.kind() {
                TokenKind::AccessToken => LeakedKind::AccessToken,
                TokenKind::JwtSvid => LeakedKind::JwtSvid,
                TokenKind::WitSvid => LeakedKind::WitSvid,
            },
            explanation: format!("This is an {} that this host issued. {state}", token.kind())
                .replace("an JWT", "a JWT")
                .replace("an WIT", "a WIT"),
            jti: Some(token.jti().to_owned()),
            agent: Some(token.agent().to_owned()),
            tenant: token.tenant.clone(),
            spiffe_id: Some(token.spiffe_id().to_owned()),
            audiences: claims.audiences().to_vec(),
            scope: Some(claims.scope.clone()).filter(|scope| !scope.is_empty()),
            unit: text("unit"),
            invocation: text("invocation"),
            expires_at: Some(token.expires()),
            expired: is_expired,
            revoked_before: self.revoked_reason_of(&token),
            ..empty()
        };
        add_records(&mut report, records);
        Ok(Ok(report))
    }

    /// What the audit log has of an identifier.
    async fn leaked_id(&self, id: IssuedId) -> Result<LeakResponse, AdminError> {
        let records = self.search(id.clone(), None, None).await?;
        let mut report = empty();
        match id {
            IssuedId::Jti(jti) => report.jti = Some(jti),
            IssuedId::Serial(serial) => report.serial = Some(serial),
        }
        let Some(issued) = records.issued.clone() else {
            report.explanation = match records.is_complete {
                true => "The audit log of this host has no record that it was issued.".to_owned(),
                false => "The latest 512 MiB of the audit log have no record that it was issued.".to_owned(),
            };
            add_records(&mut report, records);
            return Ok(report);
        };
        report.what = match issued.event.as_str() {
            "token-issued" => LeakedKind::AccessToken,
            "svid-issued" => LeakedKind::JwtSvid,
            "wit-svid-issued" => LeakedKind::WitSvid,
            _ => LeakedKind::Certificate,
        };
        report.agent = issued.agent.clone();
        report.tenant = issued.tenant.clone();
        report.spiffe_id = issued.spiffe_id.clone();
        report.audiences = issued.audience.iter().flat_map(|all| all.split(' ')).map(str::to_owned).collect();
        report.scope = issued.scope.clone().filter(|scope| !scope.is_empty());
        let peer = issued.peer.as_ref();
        report.unit = peer.and_then(|peer| peer.unit.clone());
        report.invocation = peer.and_then(|peer| peer.invocation.clone());
        report.expires_at = issued.exp.map(Timestamp::from_secs);
        report.expired = report.expires_at.is_some_and(|expires| expires <= self.deps.clock.now());
        let state = if report.expired { "It has expired." } else { "It has not expired." };
        report.explanation = format!("This host issued it, by the audit log. {state}");
        add_records(&mut report, records);
        Ok(report)
    }

    /// The agent that a token with this `jti` was issued to, and when the token expires, by the audit log of the
    /// time in which it can have been issued.
    pub(super) async fn issued_to(&self, jti: &str) -> Result<Option<(String, Timestamp)>, AdminError> {
        let since = self.deps.clock.now().before(MAX_TOKEN_TTL).before(BACKDATE).before(SEARCH_MARGIN);
        let records = self.search(IssuedId::Jti(jti.to_owned()), Some(since), None).await?;
        Ok(records.issued.and_then(|record| Some((record.agent?, Timestamp::from_secs(record.exp?)))))
    }

    /// Searches the audit log, with the refusals of the agent since the issue.
    async fn search(
        &self,
        id: IssuedId,
        since: Option<Timestamp>,
        agent: Option<String>,
    ) -> Result<Records, AdminError> {
        let dir = self.deps.audit_dir.clone();
        // The semaphore is never closed.
        let _permit = SEARCHES.acquire().await.ok();
        let records = tokio::task::spawn_blocking(move || -> std::io::Result<Records> {
            let Trail { issued, later, later_count, is_complete } = read_trail(&dir, &id, since)?;
            let issued = issued.and_then(|line| record(line.get()));
            let agent = agent.or_else(|| issued.as_ref()?.agent.clone());
            let since = issued.as_ref().map(|record| record.time).or(since);
            let refusals = match (agent, since) {
                (Some(agent), Some(since)) => read_refusals(&dir, &agent, since)?,
                _ => Vec::new(),
            };
            Ok(Records {
                issued,
                later: later.iter().filter_map(|line| record(line.get())).collect(),
                later_count,
                refusals: refusals.iter().filter_map(|line| record(line.get())).collect(),
                is_complete,
            })
        });
        records.await?.map_err(AdminError::ReadAudit)
    }

    /// Why a token is revoked; `None` if it is not.
    fn revoked_reason_of(&self, token: &OwnToken) -> Option<String> {
        let registrations = self.deps.agents.registrations();
        let Some(entry) = registrations.find(token.agent()) else {
            return Some(format!("agent \"{}\" is not registered any more", token.agent()));
        };
        let delegation = registrations.delegations.get(token.agent());
        self.deps.revocations.revoked_reason(&IssuedToken {
            agent: entry,
            invocation: token.host_claim("invocation"),
            parent_invocations: delegation.map_or(&[], |delegation| &delegation.parent_invocations),
            kid: token.verified().key_id(),
            jti: token.jti(),
            epoch: token.epoch(),
        })
    }

    /// Adds what the agent may get.
    fn add_agent(&self, report: &mut LeakResponse) {
        let registrations = self.deps.agents.registrations();
        let Some(entry) = report.agent.as_deref().and_then(|name| registrations.find(name)) else { return };
        let released = entry.credentials().filter(|credential| credential.usage == CredentialUse::Release);
        report.credentials = released.map(|credential| credential.name.clone()).collect();
    }

    async fn revoke_leaked(
        &self,
        admin: &Admin,
        request: &LeakRequest,
        report: &mut LeakResponse,
    ) -> Result<(), AdminError> {
        let reason = Some(request.reason.clone().unwrap_or_else(|| REASON.to_owned()));
        let mut targets = Vec::new();
        if let Some(jti) = report.jti.clone().filter(|_| !report.expired) {
            let target = match &request.token {
                Some(token) => RevokeRequest { token: Some(token.clone()), ..RevokeRequest::default() },
                None => RevokeRequest { jti: Some(jti), ..RevokeRequest::default() },
            };
            targets.push(target);
        }
        if let Some(agent) = report.agent.clone().filter(|_| request.agent) {
            targets.push(RevokeRequest {
                agent: Some(agent),
                unregistered: true,
                ..RevokeRequest::default()
            });
        }
        if let Some(invocation) = report.invocation.clone().filter(|_| request.invocation) {
            targets.push(RevokeRequest { invocation: Some(invocation), ..RevokeRequest::default() });
        }
        for target in targets {
            let done = self.revoke(admin, RevokeRequest { reason: reason.clone(), ..target }).await?;
            report.revoked.push(done);
        }
        Ok(())
    }
}

/// What is known of a text that no key of this host signed.
fn foreign(text: &str, own_issuer: &str, error: &str) -> LeakResponse {
    let Some(token) = unverified_token(text) else {
        let explanation = format!("This is no token: {error}.");
        return LeakResponse { what: LeakedKind::NoToken, explanation, ..empty() };
    };
    let bounded = |text: &str| text.chars().take(200).collect::<String>().escape_debug().to_string();
    let explanation = match &token.issuer {
        Some(issuer) if issuer == own_issuer => format!(
            "This token says that this host issued it, and no published key of this host signed it: it is forged, \
             changed, or so old that its key was destroyed ({error})."
        ),
        Some(issuer) => format!(
            "This token is not of this host. It says that \"{}\" issued it, which is not verified.",
            bounded(issuer)
        ),
        None => format!("This token is not of this host, and does not say who issued it ({error})."),
    };
    let expires_at = token.expires.map(Timestamp::from_secs);
    LeakResponse { what: LeakedKind::Foreign, explanation, expires_at, ..empty() }
}

fn add_records(report: &mut LeakResponse, records: Records) {
    let Records { issued, later, later_count, refusals, is_complete } = records;
    report.issued = issued;
    report.later = later;
    report.later_count = later_count;
    report.refusals = refusals;
    report.searched_all = is_complete;
}

fn record(line: &str) -> Option<AuditRecord> {
    json::from_object(line.as_bytes()).ok()
}

fn checked_id(what: &str, id: &str) -> Result<String, InvalidRequest> {
    if id.is_empty() || id.len() > MAX_ID_LEN || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = format!("{what} must have 1 to {MAX_ID_LEN} visible characters of ASCII");
        return Err(InvalidRequest::new(text));
    }
    Ok(id.to_owned())
}

/// A serial number as records have it: 32 hexadecimal digits. Other programs print colons, capitals, or no zeros at
/// the beginning, and DER has a zero byte before a number whose first bit is set.
fn recorded_serial(serial: &str) -> String {
    let digits = serial.replace(':', "").to_ascii_lowercase();
    format!("{:0>32}", digits.trim_start_matches('0'))
}

fn empty() -> LeakResponse {
    LeakResponse {
        what: LeakedKind::Unknown,
        explanation: String::new(),
        jti: None,
        serial: None,
        agent: None,
        tenant: None,
        spiffe_id: None,
        audiences: Vec::new(),
        scope: None,
        unit: None,
        invocation: None,
        expires_at: None,
        expired: false,
        revoked_before: None,
        issued: None,
        later: Vec::new(),
        later_count: 0,
        refusals: Vec::new(),
        searched_all: false,
        credentials: Vec::new(),
        revoked: Vec::new(),
        next: Vec::new(),
    }
}
