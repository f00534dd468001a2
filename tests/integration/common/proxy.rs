//! A proxy between the daemon and its software TPM, which records commands and injects faults.
//!
//! It parses the header of TPM commands and responses (TPM 2.0 Part 1, section 18) and has one connection to
//! the TPM, which its clients use in turn, so that tools can use the TPM while the daemon does. It can switch
//! to another TPM.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use hostbadge::tpm::{SoftwareTpm, Tcti};

use super::wire::{bind_port_pair, copy_both_ways, read_frame};

/// A fault of one response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The TPM does not get the command; the response is this response code.
    Answer(u32),
    /// Half of the response, and the connection is closed.
    Cut,
    /// The response is delayed by this time.
    Delay(Duration),
    /// No response: the connection is closed.
    Drop,
    /// The last bit is flipped, so that the HMAC or the contents are wrong.
    Flip,
    /// Everything after the header is 0xFF.
    Garbage,
    /// The header has this size instead of the real one, and the connection is closed.
    Size(u32),
    /// No response, and the connection stays open until [`Proxy::release`].
    Swallow,
}

/// Listens on two neighbouring ports, as swtpm does.
pub struct Proxy {
    port: u16,
    relay: Arc<Relay>,
}

#[derive(Default)]
struct Relay {
    /// The TPM's port.
    tpm: AtomicU16,
    /// The connection to the TPM, while there is one.
    connection: Mutex<Option<TcpStream>>,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    /// By command code.
    faults: Vec<(u32, Fault)>,
    /// Commands and responses, in turn.
    frames: Vec<Vec<u8>>,
    releases: u64,
}

impl Proxy {
    /// A proxy for the TPM at this port and the next.
    pub fn to(tpm: u16) -> Proxy {
        let (data, control) = bind_port_pair(12_000);
        let port = data.local_addr().unwrap().port();
        let relay = Arc::new(Relay::default());
        relay.tpm.store(tpm, Ordering::Relaxed);
        let data_relay = relay.clone();
        thread::spawn(move || {
            for client in data.incoming() {
                let relay = data_relay.clone();
                thread::spawn(move || relay.serve(client.unwrap()));
            }
        });
        let control_relay = relay.clone();
        thread::spawn(move || {
            for client in control.incoming() {
                let port = control_relay.tpm.load(Ordering::Relaxed) + 1;
                // Without a TPM the client's connection is closed.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    copy_both_ways(client.unwrap(), server);
                }
            }
        });
        Proxy { port, relay }
    }

    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Injects a fault into the next `times` responses to a command.
    pub fn inject(&self, command: u32, fault: Fault, times: usize) {
        self.relay.state().faults.extend(vec![(command, fault); times]);
    }

    /// How many injected faults have not happened yet.
    pub fn pending_faults(&self) -> usize {
        self.relay.state().faults.len()
    }

    pub fn clear_faults(&self) {
        self.relay.state().faults.clear();
    }

    /// Closes connections whose responses were swallowed, and sends delayed responses.
    pub fn release(&self) {
        self.relay.state().releases += 1;
        self.relay.released.notify_all();
    }

    /// Relays to the TPM at another port from now on.
    pub fn switch_to(&self, tpm: u16) {
        let mut connection = self.relay.connection.lock().unwrap();
        self.relay.tpm.store(tpm, Ordering::Relaxed);
        *connection = None;
    }

    /// Commands and responses so far, in turn.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.relay.state().frames.clone()
    }

    /// The codes of the commands so far.
    pub fn commands(&self) -> BTreeSet<u32> {
        self.relay.state().frames.iter().step_by(2).map(|frame| command_code(frame)).collect()
    }
}

impl Relay {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn serve(&self, mut client: TcpStream) {
        let _ = self.relay(&mut client);
        let _ = client.shutdown(Shutdown::Both);
    }

    fn relay(&self, client: &mut TcpStream) -> io::Result<()> {
        loop {
            let command = read_frame(client)?;
            let fault = self.state().take_fault(command_code(&command));
            if let Some(Fault::Answer(code)) = fault {
                client.write_all(&[[0x80, 1, 0, 0, 0, 10].as_slice(), &code.to_be_bytes()].concat())?;
                continue;
            }
            let mut response = self.exchange(&command)?;
            self.state().frames.extend([command, response.clone()]);
            let close = match fault {
                Some(Fault::Cut) => {
                    response.truncate(response.len() / 2);
                    true
                }
                Some(Fault::Delay(time)) => {
                    self.wait(time);
                    false
                }
                Some(Fault::Drop) => return Ok(()),
                Some(Fault::Flip) => {
                    *response.last_mut().unwrap() ^= 1;
                    false
                }
                Some(Fault::Garbage) => {
                    response[10..].fill(0xFF);
                    false
                }
                Some(Fault::Size(size)) => {
                    response[2..6].copy_from_slice(&size.to_be_bytes());
                    true
                }
                Some(Fault::Swallow) => {
                    self.wait(Duration::from_secs(3600));
                    return Ok(());
                }
                _ => false,
            };
            client.write_all(&response)?;
            if close {
                return Ok(());
            }
        }
    }

    /// Has the TPM execute a command. Clients wait for each other; a connection that failed is opened again
    /// for the next command.
    fn exchange(&self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut connection = self.connection.lock().unwrap();
        let mut server = match connection.take() {
            Some(server) => server,
            None => TcpStream::connect(("127.0.0.1", self.tpm.load(Ordering::Relaxed)))?,
        };
        server.write_all(command)?;
        let response = read_frame(&mut server)?;
        *connection = Some(server);
        Ok(response)
    }

    /// Waits for [`Proxy::release`], at most for `time`.
    fn wait(&self, time: Duration) {
        let state = self.state();
        let before = state.releases;
        let unchanged = |state: &mut State| state.releases == before;
        drop(self.released.wait_timeout_while(state, time, unchanged).unwrap());
    }
}

impl State {
    fn take_fault(&mut self, command: u32) -> Option<Fault> {
        let i = self.faults.iter().position(|(code, _)| *code == command)?;
        Some(self.faults.remove(i).1)
    }
}

pub fn command_code(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[6..10].try_into().unwrap())
}

pub fn port(tpm: &SoftwareTpm) -> u16 {
    let Tcti::Swtpm { port, .. } = tpm.tcti() else { unreachable!("a software TPM is swtpm") };
    port
}
