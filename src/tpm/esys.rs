//! Commands that tss-esapi 7 does not wrap, as direct calls of libtss2-esys.
//!
//! tss-esapi keeps the pointer to its `ESYS_CONTEXT` private, and a context of our own would not do: a session
//! belongs to the connection that started it, and a software TPM serves one connection. So [`Esys_Initialize`]
//! is defined here as well. The linker finds it before the library's, tss-esapi calls it, and it notes the
//! pointer and passes the call on. Without it everything works but the commands of this file, which then fail.

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::{NonNull, null_mut};

use tss_esapi::Context;
use tss_esapi::handles::{KeyHandle, NvIndexHandle, SessionHandle};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::SignatureScheme;
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::tss2_esys::{
    ESYS_CONTEXT, ESYS_TR, ESYS_TR_NONE, ESYS_TR_PASSWORD, ESYS_TR_RH_OWNER, Esys_Free, Esys_NV_Certify,
    Esys_NV_Extend, Esys_PolicyNV, TPM2B_ATTEST, TPM2B_DATA, TPM2B_MAX_NV_BUFFER, TPM2B_OPERAND,
    TPMT_SIG_SCHEME, TPMT_SIGNATURE, TSS2_ABI_VERSION, TSS2_RC, TSS2_TCTI_CONTEXT,
};

/// TPM2_EO_EQ: the NV index has exactly the operand's value (TPM 2.0 Part 2, section 6.8).
pub(super) const OPERATION_EQUAL: u16 = 0;

/// TSS2_ESYS_RC_GENERAL_FAILURE
const GENERAL_FAILURE: TSS2_RC = 0x0007_0001;

/// The type of [`Esys_Initialize`].
type Initialize =
    unsafe extern "C" fn(*mut *mut ESYS_CONTEXT, *mut TSS2_TCTI_CONTEXT, *mut TSS2_ABI_VERSION) -> TSS2_RC;

thread_local! {
    /// The context that this thread initialized last.
    static INITIALIZED: Cell<*mut ESYS_CONTEXT> = const { Cell::new(null_mut()) };
}

/// The ESYS context of a [`Context`], for the commands of this file.
pub(super) struct EsysContext(NonNull<ESYS_CONTEXT>);

// SAFETY: The pointee is on the C heap and belongs to no thread; tss-esapi's `Context`, which owns it, is `Send`
// as well. Each use of the pointer requires that no other call uses the context.
unsafe impl Send for EsysContext {}

/// Opens a context. Its ESYS context is `None` if the linker did not take the [`Esys_Initialize`] of this file.
pub(super) fn open(tcti: TctiNameConf) -> tss_esapi::Result<(Context, Option<EsysContext>)> {
    // A use of the definition, so that the linker cannot leave it out.
    black_box(Esys_Initialize as Initialize);
    INITIALIZED.set(null_mut());
    let context = Context::new(tcti)?;
    Ok((context, NonNull::new(INITIALIZED.replace(null_mut())).map(EsysContext)))
}

impl EsysContext {
    /// `TPM2_PolicyNV`: extends the policy of `policy` if the NV index has exactly this value. The owner's
    /// authorization, by `authorization`, reads the index (TPM 2.0 Part 3, section 23.9).
    ///
    /// # Safety
    /// The [`Context`] that [`open`] returned with this must still exist, and no other call may use it meanwhile.
    pub(super) unsafe fn policy_nv(
        &self,
        policy: AuthSession,
        index: NvIndexHandle,
        authorization: AuthSession,
        value: &[u8; 8],
    ) -> TSS2_RC {
        let mut operand = TPM2B_OPERAND { size: value.len() as u16, ..TPM2B_OPERAND::default() };
        operand.buffer[..value.len()].copy_from_slice(value);
        // SAFETY: The context exists and is not used meanwhile, as the caller promises. `operand` is a valid
        // structure that outlives the call, which only reads it.
        unsafe {
            Esys_PolicyNV(
                self.0.as_ptr(),
                ESYS_TR_RH_OWNER,
                index.into(),
                session_handle(policy),
                session_handle(authorization),
                ESYS_TR_NONE,
                ESYS_TR_NONE,
                &operand,
                0,
                OPERATION_EQUAL,
            )
        }
    }

