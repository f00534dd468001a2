//! Startup barrier: the daemon accepts agents once each component has finished its first attempt.

use std::time::Duration;

use tokio::sync::watch;

/// How long the barrier waits. A component that takes longer leaves the daemon running degraded; `hostbadge
/// status` names the cause.
const STARTUP_GRACE: Duration = Duration::from_secs(10);

/// Waits for every component that registered. A first attempt counts whether it succeeded or failed.
#[derive(Default)]
pub(super) struct Startup {
    steps: Vec<StartupStep>,
}

impl Startup {
    /// Adds a component: the signal is for the component itself, the step for others that wait for it.
    pub fn register(&mut self) -> (StartupSignal, StartupStep) {
        let (sender, receiver) = watch::channel(false);
        let step = StartupStep(receiver);
        self.steps.push(step.clone());
        (StartupSignal(sender), step)
    }

    /// Waits until every registered component has finished its first attempt, at most 10 s in total.
    pub async fn wait(self) {
        self.wait_at_most(STARTUP_GRACE).await;
    }

    async fn wait_at_most(self, grace: Duration) {
        let all_done = async {
            for mut step in self.steps {
                step.wait().await;
            }
        };
        let _ = tokio::time::timeout(grace, all_done).await;
    }
}

/// A component's end of the barrier. Dropping it counts as the end of the first attempt.
pub(super) struct StartupSignal(watch::Sender<bool>);

impl StartupSignal {
    /// Reports that the first attempt has ended. Further calls have no effect.
    pub fn complete(&self) {
        self.0.send_if_modified(|done| !std::mem::replace(done, true));
    }
}

/// Reports whether one component has finished its first attempt. Cheap to clone.
#[derive(Clone)]
pub(super) struct StartupStep(watch::Receiver<bool>);

impl StartupStep {
    /// Waits for the end of the component's first attempt, without a limit.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|done| *done).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn barrier_waits_for_every_component_and_at_most_for_the_grace() {
        let mut startup = Startup::default();
        let (first, _) = startup.register();
        let (_second, _) = startup.register();
        first.complete();
        let (grace, began) = (Duration::from_millis(20), Instant::now());
        startup.wait_at_most(grace).await;
        assert!(began.elapsed() >= grace);
    }

    #[tokio::test]
    async fn component_that_ended_does_not_hold_up_the_barrier() {
        let mut startup = Startup::default();
        let (first, _) = startup.register();
        let (second, mut step) = startup.register();
        first.complete();
        drop(second);
        let began = Instant::now();
        startup.wait().await;
        step.wait().await;
        assert!(began.elapsed() < STARTUP_GRACE);
    }
}
