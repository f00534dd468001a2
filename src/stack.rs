//! Overwrites what a call has left on the stack.

/// Bytes that [`wiping_stack`] overwrites: more than any call needs that it is used for.
const WIPED_LEN: usize = 16 * 1024;

/// Does `work`, which leaves secrets on its stack, and then overwrites that part of the stack.
///
/// Types that zeroize themselves protect what this crate stores. Libraries have copies of their own in their
/// frames: ring that of the last block of a plaintext and of the schedule of a key.
pub(crate) fn wiping_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = call(work);
    overwrite::<WIPED_LEN>();
    result
}

/// Overwrites the 64 KiB of stack below the caller's frame.
#[inline(never)]
pub(crate) fn wipe_unused_stack() {
    overwrite::<{ 64 * 1024 }>();
}

/// In a frame of its own, so that it is where [`overwrite`] has its frame.
#[inline(never)]
fn call<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn overwrite<const LEN: usize>() {
    std::hint::black_box(&mut [0_u8; LEN]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves a text in its frame, and returns where.
    #[inline(never)]
    fn leave(text: &[u8; 32]) -> *const [u8; 32] {
        let mut copy = [0; 32];
        copy.copy_from_slice(text);
        std::hint::black_box(&mut copy) as *const [u8; 32]
    }

    #[test]
    fn what_a_call_left_on_the_stack_is_overwritten() {
        let text = *b"what only this call may have had";
        let at = wiping_stack(|| leave(&text));
        // SAFETY: the address is in the stack of this thread, below the frames in use; it is read in one piece
        // before another call can use it.
        let left = unsafe { at.read_volatile() };
        assert_ne!(left, text);
    }
}
