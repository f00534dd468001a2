//! Names of users and groups, looked up on a blocking thread and cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};

/// A name is cached for this long.
const POSITIVE_TTL: Duration = Duration::from_secs(30);
/// An ID without a name is cached for a short time, because a name can appear when a unit with DynamicUser=
/// starts.
const NEGATIVE_TTL: Duration = Duration::from_secs(2);
/// A lookup in a directory service that does not respond is abandoned after this time.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CACHED_NAMES: usize = 4096;

/// Cache of the system's user and group names, at most 4096. Clones share the cache.
#[derive(Clone, Debug, Default)]
pub(super) struct NssCache {
    entries: Arc<Mutex<HashMap<NssKey, CachedName>>>,
}

/// The result of one lookup; `name` is `None` if the ID has no name.
#[derive(Clone, Debug)]
struct CachedName {
    name: Option<Arc<str>>,
    expires_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum NssKey {
    User(u32),
    Group(u32),
}

impl NssCache {
    /// Returns the name of a uid, or `None` if it has no name or the lookup takes longer than 5 s.
    pub(super) async fn user_name(&self, uid: u32) -> Option<Arc<str>> {
        self.resolve(NssKey::User(uid)).await
    }

    /// Returns the name of a gid, or `None` if it has no name or the lookup takes longer than 5 s.
    pub(super) async fn group_name(&self, gid: u32) -> Option<Arc<str>> {
        self.resolve(NssKey::Group(gid)).await
    }

    /// Removes all entries. A reload of the registry calls it.
    pub(super) fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn resolve(&self, key: NssKey) -> Option<Arc<str>> {
        if let Some(name) = self.cached(key) {
            return name;
        }
        let lookup_task = tokio::task::spawn_blocking(move || lookup(key));
        let name: Option<Arc<str>> =
            tokio::time::timeout(LOOKUP_TIMEOUT, lookup_task).await.ok()?.ok()?.map(Into::into);
        let expires_at = Instant::now() + if name.is_some() { POSITIVE_TTL } else { NEGATIVE_TTL };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_CACHED_NAMES {
            entries.clear();
        }
        entries.insert(key, CachedName { name: name.clone(), expires_at });
        name
    }

    fn cached(&self, key: NssKey) -> Option<Option<Arc<str>>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&key)?;
        (Instant::now() < entry.expires_at).then(|| entry.name.clone())
    }
}

/// Looks a name up with getpwuid_r(3) or getgrgid_r(3). Blocking: the name service may query a directory
/// server.
fn lookup(key: NssKey) -> Option<String> {
    match key {
        NssKey::User(uid) => Some(User::from_uid(Uid::from_raw(uid)).ok()??.name),
        NssKey::Group(gid) => Some(Group::from_gid(Gid::from_raw(gid)).ok()??.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn resolves_root_but_not_unused_ids() {
        let nss = NssCache::default();
        assert_eq!(nss.user_name(0).await.as_deref(), Some("root"));
        assert_eq!(nss.group_name(0).await.as_deref(), Some("root"));
        assert_eq!(nss.user_name(3_999_999_999).await, None);
    }
}
