//! The status line for `systemctl status`, and what a development instance prints when it is ready.

use std::path::Path;

use crate::config::Paths;
use crate::service::IdentityService;

/// One line: host, number of agents, TPM state; or why no tokens are issued.
pub(super) fn status_line(service: &IdentityService) -> String {
    let load_status = service.agents.load_status();
    let agents = match load_status.faults.len() {
        0 => format!("{} agents", load_status.agents),
        n => format!("{} agents, {n} faults in agents.d", load_status.agents),
    };
    match service.issuer.state() {
        Some(issuer_state) => {
            format!("host {}; {agents}; TPM {}", issuer_state.host().id, service.tpm_state.borrow().kind)
        }
        None => format!("no tokens are issued: {}; {agents}", service.unavailable_reason()),
    }
}

/// Prints the status line and commands to try to standard output.
pub(super) fn print_dev_banner(dir: &Path, paths: &Paths, service: &IdentityService) {
    let socket = paths.run.join("agent.sock");
    let socket = socket.display();
    println!("hostbadged: a development host in {}", dir.display());
    println!("  {}", status_line(service));
    println!("  curl --unix-socket {socket} -d audience=https://api.example.com http://localhost/v1/token");
    println!("  HOSTBADGE_SOCKET={socket} hostbadge whoami");
}
