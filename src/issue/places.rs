//! Places for proofs: each has a host's whole lists in it, and is in memory until its caller has taken it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Proofs that are in memory at once, at most: some 100 MiB with the longest lists, more while they are signed.
const MOST: usize = 4;
/// How long a caller waits for a place.
const PATIENCE: Duration = Duration::from_secs(3);

/// All places. Cheap to clone; clones have the same places.
#[derive(Clone, Debug)]
pub struct Places(Arc<Semaphore>);

/// One that is taken until its last clone is gone.
#[derive(Clone, Debug)]
pub struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Default for Places {
    fn default() -> Self {
        Places(Arc::new(Semaphore::new(MOST)))
    }
}

impl Places {
    /// The next place, or none where none becomes free soon.
    pub async fn take(&self) -> Option<Place> {
        let taken = tokio::time::timeout(PATIENCE, self.0.clone().acquire_owned()).await;
        taken.ok()?.ok().map(|permit| Place { _permit: Arc::new(permit) })
    }
}

impl Place {
    /// Bytes that keep the place until the last of them is gone.
    ///
    /// It is not enough that a body keeps it: hyper is done with a body once its bytes wait to be written.
    pub fn keep(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Kept { bytes, _place: self })
    }
}

struct Kept {
    bytes: Vec<u8>,
    _place: Place,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_as_long_as_any_of_its_bytes_are_there() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let places = Places::default();
            let bytes = places.take().await.unwrap().keep(vec![1, 2, 3]);
            let rest = bytes.slice(2..);
            drop(bytes);
            assert_eq!(places.0.available_permits(), MOST - 1);
            drop(rest);
            assert_eq!(places.0.available_permits(), MOST);
        });
    }
}
