//! How many unexpired certificates an identity may have.
//!
//! Each registered identity has a share: 20,480 divided by their number, at least 1. Below it, it gets a
//! certificate whatever others have. Beyond it, it may have at most a quarter of what is left of 16,384 for all,
//! so that a few identities leave some to others; and at most 4096 in total. Up to 5 identities therefore have
//! 4096 each; of 1000, each has 20 for sure, and a single busy one some 3300.

/// Unexpired leaves of one identity.
pub(super) const MAX_PER_IDENTITY: usize = 4096;
/// Leaves that are divided among the registered identities: each has its share, whatever others have.
pub(super) const RESERVED: usize = 20_480;
/// Leaves beyond the shares, of all identities together.
pub(super) const MAX_BEYOND_SHARES: usize = 16_384;
/// An identity may have one in this number of what is left of them, so that a few cannot have them all.
pub(super) const BEYOND_SHARE_DIVISOR: usize = 4;
/// Leaves of all identities that count. Shares and what is beyond them fit twice over, because a reload with
/// more agents makes the shares smaller than what identities have by then.
pub(super) const MAX_COUNTED: usize = 2 * RESERVED + MAX_BEYOND_SHARES;

/// Why an identity cannot have one more leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BoundReached {
    /// It has as many as any identity may have.
    OfIdentity,
    /// It has its share, and too few are left beyond the shares.
    OfAll,
}

/// The leaves that each of `registered` identities may have whatever others have.
pub(super) fn share(registered: usize) -> usize {
    (RESERVED / registered.max(1)).max(1)
}

/// Whether an identity with `count` leaves can have one more, where all have `total` and of these
/// `beyond_shares` beyond their shares.
pub(super) fn has_room(
    count: usize,
    share: usize,
    total: usize,
    beyond_shares: usize,
) -> Result<(), BoundReached> {
    if count >= MAX_PER_IDENTITY {
        return Err(BoundReached::OfIdentity);
    }
    let left = MAX_BEYOND_SHARES.saturating_sub(beyond_shares);
    let within = count < share || (count - share) * BEYOND_SHARE_DIVISOR < left;
    if within && total < MAX_COUNTED { Ok(()) } else { Err(BoundReached::OfAll) }
}
