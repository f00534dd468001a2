//! The daemon's end: reaches a reader, and waits for its answer no longer than a deadline.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::program::READER_ARGUMENT;
use super::protocol::{self, RESPONSE_LEN, Request};
use crate::mutex::lock;
use crate::peer::DigestError;
use crate::peer::root_file::FileDigest;

/// Name of the readers' socket in the run directory.
const SOCKET_NAME: &str = "reader.sock";
/// When the daemon looks whether a reader that has answered has exited.
const REAP_DELAYS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(500), Duration::from_secs(10)];

/// Where readers come from. Clones share the children.
#[derive(Clone, Debug, Default)]
pub struct Readers {
    source: Source,
    /// Children that have not been waited for. Those in uninterruptible sleep stay here after SIGKILL.
    children: Arc<Mutex<Vec<Child>>>,
}

#[derive(Clone, Debug, Default)]
enum Source {
    /// The socket of `hostbadge-reader.socket`.
    Socket(PathBuf),
    /// This program as a child. Only hostbadged knows [`READER_ARGUMENT`].
    Children,
    /// None: no digest is computed.
    #[cfg(not(test))]
    #[default]
    Unavailable,
    /// Unit tests are another program, so their readers are threads.
    #[cfg(test)]
    #[default]
    Threads,
}

impl Readers {
    /// Readers of the socket in the run directory if there is one, otherwise children of this process.
    pub fn for_run_dir(run: &Path) -> Readers {
        let socket = run.join(SOCKET_NAME);
        let source = if socket.exists() { Source::Socket(socket) } else { Source::Children };
        Readers { source, ..Readers::default() }
    }

    /// Returns the digest of `executable`, opened with O_PATH. Fails with [`DigestError::Slow`] at the
    /// deadline; the reader is left to itself, and killed if it is a child.
    pub async fn digest(
        &self,
        request: &Request,
        executable: BorrowedFd<'_>,
        mount_table: BorrowedFd<'_>,
        deadline: Duration,
    ) -> Result<FileDigest, DigestError> {
        let exchange = async {
            let (mut socket, child) = self.reach().await?;
            protocol::send(&socket, request, executable, mount_table)?;
            let mut bytes = [0; RESPONSE_LEN];
            socket.read_exact(&mut bytes).await?;
            let response = protocol::decode_response(&bytes);
            io::Result::Ok((response.ok_or(io::ErrorKind::InvalidData)?, child))
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(Ok((response, child))) => {
                drop(child);
                Ok(response?)
            }
            Ok(Err(e)) => {
                tracing::warn!("an executable was not read: {e}");
                Err(DigestError::NoReader)
            }
            Err(_) => Err(DigestError::Slow),
        }
    }

    async fn reach(&self) -> io::Result<(UnixStream, Option<ChildReader>)> {
        match &self.source {
            Source::Socket(path) => return Ok((UnixStream::connect(path).await?, None)),
            #[cfg(not(test))]
            Source::Unavailable => return Err(io::ErrorKind::NotConnected.into()),
            Source::Children => {}
            #[cfg(test)]
            Source::Threads => {}
        }
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        #[cfg(test)]
        if matches!(self.source, Source::Threads) {
            std::thread::spawn(move || super::program::serve(&theirs));
            return Ok((ours, None));
        }
        Ok((ours, Some(self.start_child(theirs).await?)))
    }

    /// Starts a reader as a child, on a blocking thread, because fork and exec take milliseconds.
    async fn start_child(&self, socket: StdStream) -> io::Result<ChildReader> {
        let children = self.children.clone();
        let started = tokio::task::spawn_blocking(move || {
            let mut command = Command::new("/proc/self/exe");
            command.arg(READER_ARGUMENT).env_clear().current_dir("/").stdin(OwnedFd::from(socket));
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            Ok(ChildReader { child: Some(child), children })
        });
        started.await?
    }
}

/// A reader as a child. Drop kills it, which has no effect on one that has answered and exits by itself.
struct ChildReader {
    child: Option<Child>,
    children: Arc<Mutex<Vec<Child>>>,
}

impl Drop for ChildReader {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Fails only if the process has exited.
        let _ = child.kill();
        lock(&self.children).push(child);
        let children = self.children.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for delay in REAP_DELAYS {
                    tokio::time::sleep(delay).await;
                    // Does not wait: a child in uninterruptible sleep is looked at again after the next read.
                    lock(&children).retain_mut(|child| matches!(child.try_wait(), Ok(None)));
                }
            });
        }
    }
}
