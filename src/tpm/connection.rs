//! One connection to the TPM: context, SRK, identity, and the session that protects every command.
//!
//! The session is an HMAC session salted with the SRK, with AES-128-CFB parameter encryption both ways. Where a
//! command has nothing to encrypt in a direction, libtss2 takes that attribute off for this command and the HMAC
//! still protects it. Outside the session are only the commands that can have none: the SRK's own creation (there is
//! no key to salt with before it; its Name is compared with the pin), `TPM2_StartAuthSession` itself,
//! `TPM2_FlushContext` and `TPM2_Startup` (no sessions by specification), `TPM2_GetCapability` (no secret in it),
//! `TPM2_PCR_Read` (the quote says the same under a signature), `TPM2_ReadPublic` of an emulator's SRK (asked to see
//! whether it is there; nothing is done with the answer), and libtss2's own first `TPM2_NV_ReadPublic` of an index,
//! whose result the session's HMAC then confirms.

use std::time::Duration;
use std::time::Instant;

use tss_esapi::Context;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::constants::StartupType;
use tss_esapi::handles::AuthHandle;
use tss_esapi::handles::KeyHandle;
use tss_esapi::handles::ObjectHandle;
use tss_esapi::handles::SessionHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::interface_types::session_handles::PolicySession;
use tss_esapi::structures::Digest;
use tss_esapi::structures::Nonce;
use tss_esapi::structures::Private;
use tss_esapi::structures::Public;
use tss_esapi::structures::SymmetricDefinition;

use super::config::Tcti;
use super::error::Error;
use super::error::command_failed;
use super::error::is_parameter_error;
use super::error::needs_startup;
use super::objects::KeyBlob;
use super::objects::read_public;
use super::objects::write_public;
use super::probe;
use super::setup::TCTI_IO_ERROR;
use super::setup::add_hierarchy;
use super::setup::check_device_access;
use super::setup::create_srk;
use super::setup::flush_stale_handles;
use super::setup::list_handles;
use super::templates;

/// A session is replaced after this many commands, or this long; both are far below what wears one out.
const MAX_SESSION_USES: u32 = 1000;
const MAX_SESSION_AGE: Duration = Duration::from_secs(600);

/// A context that has its SRK loaded and knows which TPM it speaks with.
pub(super) struct TpmConnection {
    pub(super) context: Context,
    srk: KeyHandle,
    session: Option<HmacSession>,
    identity: TpmIdentity,
    emulator: bool,
    /// Something could not be flushed.
    leaked_handles: bool,
    /// A second way to a driver's TPM, on which nothing is ever loaded. None for an emulator, which has one client, and
    /// for a device that lets nobody else in.
    pub(super) probe_context: Option<Context>,
    pub(super) srk_checked_at: Instant,
}

/// Which TPM this is: the EK is its own, the SRK its owner's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct TpmIdentity {
    pub(super) srk_name: Vec<u8>,
    pub(super) ek_name: Vec<u8>,
    /// TPM2B_PUBLIC
    pub(super) ek_public: Vec<u8>,
}

impl TpmIdentity {
    /// The EK's point, uncompressed.
    pub(super) fn ek_point(&self) -> Result<[u8; 65], Error> {
        templates::p256_point(&read_public(&self.ek_public)?)
            .ok_or_else(|| unexpected_response("TPM2_CreatePrimary"))
    }
}

struct HmacSession {
    handle: AuthSession,
    uses: u32,
    started_at: Instant,
}

impl TpmConnection {
    /// Connects, starts the TPM up if it asks for that, and derives SRK and EK.
    ///
    /// Blocks for as long as the TPM does. What was made before an error is flushed when the context is dropped.
    pub(super) fn open(tcti: &Tcti) -> Result<TpmConnection, Error> {
        check_device_access(tcti)?;
        let name_conf = tcti.to_name_conf().map_err(command_failed("reading the TPM's address"))?;
        let emulator = matches!(tcti, Tcti::Swtpm { .. });
        let mut context = Context::new(name_conf).map_err(command_failed("connecting")).map_err(|error| match error {
            _ if emulator => error,
            // The device is there and may be opened, but its driver cannot wake the TPM.
            Error::CommandFailed { code: Some(TCTI_IO_ERROR), .. } => Error::DriverTimeout,
            Error::CommandFailed { command, code, text } => {
                let hint =
                    "libtss2's part for devices may be missing: install libtss2-tcti-device0, or tpm2-tss";
                Error::CommandFailed { command, code, text: format!("{text}; {hint}") }
            }
            other => other,
        })?;
        if emulator {
            flush_stale_handles(&mut context)?;
        }
        if !emulator {
            probe::check_responsive(&mut context)?;
        }
        let (srk, public) = match create_srk(&mut context) {
            Err(error) if needs_startup(&error) => {
                context.startup(StartupType::Clear).map_err(command_failed("TPM2_Startup"))?;
                create_srk(&mut context)?
            }
            outcome => outcome?,
        };
        let identity = TpmIdentity {
            srk_name: templates::object_name(&public)?,
            ek_name: Vec::new(),
            ek_public: Vec::new(),
        };
        let probe_context = if emulator { None } else { probe::open_probe_context(tcti) };
        let mut connection = TpmConnection {
            context,
            srk,
            session: None,
            identity,
            emulator,
            leaked_handles: false,
            probe_context,
            srk_checked_at: Instant::now(),
        };
        let ek_public = connection.derive_ek()?;
        connection.identity.ek_name = templates::object_name(&ek_public)?;
        connection.identity.ek_public = write_public(&ek_public)?;
        Ok(connection)
    }

