//! The task of a long-lived component: started by the component's `spawn`, stopped between two of its steps.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::critical::critical_task;

/// How long a component may take to finish the step that it is in when the daemon stops. A step that takes
/// longer, because the TPM or the disk does not respond, is abandoned; every step is safe against a crash.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A component's running task. Dropping this value leaves the task running until the runtime shuts down.
pub(super) struct ComponentTask<T = ()> {
    stop: CancellationToken,
    task: JoinHandle<T>,
}

impl<T: Send + 'static> ComponentTask<T> {
    /// Starts the task on the current runtime. A panic of it aborts the process. The task returns when the
    /// token that `run` receives is cancelled.
    pub fn spawn<F>(run: impl FnOnce(CancellationToken) -> F) -> ComponentTask<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let stop = CancellationToken::new();
        ComponentTask { task: tokio::spawn(critical_task("a component", run(stop.clone()))), stop }
    }

    /// Stops the task and waits for its end, at most 2 s. Returns the task's result, or `None` if the task
    /// had to be aborted.
    pub async fn stop(self) -> Option<T> {
        self.stop_within(STOP_TIMEOUT).await
    }

    async fn stop_within(mut self, timeout: Duration) -> Option<T> {
        self.stop.cancel();
        match tokio::time::timeout(timeout, &mut self.task).await {
            Ok(result) => result.ok(),
            Err(_) => {
                self.task.abort();
                self.task.await.ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_waits_for_the_step_in_progress() {
        let component = ComponentTask::spawn(|stop| async move {
            stop.cancelled().await;
            tokio::task::yield_now().await;
            "finished"
        });
        assert_eq!(component.stop().await, Some("finished"));
    }

    #[tokio::test]
    async fn stop_aborts_a_step_that_does_not_end() {
        let component = ComponentTask::<()>::spawn(|_| std::future::pending());
        assert_eq!(component.stop_within(Duration::from_millis(10)).await, None);
    }
}
