//! How many keys of a state a schedule may have.

/// Retired keys in a schedule. While it is full, no other key becomes active, since the active one could not
/// retire; an emergency makes room.
pub(in crate::issue) const MAX_RETIRED_KEYS: usize = 100;
/// Destroyed keys in a schedule; the oldest are forgotten.
pub(super) const MAX_DESTROYED_KEYS: usize = 100;

/// How many keys of a state a schedule may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) retired: usize,
    pub(super) destroyed: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { retired: MAX_RETIRED_KEYS, destroyed: MAX_DESTROYED_KEYS }
    }
}

/// Of a tenant: fewer, because all tenants share one file. The tenant may have more retired keys while others have
/// none.
pub(super) const BOUNDS_OF_TENANT: Bounds = Bounds { retired: MIN_RETIRED_OF_TENANT, destroyed: 16 };
/// Retired keys that each tenant can have, whatever the others have.
pub(in crate::issue) const MIN_RETIRED_OF_TENANT: usize = 16;
