//! An inotify instance whose events are awaited (inotify(7)).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The instance. Dropping it removes its watches.
pub(super) struct EventQueue {
    inotify: Inotify,
    /// Another descriptor of the instance.
    ready: AsyncFd<OwnedFd>,
}

impl EventQueue {
    /// Call it inside the runtime.
    pub fn open() -> io::Result<EventQueue> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let ready = await_readable(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(EventQueue { inotify, ready })
    }

    pub fn add(&self, path: &Path, events: AddWatchFlags) -> Result<WatchDescriptor, Errno> {
        self.inotify.add_watch(path, events)
    }

    /// The watch may be gone.
    pub fn remove(&self, watch: WatchDescriptor) {
        let _ = self.inotify.rm_watch(watch);
    }

    /// The next events, at least one.
    pub async fn next(&self) -> Vec<InotifyEvent> {
        loop {
            // Fails only when the runtime shuts down.
            let Ok(mut ready) = self.ready.readable().await else { return std::future::pending().await };
            match self.inotify.read_events() {
                Ok(events) if !events.is_empty() => return events,
                _ => ready.clear_ready(),
            }
        }
    }
}

/// A descriptor whose being readable is awaited. Call it inside the runtime.
pub(super) fn await_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is an open descriptor, always the same one, and the `AsyncFd` owns it until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
