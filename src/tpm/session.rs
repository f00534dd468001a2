//! Sessions salted with the SRK: the HMAC session that protects commands, and policy sessions.
//!
//! The parameter encryption is AES-128-CFB in both directions. An unsalted session with parameter encryption
//! protects nothing, and libtss2 from 4.2 on refuses it.

use std::time::{Duration, Instant};

use tss_esapi::Context;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, ObjectHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::SymmetricDefinition;

use super::error::{Error, command_failed, unexpected_response};

/// An HMAC session is replaced after this many commands or this long; both are far below any cryptographic
/// limit.
const MAX_SESSION_USES: u32 = 1000;
const MAX_SESSION_AGE: Duration = Duration::from_secs(600);

/// An HMAC session with parameter encryption, used for many commands.
pub(super) struct HmacSession {
    handle: AuthSession,
    uses: u32,
    started_at: Instant,
}

impl HmacSession {
    pub(super) fn start(context: &mut Context, srk: KeyHandle) -> Result<HmacSession, Error> {
        let handle = start(context, srk, SessionType::Hmac)?;
        if let Err(error) = enable_encryption(context, handle) {
            // A session without encryption must not be used. The first error is the cause, so it is the one
            // returned.
            let _ = context.flush_context(object_handle(handle));
            return Err(error);
        }
        Ok(HmacSession { handle, uses: 0, started_at: Instant::now() })
    }

    /// The session's handle for one more command.
    pub(super) fn count_use(&mut self) -> AuthSession {
        self.uses += 1;
        self.handle
    }

    pub(super) fn is_expired(&self) -> bool {
        self.uses >= MAX_SESSION_USES || self.started_at.elapsed() >= MAX_SESSION_AGE
    }

    /// The handle to flush.
    pub(super) fn object_handle(&self) -> ObjectHandle {
        object_handle(self.handle)
    }
}

/// Starts a policy session, without parameter encryption.
pub(super) fn start_policy_session(context: &mut Context, srk: KeyHandle) -> Result<AuthSession, Error> {
    start(context, srk, SessionType::Policy)
}

/// Makes the session encrypt the first parameter of commands and responses.
pub(super) fn enable_encryption(context: &mut Context, session: AuthSession) -> Result<(), Error> {
    let (attributes, mask) = SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
    context
        .tr_sess_set_attributes(session, attributes, mask)
        .map_err(command_failed("setting the session's attributes"))
}

/// A session's handle as `flush_context` takes it.
pub(super) fn object_handle(session: AuthSession) -> ObjectHandle {
    SessionHandle::from(session).into()
}

fn start(context: &mut Context, srk: KeyHandle, kind: SessionType) -> Result<AuthSession, Error> {
    context
        .execute_without_session(|context| {
            let (cipher, hash) = (SymmetricDefinition::AES_128_CFB, HashingAlgorithm::Sha256);
            context.start_auth_session(Some(srk), None, None, kind, cipher, hash)
        })
        .map_err(command_failed("TPM2_StartAuthSession"))?
        .ok_or_else(|| unexpected_response("TPM2_StartAuthSession"))
}
