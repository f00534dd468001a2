//! Names of users and groups, asked of the system off the road and kept for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};

/// How long an answer is believed; nobody is asked again before.
const FRESH: Duration = Duration::from_secs(30);
/// A name that is not there may be made any moment (a DynamicUser's unit starting).
const ABSENT: Duration = Duration::from_secs(2);
/// A directory service that does not answer must not hold up the road.
const PATIENCE: Duration = Duration::from_secs(5);
const KEPT: usize = 4096;

/// Answers of the system's user database. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Names {
    known: Arc<Mutex<HashMap<Key, Answer>>>,
}

/// A name, or that there is none, and until when that is believed.
#[derive(Clone, Debug)]
struct Answer {
    name: Option<Arc<str>>,
    until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    User(u32),
    Group(u32),
}

impl Names {
    /// The name of a uid.
    pub async fn user(&self, uid: u32) -> Option<Arc<str>> {
        self.name(Key::User(uid)).await
    }

    /// The name of a gid.
    pub async fn group(&self, gid: u32) -> Option<Arc<str>> {
        self.name(Key::Group(gid)).await
    }

    /// Forgets everything, as when the registry is read again.
    pub fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn name(&self, key: Key) -> Option<Arc<str>> {
        if let Some(name) = self.remembered(key) {
            return name;
        }
        let asked = tokio::task::spawn_blocking(move || ask(key));
        let name: Option<Arc<str>> = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?.map(Into::into);
        let until = Instant::now() + if name.is_some() { FRESH } else { ABSENT };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, Answer { name: name.clone(), until });
        name
    }

    fn remembered(&self, key: Key) -> Option<Option<Arc<str>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = known.get(&key)?;
        (Instant::now() < answer.until).then(|| answer.name.clone())
    }
}

/// Asks the name service, which may read files or ask a directory.
fn ask(key: Key) -> Option<String> {
    match key {
        Key::User(uid) => Some(User::from_uid(Uid::from_raw(uid)).ok()??.name),
        Key::Group(gid) => Some(Group::from_gid(Gid::from_raw(gid)).ok()??.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_is_root_and_nobody_else_is() {
        let names = Names::default();
        assert_eq!(names.user(0).await.as_deref(), Some("root"));
        assert_eq!(names.group(0).await.as_deref(), Some("root"));
        assert_eq!(names.user(3_999_999_999).await, None);
    }
}
