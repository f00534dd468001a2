//! The directory of a development instance: `hostbadged --dev DIR`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::store;

const DEV_CONFIG: &str = "\
# Configuration of this development host. Every key is optional; the manual page names them all.
# trust_domain = \"example.org\"

[log]
to = \"stderr\"
";

/// The configuration file of the development instance in `dir`, which may not exist yet.
pub fn dev_config_path(dir: &Path) -> PathBuf {
    dir.join("etc/hostbadged.toml")
}

/// Creates the directories and files that are missing below `dir`, and returns the path of the configuration
/// file.
///
/// Existing files are not changed. The first time, an agent is registered for the user who runs the daemon,
/// so that the first request succeeds.
///
/// # Errors
/// The kernel's error for a directory or file that cannot be created.
pub fn init_dev_dir(dir: &Path) -> io::Result<PathBuf> {
    // Callers reach the sockets through this directory, so it is 0755; private directories below it have
    // other modes.
    let create_dir = |path: &Path, mode| store::ensure_dir(path, mode).map_err(io::Error::other);
    create_dir(dir, 0o755)?;
    let etc = dir.join("etc");
    create_dir(&etc, 0o755)?;
    let config = dev_config_path(dir);
    if !config.exists() {
        store::write_atomic(&config, DEV_CONFIG.as_bytes(), 0o644)?;
    }
    let agents = etc.join("agents.d");
    if !agents.exists() {
        create_dir(&agents, 0o755)?;
        let uid = nix::unistd::geteuid();
        let example = format!(
            "# Every process of the user with uid {uid} is this agent. On a production host, match a systemd \
             unit.\n\
             name  = \"example\"\n\
             owner = \"you\"\n\n\
             [match]\n\
             user = {uid}\n\n\
             [[grant]]\n\
             audience = \"https://api.example.com\"\n\
             scopes   = [\"docs.read\", \"docs.write\"]\n\
             ttl      = \"5m\"\n"
        );
        store::write_atomic(&agents.join("example.toml"), example.as_bytes(), 0o644)?;
    }
    fs::canonicalize(&config)
}
