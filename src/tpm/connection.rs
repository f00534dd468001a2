//! One connection to the TPM: context, SRK, identity, and the session that protects commands.
//!
//! Commands run in an HMAC session salted with the SRK, with parameter encryption both ways
//! ([`super::session`]). Where a command has no parameter to encrypt in a direction, libtss2 omits that
//! attribute for the command, and the HMAC still protects it. Commands outside the session are those that
//! cannot or need not have one:
//!
//! - `TPM2_CreatePrimary` of the SRK: there is no key to salt a session with yet; its Name is compared with
//!   the pin.
//! - `TPM2_StartAuthSession`, `TPM2_FlushContext` and `TPM2_Startup`: the specification allows no such
//!   session.
//! - `TPM2_GetCapability`: nothing in it is secret.
//! - `TPM2_PCR_Read`: the quote has the same values under a signature.
//! - `TPM2_ReadPublic` of the SRK in a probe: only its presence and Name are checked.
//! - the first `TPM2_NV_ReadPublic` of an index, by libtss2 itself: the session's HMAC confirms its result.

use std::time::{Duration, Instant};

use tss_esapi::Context;
use tss_esapi::constants::StartupType;
use tss_esapi::handles::{AuthHandle, KeyHandle, NvIndexHandle, ObjectHandle};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, Nonce, Private, Public, SensitiveData, Signature};
use tss_esapi::traits::Marshall;

use super::config::Tcti;
use super::error::{
    Error, command_failed, is_parameter_error, needs_startup, response_failed, unexpected_response,
};
use super::esys::EsysContext;
use super::identity::TpmIdentity;
use super::objects::{Certification, KeyBlob, write_public};
use super::session::HmacSession;
use super::{capabilities, session, setup, templates};

/// A context with its SRK loaded, and the identity of its TPM.
pub(super) struct TpmConnection {
    context: Context,
    /// The ESYS context in `context`, for commands that tss-esapi does not wrap.
    esys: Option<EsysContext>,
    srk: KeyHandle,
    session: Option<HmacSession>,
    identity: TpmIdentity,
    emulator: bool,
    /// Objects and sessions, other than the SRK and `session`, that could not be flushed or that the TPM did
    /// not respond about.
    leaked_handles: Vec<ObjectHandle>,
    /// A second context on a driver's TPM, on which no object is ever loaded. `None` for an emulator, which
    /// accepts one client, and for a device that is busy when opened a second time.
    probe_context: Option<Context>,
    srk_checked_at: Instant,
}

impl TpmConnection {
    /// Connects, sends `TPM2_Startup` if the TPM requires it, and derives SRK and EK.
    ///
    /// Blocks for as long as the TPM does. On error the context's drop flushes the objects made so far.
    pub(super) fn open(tcti: &Tcti) -> Result<TpmConnection, Error> {
        let emulator = tcti.is_emulator();
        let (mut context, esys) = setup::open_context(tcti)?;
        if emulator {
            setup::flush_stale_handles(&mut context)?;
        } else {
            setup::check_responsive(&mut context)?;
        }
        let (srk, public) = match setup::create_srk(&mut context) {
            Err(error) if needs_startup(&error) => {
                context.startup(StartupType::Clear).map_err(command_failed("TPM2_Startup"))?;
                setup::create_srk(&mut context)?
            }
            outcome => outcome?,
        };
        let identity = TpmIdentity {
            srk_name: templates::object_name(&public)?,
            ek_name: Vec::new(),
            ek_public: Vec::new(),
        };
        let probe_context = if emulator { None } else { setup::open_probe_context(tcti) };
        let mut connection = TpmConnection {
            context,
            esys,
            srk,
            session: None,
            identity,
            emulator,
            leaked_handles: Vec::new(),
            probe_context,
            srk_checked_at: Instant::now(),
        };
        let ek_public = match connection.derive_ek() {
            Err(error) if error.is_no_response() => {
                connection.abandon();
                return Err(error);
            }
            outcome => outcome?,
        };
        connection.identity.ek_name = templates::object_name(&ek_public)?;
        connection.identity.ek_public = write_public(&ek_public)?;
        Ok(connection)
    }

    pub(super) fn identity(&self) -> &TpmIdentity {
        &self.identity
    }

    pub(super) fn is_emulator(&self) -> bool {
        self.emulator
    }

