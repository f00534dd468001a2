//! A key pair of ring whose memory is wiped.

use std::mem::MaybeUninit;

use ring::signature::EcdsaKeyPair;
use zeroize::Zeroize;

/// A key pair whose memory is wiped when it is dropped, which ring does not do. The box keeps it at one
/// address, so that moving the owner leaves no copy behind.
pub(crate) struct ZeroizedKeyPair(Box<MaybeUninit<EcdsaKeyPair>>);

impl ZeroizedKeyPair {
    pub(crate) fn new(pair: EcdsaKeyPair) -> ZeroizedKeyPair {
        // `MaybeUninit` does not drop its content. The pair owns no other memory, so nothing leaks.
        const { assert!(!std::mem::needs_drop::<EcdsaKeyPair>()) };
        ZeroizedKeyPair(Box::new(MaybeUninit::new(pair)))
    }

    pub(crate) fn get(&self) -> &EcdsaKeyPair {
        // SAFETY: `new` initializes the value, and only `drop` overwrites it.
        unsafe { self.0.assume_init_ref() }
    }
}

impl Drop for ZeroizedKeyPair {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
