//! How many unexpired certificates an identity may have.
//!
//! Each registered identity has a share: 12,288 divided by their number, at least 1. Below it, it gets a
//! certificate whatever others have. Beyond it, it may have at most a quarter of what is left of 12,288 for
//! all, so that a few identities leave some to others; and at most 4096 in total. Up to 3 identities
//! therefore have 4096 each; of 1000, each has 12 guaranteed, and a single busy one about 2470.
//!
//! Whatever is unexpired can be revoked: the CRLs have room for all of it. Revoked certificates therefore
//! count until they have expired for certain, not for their identities but in the total, and take the place
//! of those beyond the shares first.

/// Unexpired leaves of one identity.
pub(super) const MAX_PER_IDENTITY: usize = 4096;
/// Leaves that are divided among the registered identities: each has its share, whatever others have.
pub(super) const RESERVED: usize = 12_288;
/// Leaves beyond the shares, of all identities together.
pub(super) const MAX_BEYOND_SHARES: usize = 12_288;
/// An identity may have one in this number of what is left of them, so that a few cannot have them all.
const BEYOND_SHARE_DIVISOR: usize = 4;
/// Leaves of all identities that count, and those on the CRLs: 36,864. The shares fit twice beside what is
/// beyond them, because a reload with more agents makes the shares smaller than what identities have by then,
/// and because each identity gets its share again after all leaves were revoked.
pub(super) const MAX_UNEXPIRED: usize = 2 * RESERVED + MAX_BEYOND_SHARES;

/// Why an identity cannot have one more leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BoundReached {
    /// It has as many as any identity may have.
    OfIdentity,
    /// It has its share, and too few are left beyond the shares; or there is no room on the CRLs.
    OfAll,
}

/// Unexpired leaves of all identities.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// Those that are valid.
    pub counted: usize,
    /// Of these, those beyond the shares of their identities.
    pub beyond_shares: usize,
    /// Those on the CRLs.
    pub revoked: usize,
}

/// The leaves that each of `registered` identities may have whatever others have.
pub(super) fn share(registered: usize) -> usize {
    (RESERVED / registered.max(1)).max(1)
}

/// Checks that an identity with `count` leaves can have one more.
pub(super) fn check_room(count: usize, share: usize, taken: Taken) -> Result<(), BoundReached> {
    if count >= MAX_PER_IDENTITY {
        return Err(BoundReached::OfIdentity);
    }
    let left = MAX_BEYOND_SHARES.saturating_sub(taken.beyond_shares + taken.revoked);
    let within = count < share || (count - share) * BEYOND_SHARE_DIVISOR < left;
    if within && taken.counted + taken.revoked < MAX_UNEXPIRED { Ok(()) } else { Err(BoundReached::OfAll) }
}
