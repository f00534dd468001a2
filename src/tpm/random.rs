//! Random numbers: the TPM's, and the TPM's mixed with the kernel's.

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::connection::TpmConnection;
use super::error::{Error, RequestError, unexpected_response};

/// The most random bytes one call returns; a TPM generates a few kilobytes a second.
const MAX_RANDOM_LEN: usize = 1024;

/// Every TPM returns this many bytes in one response: the limit is the size of its largest digest, at least
/// SHA-256's.
const RANDOM_CHUNK_LEN: usize = 32;

/// `length` random bytes of the TPM (`TPM2_GetRandom`), at most 1024.
pub(super) fn random(connection: &mut TpmConnection, length: usize) -> Result<Vec<u8>, Error> {
    if length > MAX_RANDOM_LEN {
        return Err(RequestError::TooManyRandomBytes { requested: length, max: MAX_RANDOM_LEN }.into());
    }
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let count = RANDOM_CHUNK_LEN.min(length - bytes.len());
        let chunk = connection.run("TPM2_GetRandom", |context| context.get_random(count))?;
        // A TPM may return fewer bytes than requested. An empty response is an error, or the loop would not
        // end.
        match chunk.value() {
            [] => return Err(unexpected_response("TPM2_GetRandom")),
            received => bytes.extend_from_slice(&received[..count.min(received.len())]),
        }
    }
    Ok(bytes)
}

/// 32 random bytes of the TPM XORed with 32 of the kernel, so that a weak generator on one side does not
/// weaken them.
pub(super) fn mixed_random(connection: &mut TpmConnection) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(bytes.as_mut_slice()).map_err(|_| RequestError::KernelRandom)?;
    let tpm_random = Zeroizing::new(random(connection, bytes.len())?);
    for (byte, tpm_byte) in bytes.iter_mut().zip(tpm_random.iter()) {
        *byte ^= tpm_byte;
    }
    Ok(bytes)
}