    /// Whether the TPM holds an object or session of this connection that could not be flushed; closing the
    /// connection frees it.
    pub(super) fn has_leaked_handles(&self) -> bool {
        !self.leaked_handles.is_empty()
    }

    /// Runs one command in the HMAC session, which is also its authorization (with an empty password).
    pub(super) fn run<T>(
        &mut self,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        let session = self.ensure_session()?;
        self.run_with_session(session, command, f)
    }

    /// Runs one command in `session` alone.
    pub(super) fn run_with_session<T>(
        &mut self,
        session: AuthSession,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        self.context.execute_with_session(Some(session), f).map_err(command_failed(command))
    }

    /// Runs one command with two authorizations: the HMAC session for the first, an empty password for the
    /// second.
    ///
    /// The session's HMAC covers both objects' Names and all parameters, so the second needs no session of
    /// its own.
    pub(super) fn run_with_password_auth<T>(
        &mut self,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        self.run_with_second_session(AuthSession::Password, command, f)
    }

    /// Runs one command with two authorizations: the HMAC session for the first, `second` for the second.
    pub(super) fn run_with_second_session<T>(
        &mut self,
        second: AuthSession,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        let sessions = (Some(self.ensure_session()?), Some(second), None);
        self.context.execute_with_sessions(sessions, f).map_err(command_failed(command))
    }

    /// Runs a command that needs no authorization and has no parameter to protect.
    pub(super) fn run_without_session<T>(
        &mut self,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        self.context.execute_without_session(f).map_err(command_failed(command))
    }

    /// `TPM2_PolicyNV`: extends the policy of `policy` if the NV index has exactly this value. The owner's
    /// authorization reads the index.
    pub(super) fn policy_nv(
        &mut self,
        policy: AuthSession,
        index: NvIndexHandle,
        value: &[u8; 8],
    ) -> Result<(), Error> {
        let authorization = self.ensure_session()?;
        let esys = self.esys.as_ref().ok_or_else(|| no_esys_context("TPM2_PolicyNV"))?;
        // SAFETY: `context` was opened together with `esys`, is never replaced, and lives as long as `self`, which
        // is borrowed mutably.
        match unsafe { esys.policy_nv(policy, index, authorization, value) } {
            0 => Ok(()),
            code => Err(response_failed("TPM2_PolicyNV", code)),
        }
    }

    /// `TPM2_NV_Certify`: `key` signs that the NV index has its present value of `size` bytes.
    pub(super) fn nv_certify(
        &mut self,
        key: KeyHandle,
        index: NvIndexHandle,
        size: u16,
        qualifying_data: &[u8; 32],
    ) -> Result<Certification, Error> {
        let authorization = self.ensure_session()?;
        let esys = self.esys.as_ref().ok_or_else(|| no_esys_context("TPM2_NV_Certify"))?;
        // SAFETY: As in `policy_nv`.
        let certified = unsafe { esys.nv_certify((key, authorization), index, size, qualifying_data) };
        let (attest, signature) = certified.map_err(|code| response_failed("TPM2_NV_Certify", code))?;
        let signature = Signature::try_from(signature).and_then(|signature| signature.marshall());
        Ok(Certification { attest, signature: signature.map_err(command_failed("TPM2_NV_Certify"))? })
    }

    /// `TPM2_NV_Extend`, with the owner's authorization.
    pub(super) fn nv_extend(&mut self, index: NvIndexHandle, data: &[u8; 32]) -> Result<(), Error> {
        let authorization = self.ensure_session()?;
        let esys = self.esys.as_ref().ok_or_else(|| no_esys_context("TPM2_NV_Extend"))?;
        // SAFETY: As in `policy_nv`.
        match unsafe { esys.nv_extend(index, authorization, data) } {
            0 => Ok(()),
            code => Err(response_failed("TPM2_NV_Extend", code)),
        }
    }

    /// `TPM2_Create` under the SRK; `secret` is the data of a sealed object.
    pub(super) fn create_object(
        &mut self,
        template: Public,
        secret: Option<SensitiveData>,
    ) -> Result<KeyBlob, Error> {
        let srk = self.srk;
        let created =
            self.run("TPM2_Create", |context| context.create(srk, template, None, secret, None, None))?;
        KeyBlob::new(&created.out_public, created.out_private.value())
    }

