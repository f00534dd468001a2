//! What is told once and not again while it lasts.

use tokio::sync::watch;

/// Sets what is the matter, and gives it back where it is something new.
pub fn set_if_changed(sender: &watch::Sender<Option<String>>, value: Option<String>) -> Option<String> {
    let changed = sender.send_if_modified(|current| {
        let changed = *current != value;
        if changed {
            current.clone_from(&value);
        }
        changed
    });
    value.filter(|_| changed)
}
