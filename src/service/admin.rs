//! Administrators: who they are, and the audit log.

use std::future::Future;
use std::time::Instant;

use super::command_budget::StateCommand;
use super::error::{AdminError, RequestError};
use super::identity_service::IdentityService;
use super::rejection::Rejection;
use crate::audit::{self, AuditQuery};
use crate::error_class::ErrorClass;
use crate::issue::AdminClass;
use crate::peer::{Peer, PeerLookup};
use crate::policy::{AdminGroupProblem, AdminPolicy, ErrorCode, RateLimitKey};
use crate::wire::admin::{AuditResponse, MAX_AUDIT_RECORDS, MissingRecords, UnreadableLines};

/// Why other callers are refused on the admin socket.
const FOR_ADMINISTRATORS: &str = "the admin socket is for root and the admin group";
/// Why other callers get no metrics.
const FOR_MONITORS: &str = "metrics are for root, the admin group and the metrics group ([metrics] group)";

/// A caller that may administer: root, a member of the admin group, or the user of a development host. Only
/// [`IdentityService::authenticate_admin`] makes one.
#[derive(Clone, Debug)]
pub struct Admin {
    peer: Peer,
}

/// An administrator that may do what equals holding the host's keys: root, or the user of a development host.
/// Only [`IdentityService::require_root`] makes one.
#[derive(Clone, Debug)]
pub struct RootAdmin(Admin);

/// A caller that may read metrics: an administrator, or a member of the metrics group. Only
/// [`IdentityService::authenticate_monitor`] makes one.
#[derive(Clone, Debug)]
pub struct Monitor(());

impl Admin {
    /// The administrator in audit records: `uid N, pid N`.
    pub(super) fn id(&self) -> String {
        format!("uid {}, pid {}", self.peer.uid, self.peer.pid)
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl std::ops::Deref for RootAdmin {
    type Target = Admin;

    fn deref(&self) -> &Admin {
        &self.0
    }
}

impl IdentityService {
    /// The caller as an administrator.
    ///
    /// # Errors
    /// A recorded refusal where the caller may not administer or cannot be read.
    pub async fn authenticate_admin(&self, lookup: PeerLookup) -> Result<Admin, RequestError> {
        let peer = self.authenticate(lookup, AdminPolicy::is_admin, FOR_ADMINISTRATORS).await?;
        Ok(Admin { peer })
    }

    /// The caller as one that may read metrics.
    ///
    /// # Errors
    /// A recorded refusal where the caller may not, or cannot be read.
    pub async fn authenticate_monitor(&self, lookup: PeerLookup) -> Result<Monitor, RequestError> {
        self.authenticate(lookup, AdminPolicy::is_monitor, FOR_MONITORS).await?;
        Ok(Monitor(()))
    }

    async fn authenticate(
        &self,
        lookup: PeerLookup,
        is_permitted: fn(&AdminPolicy, &Peer) -> bool,
        who_may: &'static str,
    ) -> Result<Peer, RequestError> {
        let authenticated = self.require_peer(lookup).and_then(|peer| {
            if is_permitted(&self.deps.admin_policy, &peer) {
                return Ok(peer);
            }
            self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(&peer))?;
            if self.deps.admin_policy.group_number() == Err(AdminGroupProblem::Unknown) {
                let description = "the admin group cannot be looked up now; try again, or use sudo";
                return Err(Rejection::new(ErrorCode::TemporarilyUnavailable, description, &peer));
            }
            let description = match peer.has_too_many_groups() {
                false => who_may,
                true => {
                    "this process is in too many groups to be recognized as a member of one that may do this"
                }
            };
            Err(Rejection::new(ErrorCode::AccessDenied, description, &peer))
        });
        match authenticated {
            Ok(peer) => Ok(peer),
            Err(rejection) => Err(self.record_rejection(rejection).await),
        }
    }

    /// The administrator, if it may do what equals holding the host's keys.
    ///
    /// # Errors
    /// A recorded refusal for members of the admin group.
    pub async fn require_root(&self, admin: Admin) -> Result<RootAdmin, RequestError> {
        let peer = &admin.peer;
        if self.deps.admin_policy.is_owner(peer) {
            return Ok(RootAdmin(admin));
        }
        let rejection =
            self.check_rate(RateLimitKey::UnknownUid(peer.uid), Some(peer)).err().unwrap_or_else(|| {
                let description = concat!(
                    "this command gives control of the host's keys: ",
                    "it is for root, and not for the admin group; use sudo"
                );
                Rejection::new(ErrorCode::AccessDenied, description, peer)
            });
        Err(self.record_rejection(rejection).await)
    }

    /// Carries out a command that changes protected state, if it is within its bound. One that was refused
    /// for its content, or did not fit the state, changed nothing and does not count. One of the admin group
    /// for which the TPM worked counts.
    pub(super) async fn within_budget<T>(
        &self,
        admin: &Admin,
        command: StateCommand,
        work: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, AdminError> {
        self.within_budget_if(admin, command, work, |_| true).await
    }

    /// As [`IdentityService::within_budget`]; a command whose result did not change anything (`changed`) does
    /// not count either.
    pub(super) async fn within_budget_if<T>(
        &self,
        admin: &Admin,
        command: StateCommand,
        work: impl Future<Output = Result<T, AdminError>>,
        changed: impl Fn(&T) -> bool,
    ) -> Result<T, AdminError> {
        let class = self.admin_class(admin);
        let counted = self.command_budget.take(command, class, Instant::now())?;
        let result = work.await;
        let counts = match &result {
            Ok(outcome) => changed(outcome),
            Err(e) if class == AdminClass::Group && e.used_tpm() => true,
            Err(e) => !matches!(e.class(), ErrorClass::BadRequest | ErrorClass::Conflict),
        };
        if !counts {
            self.command_budget.refund(counted);
        }
        result
    }

    pub(super) fn admin_class(&self, admin: &Admin) -> AdminClass {
        match self.deps.admin_policy.is_owner(&admin.peer) {
            true => AdminClass::Root,
            false => AdminClass::Group,
        }
    }

    /// The records of the audit log that a query asks for, as many as fit one response. `limit` is 1 to
    /// [`MAX_AUDIT_RECORDS`]; other values count as the nearest of these.
    ///
    /// # Errors
    /// [`AdminError::ReadAudit`] where a file of the log cannot be read.
    pub async fn audit_records(
        &self,
        _: &Admin,
        query: AuditQuery,
        limit: u64,
    ) -> Result<AuditResponse, AdminError> {
        let dir = self.deps.audit_dir.clone();
        let limit = limit.clamp(1, MAX_AUDIT_RECORDS.into()) as usize;
        let page = tokio::task::spawn_blocking(move || audit::read_page(&dir, &query, limit)).await?;
        let page = page.map_err(AdminError::ReadAudit)?;
        let unreadable = page.unreadable.into_iter().map(|lines| UnreadableLines {
            file: lines.file.display().to_string(),
            from: lines.from,
            to: lines.to,
        });
        Ok(AuditResponse {
            records: page.records,
            first: page.first,
            last: page.last,
            more: page.has_more,
            missing: MissingRecords::from_ranges(page.missing.iter().map(|range| (range.from, range.to))),
            unreadable: unreadable.collect(),
        })
    }
}
