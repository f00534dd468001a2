//! The allocator of both programs, which overwrites memory when it is freed.

use std::alloc::{GlobalAlloc, Layout, System};

/// Overwrites each block of the heap with zeros when it is freed, moved or shrunk.
///
/// Types that zeroize themselves protect the copies that this crate makes. A secret also passes through
/// buffers of libraries (a request body in hyper, a string in serde_json, a message in h2), and their freed
/// memory would hold it until it is allocated again. The memory that libtss2 allocates itself is not covered.
pub struct WipingAllocator;

// SAFETY: every method passes its arguments on to `System`, whose requirements are those of this trait.
// `realloc` is the trait's own: it allocates, copies and frees, so that the old block is overwritten.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for the implementation.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for the implementation.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // An ordinary fill would be removed by the optimizer, because free follows.
        // SAFETY: the caller gives up a block of this size.
        unsafe { libc::explicit_bzero(block.cast(), layout.size()) };
        // SAFETY: as for the implementation.
        unsafe { System.dealloc(block, layout) }
    }
}
