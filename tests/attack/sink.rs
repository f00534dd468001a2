//! A server that only answers: what the same clients cost when no daemon does any work for them.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::common::connect_when_listening;
use crate::common::processes::Running;

/// The environment variable with the path of the socket, for the process that serves it.
const SOCKET_VARIABLE: &str = "HOSTBADGE_ATTACK_SINK";
/// Connections that are open at once; the oldest is closed for a further one. The daemon closes as many of
/// those that wait for the rest of a request, and clients that connect again are a load of their own.
const MAX_CONNECTIONS: usize = 512;
/// A reply as long as most of the daemon's.
const REPLY: &[u8] = concat!(
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n",
    "{\"error\":\"no error\"}"
)
.as_bytes();

/// Starts the server in a process of its own.
pub fn start(socket: &Path) -> Running {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sink::server_that_only_answers", "--ignored", "--nocapture"]);
    command.env(SOCKET_VARIABLE, socket).stdout(Stdio::null());
    let running = Running::start(command);
    connect_when_listening(socket);
    running
}

/// Not a test: the process of [`start`].
#[test]
#[ignore = "it is the server with which the attacks are compared"]
fn server_that_only_answers() {
    let Some(socket) = std::env::var_os(SOCKET_VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let mut open = VecDeque::new();
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            if open.len() >= MAX_CONNECTIONS {
                open.pop_front().inspect(JoinHandle::abort);
            }
            open.push_back(tokio::spawn(async move {
                let mut received = vec![0; 16_384];
                while let Ok(length @ 1..) = stream.read(&mut received).await {
                    // One reply for each head. A head that two reads divide counts as none, which only
                    // lessens the load.
                    let heads = received[..length].windows(4).filter(|window| window == b"\r\n\r\n").count();
                    if stream.write_all(&REPLY.repeat(heads)).await.is_err() {
                        return;
                    }
                }
            }));
        }
    });
}
