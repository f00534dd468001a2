//! A software TPM for development: swtpm with its state in a directory, running as long as the daemon.
//!
//! It proves nothing about the host; tokens and evidence that depend on it say so. All functions here block,
//! so async code calls them on a blocking thread.

use std::fs;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

use super::config::Tcti;
use super::swtpm_process::SwtpmProcess;
use super::swtpm_process::with_path;
use super::swtpm_setup;

/// A running swtpm. Dropping it stops the process; its state remains in the directory.
///
/// The process does not outlive the daemon, even after SIGKILL: the kernel kills it when the
/// thread that started it ends.
pub struct SoftwareTpm {
    dir: PathBuf,
    process: SwtpmProcess,
    /// Held while the daemon uses the directory.
    _lock: Flock<File>,
}

impl SoftwareTpm {
    /// Starts the TPM whose state is in `dir`; creates it with its EK certificates if there is none.
    ///
    /// Takes two to four seconds the first time (swtpm_setup creates RSA keys), a few milliseconds later.
    ///
    /// # Errors
    /// `NotFound` if swtpm or swtpm-tools is not installed, `WouldBlock` if another daemon uses the
    /// directory, the kernel's error if the directory cannot be written, and failures of the programs with
    /// the last line of their log.
    pub fn start(dir: &Path) -> io::Result<SoftwareTpm> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(with_path(dir))?;
        let dir = dir.canonicalize().map_err(with_path(dir))?;
        let lock = lock_dir(&dir)?;
        if !dir.join(swtpm_setup::TPM_DIR).is_dir() {
            swtpm_setup::create(&dir)?;
        }
        let process = SwtpmProcess::start(&dir, &state_dir())?;
        Ok(SoftwareTpm { dir, process, _lock: lock })
    }

    /// Its address, which does not change while this value exists.
    pub fn tcti(&self) -> Tcti {
        Tcti::Swtpm { host: Ipv4Addr::LOCALHOST, port: self.process.port() }
    }

    /// The port of swtpm's control channel, for `swtpm_ioctl`.
    pub fn control_port(&self) -> u16 {
        self.process.port() + 1
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Starts swtpm again on the same ports if it has exited. Returns whether it had.
    ///
    /// # Errors
    /// As [`SoftwareTpm::start`]; also if another program has taken the ports meanwhile.
    pub fn ensure_running(&mut self) -> io::Result<bool> {
        if self.process.is_running()? {
            return Ok(false);
        }
        tracing::warn!(event = "swtpm-exited", "the software TPM exited; starting it again");
        self.process.restart(&self.dir, &state_dir())?;
        Ok(true)
    }

    /// Stops swtpm with SIGTERM, and with SIGKILL if it has not exited after two seconds.
    ///
    /// # Errors
    /// The kernel's error if the process cannot be signalled or waited for.
    pub fn stop(self) -> io::Result<()> {
        self.process.stop()
    }
}

/// The state directory of a finished TPM, relative to its directory.
fn state_dir() -> String {
    format!("{}/{}", swtpm_setup::TPM_DIR, swtpm_setup::STATE_DIR)
}

/// Locks the directory, which one daemon at a time may use.
fn lock_dir(dir: &Path) -> io::Result<Flock<File>> {
    let path = dir.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(with_path(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        let text = format!("{}: another daemon uses this software TPM ({error})", dir.display());
        io::Error::new(io::ErrorKind::WouldBlock, text)
    })
}
