//! What is told once and not again while it lasts.

use tokio::sync::watch;

/// Sets what is the matter, and gives it back where it is something new.
pub fn news(state: &watch::Sender<Option<String>>, now: Option<String>) -> Option<String> {
    let changed = state.send_if_modified(|before| {
        let changed = *before != now;
        if changed {
            before.clone_from(&now);
        }
        changed
    });
    now.filter(|_| changed)
}