    pub(super) fn identity(&self) -> &TpmIdentity {
        &self.identity
    }

    pub(super) fn srk(&self) -> KeyHandle {
        self.srk
    }

    pub(super) fn is_emulator(&self) -> bool {
        self.emulator
    }

    /// Whether the TPM holds something for this connection that only its end can free.
    pub(super) fn has_leaked_handles(&self) -> bool {
        self.leaked_handles
    }

    /// Runs one command within the protected session, which is also its authorization (with an empty password).
    pub(super) fn run<T>(
        &mut self,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        let session = self.ensure_session()?;
        self.context.execute_with_session(Some(session), f).map_err(command_failed(command))
    }

    /// Runs one command with two authorizations: the session for the first, an empty password for the second.
    ///
    /// The session's HMAC covers both objects' Names and all parameters, so the second needs no session of its own.
    pub(super) fn run_with_password_auth<T>(
        &mut self,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        let sessions = (Some(self.ensure_session()?), Some(AuthSession::Password), None);
        self.context.execute_with_sessions(sessions, f).map_err(command_failed(command))
    }

    /// Runs a command that has nothing to protect and takes no authorization.
    pub(super) fn run_without_session<T>(
        &mut self,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        self.context.execute_without_session(f).map_err(command_failed(command))
    }

