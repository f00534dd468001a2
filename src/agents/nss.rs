//! Names of users and groups, asked of the system off the road and kept for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};

/// How long an answer is believed; nobody is asked again before.
const POSITIVE_TTL: Duration = Duration::from_secs(30);
/// A name that is not there may be made any moment (a DynamicUser's unit starting).
const NEGATIVE_TTL: Duration = Duration::from_secs(2);
/// A directory service that does not answer must not hold up the road.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CACHED_NAMES: usize = 4096;

/// Answers of the system's user database. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct NssCache {
    entries: Arc<Mutex<HashMap<NssKey, CachedName>>>,
}

/// A name, or that there is none, and until when that is believed.
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
    /// The name of a uid.
    pub async fn user_name(&self, uid: u32) -> Option<Arc<str>> {
        self.resolve(NssKey::User(uid)).await
    }

    /// The name of a gid.
    pub async fn group_name(&self, gid: u32) -> Option<Arc<str>> {
        self.resolve(NssKey::Group(gid)).await
    }

    /// Forgets everything, as when the registry is read again.
    pub fn clear(&self) {
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

/// Asks the name service, which may read files or ask a directory.
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
