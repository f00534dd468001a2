//! Follows the number of the admin group: logs why it has none, and gives the admin socket the group as soon
//! as it exists.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::component::ComponentTask;
use super::sockets::admin_mode;
use crate::policy::{AdminGroupProblem, AdminPolicy};

/// The running task.
pub(super) struct AdminGroupHandle(ComponentTask);

/// Starts the task on the current runtime. `socket` is the admin socket's path if this daemon made it: that
/// of systemd keeps the group of `SocketGroup=`, and every caller is checked by number.
pub(super) fn spawn(policy: AdminPolicy, socket: Option<PathBuf>) -> AdminGroupHandle {
    AdminGroupHandle(ComponentTask::spawn(|stop| follow(policy, socket, stop)))
}

impl AdminGroupHandle {
    /// Stops the task.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}

async fn follow(policy: AdminPolicy, socket: Option<PathBuf>, stop: CancellationToken) {
    let mut names_changed = policy.names.subscribe();
    let mut previous = None;
    loop {
        names_changed.borrow_and_update();
        let current = policy.group_number();
        if previous != Some(current) {
            report(&policy, previous, current);
            // While nothing is known, the socket stays as it is.
            if let (Some(socket), false) = (&socket, current == Err(AdminGroupProblem::Unknown)) {
                set_group(socket, current.ok());
            }
            previous = Some(current);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = names_changed.changed() => if changed.is_err() { return },
        }
    }
}

fn report(
    policy: &AdminPolicy,
    previous: Option<Result<u32, AdminGroupProblem>>,
    current: Result<u32, AdminGroupProblem>,
) {
    let name = policy.admin_group.escape_debug();
    match current {
        Err(problem) => {
            tracing::warn!(event = "admin-group-unavailable", "admin group \"{name}\": {problem}")
        }
        Ok(gid) if previous.is_some() => {
            tracing::info!("the members of admin group \"{name}\" (gid {gid}) may use the admin socket");
        }
        Ok(_) => {}
    }
}

/// The caller is checked at each request too, so a failure refuses members and admits no one else.
fn set_group(socket: &Path, gid: Option<u32>) {
    let set = || -> io::Result<()> {
        if let Some(gid) = gid {
            chown(socket, None, Some(gid))?;
        }
        fs::set_permissions(socket, Permissions::from_mode(admin_mode(gid)))
    };
    if let Err(e) = set() {
        let path = socket.display();
        tracing::warn!(event = "admin-group-unavailable", "{path}: the admin group cannot be set: {e}");
    }
}