    /// Loads an object under the SRK for as long as `f` runs. Of two errors the first is returned.
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
                // TPM_RC_INTEGRITY and its like: the areas are damaged, or another TPM's.
                match is_parameter_error(&error) {
                    true => {
                        Error::InvalidObjects(format!("the TPM does not take {} ({error})", blob.describe()))
                    }
                    false => error,
                }
            })?;
        self.flush_after(handle.into(), |connection| f(connection, handle))
    }

    /// Runs `f`, then flushes the object in any case. An object that stays does not take the answer away from whoever
    /// waits for it: the actor ends such a connection.
    fn flush_after<T>(
        &mut self,
        object: ObjectHandle,
        f: impl FnOnce(&mut TpmConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let outcome = f(self);
        self.flush(object);
        outcome
    }

    fn flush(&mut self, object: ObjectHandle) {
        if let Err(error) = self.context.flush_context(object).map_err(command_failed("TPM2_FlushContext")) {
            tracing::debug!(%error, "what was used remains in the TPM");
            self.leaked_handles = true;
        }
    }

    /// Values of consecutive TPM properties, from the first one on. Asked anew each time: tss-esapi's own
    /// `get_tpm_property` would answer from its cache for ever.
    pub(super) fn properties(&mut self, first: u32, count: u32) -> Result<Vec<(u32, u32)>, Error> {
        probe::properties(&mut self.context, first, count)
    }

    /// How many handles of a kind the TPM holds, given the first handle of that kind.
    pub(super) fn count_handles(&mut self, first: u32) -> Result<usize, Error> {
        self.run_without_session("TPM2_GetCapability", |context| list_handles(context, first))
            .map(|list| list.len())
    }

    /// Whether it holds a session that nobody used for a while, in a TPM that others use as well.
    pub(super) fn has_idle_session(&self) -> bool {
        !self.emulator && self.session.is_some()
    }

    /// Ends the session; the next command starts another.
    ///
    /// The kernel flushes what a process leaves behind, and a process that leaves something in a TPM that does not answer
    /// cannot end before the kernel gives up, which takes it minutes.
    pub(super) fn end_idle_session(&mut self) -> Result<(), Error> {
        self.end_session()
    }

    /// Flushes what it holds and, where no kernel does it, tells the TPM that this is an orderly end.
    pub(super) fn close(mut self) {
        if !self.emulator && self.session.is_none() {
            // Objects are the kernel's resource manager's to forget, which it does without asking the TPM.
            return std::mem::forget(self);
        }
        if self.emulator {
            let session = self.session.take();
            let flush = session.map(|session| SessionHandle::from(session.handle).into());
            for object in flush.into_iter().chain([ObjectHandle::from(self.srk)]) {
                let _ = self.context.flush_context(object);
            }
            let _ = self.context.execute_without_session(|context| context.shutdown(StartupType::Clear));
        }
        // The context's own drop flushes whatever else it made.
    }

    /// Lets go of a TPM that is lost or that does not answer.
    ///
    /// The kernel frees our objects without asking the TPM. A context that is dropped would ask it, and wait two minutes
    /// where it does not answer.
    pub(super) fn abandon(mut self) {
        if !self.emulator {
            let _ = self.context.tr_close(&mut ObjectHandle::from(self.srk));
        }
    }

    fn ensure_session(&mut self) -> Result<AuthSession, Error> {
        if self.session.as_ref().is_some_and(|session| session.is_expired()) {
            self.end_session()?;
        }
        let session = match self.session.take() {
            Some(session) => session,
            None => self.start_session()?,
        };
        let handle = session.handle;
        self.session = Some(HmacSession { uses: session.uses + 1, ..session });
        Ok(handle)
    }

    fn start_session(&mut self) -> Result<HmacSession, Error> {
        let (srk, cipher) = (self.srk, SymmetricDefinition::AES_128_CFB);
        let handle = self
            .run_without_session("TPM2_StartAuthSession", |context| {
                context.start_auth_session(
                    Some(srk),
                    None,
                    None,
                    SessionType::Hmac,
                    cipher,
                    HashingAlgorithm::Sha256,
                )
            })?
            .ok_or_else(|| unexpected_response("TPM2_StartAuthSession"))?;
        let (attributes, mask) =
            SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
        if let Err(error) = self.context.tr_sess_set_attributes(handle, attributes, mask) {
            // A session without encryption must not be used; the first error is the one to tell.
            let _ = self.context.flush_context(SessionHandle::from(handle).into());
            return Err(command_failed("setting the session's attributes")(error));
        }
        Ok(HmacSession { handle, uses: 0, started_at: Instant::now() })
    }

    fn end_session(&mut self) -> Result<(), Error> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let result = self.context.flush_context(SessionHandle::from(session.handle).into());
        self.leaked_handles |= result.is_err();
        result.map_err(command_failed("TPM2_FlushContext"))
    }

    /// Derives the EK, keeps its public area, and flushes it at once.
    fn derive_ek(&mut self) -> Result<Public, Error> {
        self.with_primary(templates::ek()?, |_, _, public| Ok(public.clone()))
    }

    /// Derives a primary of the endorsement hierarchy for as long as `f` runs. Of two errors the first is returned.
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
            .map_err(add_hierarchy("endorsement"))?;
        self.flush_after(created.key_handle.into(), |connection| {
            match templates::matches_template(&created.out_public, &expected) {
                true => f(connection, created.key_handle, &created.out_public),
                false => Err(unexpected_response("TPM2_CreatePrimary")),
            }
        })
    }

    /// Runs `f` with a policy session that has shown the endorsement hierarchy's authorization, as an EK asks for
    /// (EK Credential Profile, section B.6.2), and flushes it. Salted like the other session: an unsalted one with
    /// parameter encryption protects nothing, and libtss2 from 4.2 on does not take it.
    pub(super) fn with_ek_policy_session<T>(
        &mut self,
        f: impl FnOnce(&mut TpmConnection, AuthSession) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (srk, cipher) = (self.srk, SymmetricDefinition::AES_128_CFB);
        let session = self
            .run_without_session("TPM2_StartAuthSession", |context| {
                let kind = SessionType::Policy;
                context.start_auth_session(Some(srk), None, None, kind, cipher, HashingAlgorithm::Sha256)
            })?
            .ok_or_else(|| unexpected_response("TPM2_StartAuthSession"))?;
        self.flush_after(SessionHandle::from(session).into(), |connection| {
            let policy = PolicySession::try_from(session).map_err(command_failed("TPM2_PolicySecret"))?;
            connection.run("TPM2_PolicySecret", |context| {
                let (nonce, hash, reference) = (Nonce::default(), Digest::default(), Nonce::default());
                context.policy_secret(policy, AuthHandle::Endorsement, nonce, hash, reference, None)
            })?;
            f(connection, session)
        })
    }

    /// Runs one command with two authorizations: our session for the first, `second` for the other.
    pub(super) fn run_with_second_session<T>(
        &mut self,
        second: AuthSession,
        command: &'static str,
        f: impl FnOnce(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, Error> {
        let sessions = (Some(self.ensure_session()?), Some(second), None);
        self.context.execute_with_sessions(sessions, f).map_err(command_failed(command))
    }

    /// The NV indices from `first` on, 64 at most.
    pub(super) fn nv_indices(&mut self, first: u32) -> Result<Vec<u32>, Error> {
        let list = self.run_without_session("TPM2_GetCapability", |context| list_handles(context, first))?;
        Ok(list.into_iter().map(u32::from).collect())
    }
}

impl HmacSession {
    fn is_expired(&self) -> bool {
        self.uses >= MAX_SESSION_USES || self.started_at.elapsed() >= MAX_SESSION_AGE
    }
}

pub(super) fn unexpected_response(command: &'static str) -> Error {
    Error::CommandFailed {
        command,
        code: None,
        text: "the TPM gave an answer that does not fit the question".into(),
    }
}