    /// Loads an object under the SRK while `f` runs, then flushes it.
    pub(super) fn with_loaded<T>(
        &mut self,
        blob: &KeyBlob,
        f: impl FnOnce(&mut TpmConnection, KeyHandle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (public, srk) = (blob.public_area()?, self.srk);
        let private =
            Private::try_from(blob.private_area()?).map_err(command_failed("reading a private area"))?;
        let handle =
            self.run("TPM2_Load", |context| context.load(srk, private, public)).map_err(|error| {
                // TPM_RC_INTEGRITY and the like: the areas are damaged, or another TPM's.
                if !is_parameter_error(&error) {
                    return error;
                }
                Error::InvalidObjects(format!("the TPM does not accept {} ({error})", blob.describe()))
            })?;
        self.flush_after(handle.into(), |connection| f(connection, handle))
    }

    /// Derives a primary of the endorsement hierarchy while `f` runs, then flushes it.
    pub(super) fn with_primary<T>(
        &mut self,
        template: Public,
        f: impl FnOnce(&mut TpmConnection, KeyHandle, &Public) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let expected = template.clone();
        let created = self
            .run("TPM2_CreatePrimary", |context| {
                context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
            })
            .map_err(setup::add_hierarchy("endorsement"))?;
        self.flush_after(created.key_handle.into(), |connection| {
            if !templates::matches_template(&created.out_public, &expected) {
                return Err(unexpected_response("TPM2_CreatePrimary"));
            }
            f(connection, created.key_handle, &created.out_public)
        })
    }

    /// Runs `f` with a policy session that encrypts parameters, then flushes it.
    pub(super) fn with_encrypting_policy_session<T>(
        &mut self,
        f: impl FnOnce(&mut TpmConnection, AuthSession) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with_policy_session(|connection, policy| {
            session::enable_encryption(&mut connection.context, policy)?;
            f(connection, policy)
        })
    }

    /// Runs `f` with a policy session that satisfies an EK's policy, then flushes it.
    ///
    /// The policy is `TPM2_PolicySecret` with the endorsement hierarchy's authorization (EK Credential
    /// Profile, section B.6.2). The session does not encrypt: it is the second one of a command whose HMAC
    /// session does.
    pub(super) fn with_ek_policy_session<T>(
        &mut self,
        f: impl FnOnce(&mut TpmConnection, AuthSession) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with_policy_session(|connection, session| {
            let policy = PolicySession::try_from(session).map_err(command_failed("TPM2_PolicySecret"))?;
            connection.run("TPM2_PolicySecret", |context| {
                let (nonce, hash, reference) = (Nonce::default(), Digest::default(), Nonce::default());
                context.policy_secret(policy, AuthHandle::Endorsement, nonce, hash, reference, None)
            })?;
            f(connection, session)
        })
    }

    /// Tags and values of `count` consecutive TPM properties, from the tag `first` on.
    pub(super) fn properties(&mut self, first: u32, count: u32) -> Result<Vec<(u32, u32)>, Error> {
        capabilities::read_properties(&mut self.context, first, count)
    }

    /// The same on the probe context, if there is one.
    pub(super) fn probe_properties(&mut self, first: u32, count: u32) -> Result<Vec<(u32, u32)>, Error> {
        let context = self.probe_context.as_mut().unwrap_or(&mut self.context);
        capabilities::read_properties(context, first, count)
    }

    /// The number of handles of one kind that the TPM holds, from `first` on.
    pub(super) fn count_handles(&mut self, first: u32) -> Result<usize, Error> {
        capabilities::list_handles(&mut self.context, first).map(|list| list.len())
    }

    /// The NV indices from `first` on, 64 at most.
    pub(super) fn nv_indices(&mut self, first: u32) -> Result<Vec<u32>, Error> {
        let list = capabilities::list_handles(&mut self.context, first)?;
        Ok(list.into_iter().map(u32::from).collect())
    }

    /// Checks that the TPM still has the SRK.
    pub(super) fn check_srk(&mut self) -> Result<(), Error> {
        let srk = self.srk;
        let (_, name, _) = self.run_without_session("TPM2_ReadPublic", |context| context.read_public(srk))?;
        self.srk_checked_at = Instant::now();
        if name.value() != self.identity.srk_name {
            return Err(unexpected_response("TPM2_ReadPublic"));
        }
        Ok(())
    }

    /// The time since the SRK was last seen in the TPM.
    pub(super) fn since_srk_check(&self) -> Duration {
        self.srk_checked_at.elapsed()
    }

    /// Whether a session is open on a TPM that other programs use as well.
    pub(super) fn has_idle_session(&self) -> bool {
        !self.emulator && self.session.is_some()
    }

    /// Ends the session; the next command starts another.
    ///
    /// The kernel flushes the sessions of a process that exits. If the TPM does not respond then, the process
    /// cannot exit until the driver's timeout, which is minutes.
    pub(super) fn end_session(&mut self) -> Result<(), Error> {
        let Some(session) = self.session.take().map(|session| session.object_handle()) else {
            return Ok(());
        };
        let result = self.context.flush_context(session);
        if result.is_err() {
            self.leaked_handles.push(session);
        }
        result.map_err(command_failed("TPM2_FlushContext"))
    }

    /// Flushes the session and the SRK, and sends `TPM2_Shutdown` to an emulator, which no kernel driver
    /// does.
    pub(super) fn close(mut self) {
        if !self.emulator && self.session.is_none() {
            // The kernel's resource manager discards objects without a command to the TPM.
            return std::mem::forget(self);
        }
        if self.emulator {
            let session = self.session.take().map(|session| session.object_handle());
            for object in session.into_iter().chain([ObjectHandle::from(self.srk)]) {
                let _ = self.context.flush_context(object);
            }
            let _ = self.context.execute_without_session(|context| context.shutdown(StartupType::Clear));
        }
        // The context's drop flushes the remaining objects.
    }

    /// Closes the connection to a TPM that is lost or does not respond, without a command to it.
    ///
    /// The context's drop would flush each object and session that it still knows, and wait two minutes for a
    /// TPM that does not respond. The kernel frees them by itself; in an emulator, the next connection does
    /// ([`setup::flush_stale_handles`]).
    pub(super) fn abandon(mut self) {
        let session = self.session.take().map(|session| session.object_handle());
        let leaked = std::mem::take(&mut self.leaked_handles);
        for mut object in session.into_iter().chain(leaked).chain([self.srk.into()]) {
            let _ = self.context.tr_close(&mut object);
        }
    }

    /// Derives the EK, returns its public area, and flushes it.
    fn derive_ek(&mut self) -> Result<Public, Error> {
        self.with_primary(templates::ek()?, |_, _, public| Ok(public.clone()))
    }

    fn ensure_session(&mut self) -> Result<AuthSession, Error> {
        if self.session.as_ref().is_some_and(HmacSession::is_expired) {
            self.end_session()?;
        }
        let mut session = match self.session.take() {
            Some(session) => session,
            None => HmacSession::start(&mut self.context, self.srk)?,
        };
        let handle = session.count_use();
        self.session = Some(session);
        Ok(handle)
    }

    fn with_policy_session<T>(
        &mut self,
        f: impl FnOnce(&mut TpmConnection, AuthSession) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let policy = session::start_policy_session(&mut self.context, self.srk)?;
        self.flush_after(session::object_handle(policy), |connection| f(connection, policy))
    }

    /// Runs `f`, then flushes the object, whether or not `f` succeeded. It does not flush if the TPM did not
    /// respond to `f`, since the flush would wait as well.
    ///
    /// A failed flush does not replace the result of `f`: the object is in `leaked_handles`, and the actor
    /// then reconnects.
    fn flush_after<T>(
        &mut self,
        object: ObjectHandle,
        f: impl FnOnce(&mut TpmConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let outcome = f(self);
        if outcome.as_ref().is_err_and(Error::is_no_response) {
            self.leaked_handles.push(object);
            return outcome;
        }
        if let Err(error) = self.context.flush_context(object).map_err(command_failed("TPM2_FlushContext")) {
            tracing::debug!(
                %error,
                "cannot flush an object; it remains in the TPM until the connection ends");
            self.leaked_handles.push(object);
        }
        outcome
    }
}

/// The linker did not take the definition that notes the ESYS context.
fn no_esys_context(command: &'static str) -> Error {
    let text = "this build of hostbadged cannot send it".to_owned();
    Error::CommandFailed { command, code: None, text }
}
