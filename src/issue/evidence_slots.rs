//! A bound on the evidence documents in memory.
//!
//! Each holds the host's whole logs until its caller has received it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Documents in memory at once: about 100 MiB with the longest logs, more while they are signed.
const MAX_EVIDENCE_SLOTS: usize = 4;
/// How long a caller waits for a slot.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// All slots: 4. Cheap to clone; clones share the slots.
#[derive(Clone, Debug)]
pub struct EvidenceSlots(Arc<Semaphore>);

/// One slot, occupied until its last clone is dropped.
#[derive(Clone, Debug)]
pub struct EvidenceSlot {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Default for EvidenceSlots {
    fn default() -> Self {
        EvidenceSlots(Arc::new(Semaphore::new(MAX_EVIDENCE_SLOTS)))
    }
}

impl EvidenceSlots {
    /// The next free slot; `None` if none becomes free within 3 seconds.
    pub async fn acquire(&self) -> Option<EvidenceSlot> {
        let acquired = tokio::time::timeout(ACQUIRE_TIMEOUT, self.0.clone().acquire_owned()).await;
        acquired.ok()?.ok().map(|permit| EvidenceSlot { _permit: Arc::new(permit) })
    }
}

impl EvidenceSlot {
    /// Bytes that occupy the slot until their last clone or slice is dropped.
    ///
    /// The response body cannot hold the slot itself: hyper drops a body once its bytes are queued for
    /// writing.
    pub fn guard_bytes(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(SlotBytes { bytes, _slot: self })
    }
}

struct SlotBytes {
    bytes: Vec<u8>,
    _slot: EvidenceSlot,
}

impl AsRef<[u8]> for SlotBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_is_held_while_any_of_its_bytes_exist() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let slots = EvidenceSlots::default();
            let bytes = slots.acquire().await.unwrap().guard_bytes(vec![1, 2, 3]);
            let rest = bytes.slice(2..);
            drop(bytes);
            assert_eq!(slots.0.available_permits(), MAX_EVIDENCE_SLOTS - 1);
            drop(rest);
            assert_eq!(slots.0.available_permits(), MAX_EVIDENCE_SLOTS);
        });
    }
}
