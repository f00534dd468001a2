//! Reports a condition once for as long as it lasts.

use tokio::sync::watch;

/// Publishes the current reason of a condition (`None`: the condition has ended). Returns the reason if it
/// differs from the published one, so that the caller logs each reason once.
pub(super) fn set_if_changed(
    sender: &watch::Sender<Option<String>>,
    value: Option<String>,
) -> Option<String> {
    let changed = sender.send_if_modified(|current| {
        let changed = *current != value;
        if changed {
            current.clone_from(&value);
        }
        changed
    });
    value.filter(|_| changed)
}