    /// `TPM2_NV_Certify`: `key` signs that the NV index has its present value of `size` bytes, and
    /// `qualifying_data`. The owner's authorization, an empty password, reads the index (TPM 2.0 Part 3, section
    /// 31.16). Returns the TPMS_ATTEST and the signature.
    ///
    /// # Safety
    /// As of [`EsysContext::policy_nv`].
    pub(super) unsafe fn nv_certify(
        &self,
        (key, authorization): (KeyHandle, AuthSession),
        index: NvIndexHandle,
        size: u16,
        qualifying_data: &[u8; 32],
    ) -> Result<(Vec<u8>, TPMT_SIGNATURE), TSS2_RC> {
        let mut data = TPM2B_DATA { size: qualifying_data.len() as u16, ..TPM2B_DATA::default() };
        data.buffer[..qualifying_data.len()].copy_from_slice(qualifying_data);
        let scheme = TPMT_SIG_SCHEME::from(SignatureScheme::Null);
        let (mut attest, mut signature): (*mut TPM2B_ATTEST, *mut TPMT_SIGNATURE) = (null_mut(), null_mut());
        // SAFETY: The context exists and is not used meanwhile, as the caller promises. `data` and `scheme` are
        // valid structures that outlive the call, which only reads them, and writes the two pointers.
        let code = unsafe {
            Esys_NV_Certify(
                self.0.as_ptr(),
                key.into(),
                ESYS_TR_RH_OWNER,
                index.into(),
                session_handle(authorization),
                ESYS_TR_PASSWORD,
                ESYS_TR_NONE,
                &data,
                &scheme,
                size,
                0,
                &mut attest,
                &mut signature,
            )
        };
        if code != 0 {
            return Err(code);
        }
        // SAFETY: The library has set both to structures that it allocated for the caller, or left them null.
        let (attest_copy, signature_copy) =
            unsafe { (attest.as_ref().copied(), signature.as_ref().copied()) };
        // SAFETY: The library allocated both, or they are null, and they are not used afterwards.
        unsafe { Esys_Free(attest.cast()) };
        // SAFETY: As above.
        unsafe { Esys_Free(signature.cast()) };
        let (Some(attest), Some(signature)) = (attest_copy, signature_copy) else {
            return Err(GENERAL_FAILURE);
        };
        let bytes = attest.attestationData.get(..attest.size.into()).ok_or(GENERAL_FAILURE)?;
        Ok((bytes.to_vec(), signature))
    }

    /// `TPM2_NV_Extend`: the value of the NV index becomes the digest of itself and `data`. The owner's
    /// authorization, by `authorization`, writes the index (TPM 2.0 Part 3, section 31.9).
    ///
    /// # Safety
    /// As of [`EsysContext::policy_nv`].
    pub(super) unsafe fn nv_extend(
        &self,
        index: NvIndexHandle,
        authorization: AuthSession,
        data: &[u8; 32],
    ) -> TSS2_RC {
        let mut buffer = TPM2B_MAX_NV_BUFFER { size: data.len() as u16, ..TPM2B_MAX_NV_BUFFER::default() };
        buffer.buffer[..data.len()].copy_from_slice(data);
        // SAFETY: The context exists and is not used meanwhile, as the caller promises. `buffer` is a valid structure
        // that outlives the call, which only reads it.
        unsafe {
            Esys_NV_Extend(
                self.0.as_ptr(),
                ESYS_TR_RH_OWNER,
                index.into(),
                session_handle(authorization),
                ESYS_TR_NONE,
                ESYS_TR_NONE,
                &buffer,
            )
        }
    }
}

fn session_handle(session: AuthSession) -> ESYS_TR {
    SessionHandle::from(session).into()
}

/// Initializes an ESYS context by the library's function of this name, and notes the context.
///
/// # Safety
/// As the library's: `context` is valid for a write, `tcti` and `abi` are null or valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn Esys_Initialize(
    context: *mut *mut ESYS_CONTEXT,
    tcti: *mut TSS2_TCTI_CONTEXT,
    abi: *mut TSS2_ABI_VERSION,
) -> TSS2_RC {
    // SAFETY: The name is a C string. RTLD_NEXT skips this program, so that the symbol is the library's.
    let symbol: *mut c_void = unsafe { libc::dlsym(libc::RTLD_NEXT, c"Esys_Initialize".as_ptr()) };
    if symbol.is_null() {
        return GENERAL_FAILURE;
    }
    // SAFETY: libtss2-esys declares its function with this type.
    let initialize = unsafe { std::mem::transmute::<*mut c_void, Initialize>(symbol) };
    // SAFETY: The arguments are the caller's, who keeps the library's conditions.
    let code = unsafe { initialize(context, tcti, abi) };
    if code == 0 {
        // SAFETY: `context` is valid, and the library has written it.
        INITIALIZED.set(unsafe { *context });
    }
    code
}
