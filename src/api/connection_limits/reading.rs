//! The connections of a uid whose requests are being read, and those that wait until fewer are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Connections of a uid of which a part of a request was read and that are not known to wait for its rest, and
/// those that were evicted while they waited and have not ended. As long as there are as many, no connection of
/// the uid begins to read a request. Each occupies what it has read, and a worker that finds a thousand
/// connections ready reads a piece of each before it comes to the next piece of the first.
pub const MAX_READING: usize = 128;

/// The number of these connections of one uid.
#[derive(Debug, Default)]
pub struct Reading {
    count: AtomicUsize,
    /// Notified when there are fewer than [`MAX_READING`] again.
    fewer: Notify,
}

/// One of these connections; dropping it ends its count.
#[derive(Debug)]
pub struct ReadingPermit(Arc<Reading>);

impl Reading {
    /// Counts one more, also beyond the limit.
    pub fn add(self: &Arc<Self>) -> ReadingPermit {
        self.count.fetch_add(1, Ordering::Relaxed);
        ReadingPermit(self.clone())
    }

    /// Returns when a connection may begin to read a request; `None` where it may now.
    pub fn wait(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<>> {
        if !self.is_full() {
            return None;
        }
        let reading = self.clone();
        Some(async move {
            while reading.is_full() {
                reading.fewer.notified().await;
            }
            // The next one that waits looks too.
            reading.fewer.notify_one();
        })
    }

    fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= MAX_READING
    }
}

impl Drop for ReadingPermit {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == MAX_READING {
            self.0.fewer.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_beyond_the_limit_wait_until_there_are_fewer() {
        let reading = Arc::new(Reading::default());
        let mut permits: Vec<_> = (0..MAX_READING - 1).map(|_| reading.add()).collect();
        assert!(reading.wait().is_none());
        permits.extend([reading.add(), reading.add()]);
        let mut waiting: Vec<_> = (0..3).map(|_| tokio::spawn(reading.wait().unwrap())).collect();
        permits.pop();
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|one| !one.is_finished()), "one too many has ended");
        // A waiter that is dropped does not stop the others.
        waiting.remove(0).abort();
        permits.pop();
        for one in waiting {
            one.await.unwrap();
        }
        permits.clear();
        assert_eq!(reading.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn none_waits_for_ever_beside_threads_that_come_and_go() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
        let reading = Arc::new(Reading::default());
        let readers: Vec<_> = (0..4 * MAX_READING)
            .map(|_| {
                let reading = reading.clone();
                runtime.spawn(async move {
                    for _ in 0..200 {
                        if let Some(wait) = reading.wait() {
                            wait.await;
                        }
                        let permit = reading.add();
                        tokio::task::yield_now().await;
                        drop(permit);
                    }
                })
            })
            .collect();
        runtime.block_on(async {
            for reader in readers {
                reader.await.unwrap();
            }
        });
        assert_eq!(reading.count.load(Ordering::Relaxed), 0);
    }
}
