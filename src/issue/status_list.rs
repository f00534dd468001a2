//! Status lists as tokens (Token Status List, section 5.1), and the claim `status` that refers to them.

use std::collections::HashMap;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use serde::Serialize;

use super::error::Error;
use super::issuer::{IssuerKeys, IssuerState};
use super::jws::UnsignedJws;
use super::validity::{TokenSubject, ValidNow};
use crate::clock::Timestamp;
use crate::revocation::status::{Entry, ListSnapshot, StatusLists, Subject, TokenStatus};

/// The lifetime of a signed list, as a multiple of how long a relying party may keep it: a list that was signed
/// half of that time ago can be published for a while, and then kept.
const LIFETIME_IN_TTLS: u32 = 4;
/// The best compression of zlib, which the specification recommends.
const COMPRESSION_LEVEL: u8 = 9;

/// The claim `status` of a token.
#[derive(Debug, Serialize)]
pub(super) struct StatusClaim {
    status_list: StatusReference,
}

#[derive(Debug, Serialize)]
struct StatusReference {
    idx: u32,
    uri: String,
}

#[derive(Serialize)]
struct ListClaims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    ttl: u64,
    status_list: ListClaim,
}

#[derive(Serialize)]
struct ListClaim {
    bits: u8,
    lst: String,
}

/// The URI of a status list of this issuer, `ISSUER/v1/status-list/N`.
fn list_uri(issuer: &IssuerKeys, number: u32) -> String {
    format!("{}/v1/status-list/{number}", issuer.issuer())
}

impl IssuerState {
    /// The claim `status` of a token that is about to be signed; `None` where its grant has none. `granted` is
    /// what the grant says.
    pub(super) fn assign_status(
        &self,
        lists: &StatusLists,
        granted: Option<bool>,
        token: &TokenStatus<'_>,
    ) -> Result<Option<StatusClaim>, Error> {
        if !lists.is_wanted(granted) {
            return Ok(None);
        }
        let issuer = self.issuer_of(token.tenant)?;
        let assigned = lists.assign(token).map_err(Error::NoStatus)?;
        let uri = list_uri(issuer, assigned.list);
        Ok(Some(StatusClaim { status_list: StatusReference { idx: assigned.index, uri } }))
    }

    /// The URIs of status lists of a tenant's issuer, or of the host's.
    ///
    /// # Errors
    /// [`Error::NoTenantKey`] if the tenant has no keys.
    pub fn status_list_uris(&self, tenant: Option<&str>, numbers: &[u32]) -> Result<Vec<String>, Error> {
        let issuer = self.issuer_of(tenant)?;
        Ok(numbers.iter().map(|number| list_uri(issuer, *number)).collect())
    }

    /// A status list as it is now, signed by the issuing key: a JWS of type `statuslist+jwt`. Takes some tens of
    /// milliseconds for a list with a million indices.
    ///
    /// # Errors
    /// [`Error::NoTenantKey`] if the issuer has no keys any more; failures to sign.
    pub fn sign_status_list(
        &self,
        list: &ListSnapshot,
        valid: ValidNow<'_>,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<String, Error> {
        let issuer = self.issuer_of(list.tenant.as_deref())?;
        let bits = self.revoked_bits(issuer, list, valid);
        let claims = ListClaims {
            sub: &list_uri(issuer, list.number),
            iat: now.backdated().as_secs(),
            exp: now.after(ttl * LIFETIME_IN_TTLS).as_secs(),
            ttl: ttl.as_secs(),
            status_list: ListClaim {
                bits: 1,
                lst: BASE64URL_NOPAD.encode(&compress_to_vec_zlib(&bits, COMPRESSION_LEVEL)),
            },
        };
        UnsignedJws::of_claims(issuer.status_list_header(), &claims)?.sign(issuer.issuing_key()?)
    }

    /// One bit for each index, the least significant of each byte first: whether the token is revoked.
    fn revoked_bits(&self, issuer: &IssuerKeys, list: &ListSnapshot, valid: ValidNow<'_>) -> Vec<u8> {
        // Where tokens are not known, each index that no known token has may be one of a revoked token.
        let unknown = if list.has_unknown_tokens { 0xff } else { 0 };
        let mut bits = vec![unknown; list.capacity as usize / 8];
        let mut known: HashMap<*const Subject, bool> = HashMap::new();
        let tenant = list.tenant.as_deref();
        for chunk in list.chunks() {
            valid.revocations.with_revoked_tokens(|revoked| {
                for Entry { key, subject, index, .. } in chunk {
                    let subject_revoked = *known
                        .entry(std::ptr::from_ref(&**subject))
                        .or_insert_with(|| self.is_subject_revoked(issuer, subject, tenant, valid));
                    let Some(byte) = bits.get_mut(*index as usize / 8) else { continue };
                    let bit = 1 << (index % 8);
                    match subject_revoked || revoked.has(key) {
                        true => *byte |= bit,
                        false => *byte &= !bit,
                    }
                }
            });
        }
        bits
    }

    /// Whether all tokens of a subject are invalid. While it is not known whether the agent still matches, they
    /// are not: relying parties would refuse valid tokens for as long as they keep the list.
    fn is_subject_revoked(
        &self,
        issuer: &IssuerKeys,
        subject: &Subject,
        tenant: Option<&str>,
        valid: ValidNow<'_>,
    ) -> bool {
        if issuer.documents().keys.find(subject.kid()).is_none() {
            return true;
        }
        let token = TokenSubject {
            name: subject.agent(),
            spiffe_id: subject.spiffe_id(),
            kid: subject.kid(),
            jti: None,
            invocation: subject.invocation(),
            unit: None,
            expires: None,
            epoch: subject.epoch(),
            match_tag: Some(subject.match_tag()),
        };
        let reason = self.invalid_reason(&token, subject.audiences(), tenant, valid);
        reason.is_ok_and(|reason| reason.is_some())
    }
}
