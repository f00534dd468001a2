//! A wire between the daemon and its software TPM that listens and misbehaves when told to.
//!
//! It knows the header of TPM commands and answers (TPM 2.0 Part 1, section 18) and has one line to the TPM, which its
//! clients use in turn; so tools can ask the TPM beside the daemon, and another TPM can take its place.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use hostbadge::tpm::{SoftwareTpm, Tcti};

use super::wire::{copy_both_ways, neighbours, read_frame};

/// What becomes of one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The TPM is not asked; the answer is this response code.
    Answer(u32),
    /// Half of the answer, and then the connection is closed.
    Cut,
    /// It comes this much later.
    Delay(Duration),
    /// None: the connection is closed.
    Drop,
    /// One bit of its last byte is wrong, so that its HMAC or contents are.
    Flip,
    /// It is of the right size, and its contents mean nothing.
    Garbage,
    /// Its header tells another size than it has; then the connection is closed.
    Size(u32),
    /// None, and the connection stays open until [`Proxy::release`].
    Swallow,
}

/// Listens on two neighbouring ports, as swtpm does.
pub struct Proxy {
    port: u16,
    wire: Arc<Wire>,
}

#[derive(Default)]
struct Wire {
    /// The TPM's port; the line to it, while there is one.
    tpm: AtomicU16,
    line: Mutex<Option<TcpStream>>,
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Default)]
struct Orders {
    faults: Vec<(u32, Fault)>,
    /// Commands and answers, in turn.
    seen: Vec<Vec<u8>>,
    releases: u64,
}

impl Proxy {
    /// For a TPM at this port and the next.
    pub fn to(tpm: u16) -> Proxy {
        let (data, control) = neighbours(12_000);
        let port = data.local_addr().unwrap().port();
        let wire = Arc::new(Wire::default());
        wire.tpm.store(tpm, Ordering::Relaxed);
        let watched = wire.clone();
        thread::spawn(move || {
            for client in data.incoming() {
                let watched = watched.clone();
                thread::spawn(move || watched.serve(client.unwrap()));
            }
        });
        let watched = wire.clone();
        thread::spawn(move || {
            for client in control.incoming() {
                // Without a TPM the client's connection is closed.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", watched.tpm.load(Ordering::Relaxed) + 1))
                {
                    copy_both_ways(client.unwrap(), server);
                }
            }
        });
        Proxy { port, wire }
    }

    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// The next `times` answers to a command fare so.
    pub fn inject(&self, command: u32, fault: Fault, times: usize) {
        self.wire.orders().faults.extend(vec![(command, fault); times]);
    }

    /// How many of the faults have not been met.
    pub fn faults_left(&self) -> usize {
        self.wire.orders().faults.len()
    }

    pub fn forget_faults(&self) {
        self.wire.orders().faults.clear();
    }

    /// Closes the connections of those whose answers were swallowed, and lets delayed answers go.
    pub fn release(&self) {
        self.wire.orders().releases += 1;
        self.wire.changed.notify_all();
    }

    /// From now on it is another TPM that answers.
    pub fn turn_to(&self, tpm: u16) {
        let mut line = self.wire.line.lock().unwrap();
        self.wire.tpm.store(tpm, Ordering::Relaxed);
        *line = None;
    }

    /// Commands and answers so far, in turn.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        self.wire.orders().seen.clone()
    }

    /// The codes of the commands so far.
    pub fn commands(&self) -> BTreeSet<u32> {
        self.wire.orders().seen.iter().step_by(2).map(|frame| command_code(frame)).collect()
    }
}

impl Wire {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap()
    }

    fn serve(&self, mut client: TcpStream) {
        let _ = self.relay(&mut client);
        let _ = client.shutdown(Shutdown::Both);
    }

    fn relay(&self, client: &mut TcpStream) -> io::Result<()> {
        loop {
            let command = read_frame(client)?;
            let fault = self.orders().take_fault(command_code(&command));
            if let Some(Fault::Answer(code)) = fault {
                client.write_all(&[[0x80, 1, 0, 0, 0, 10].as_slice(), &code.to_be_bytes()].concat())?;
                continue;
            }
            let mut answer = self.ask(&command)?;
            self.orders().seen.extend([command, answer.clone()]);
            let end = match fault {
                Some(Fault::Cut) => {
                    answer.truncate(answer.len() / 2);
                    true
                }
                Some(Fault::Delay(time)) => {
                    self.wait(time);
                    false
                }
                Some(Fault::Drop) => return Ok(()),
                Some(Fault::Flip) => {
                    *answer.last_mut().unwrap() ^= 1;
                    false
                }
                Some(Fault::Garbage) => {
                    answer[10..].fill(0xFF);
                    false
                }
                Some(Fault::Size(size)) => {
                    answer[2..6].copy_from_slice(&size.to_be_bytes());
                    true
                }
                Some(Fault::Swallow) => {
                    self.wait(Duration::MAX);
                    return Ok(());
                }
                _ => false,
            };
            client.write_all(&answer)?;
            if end {
                return Ok(());
            }
        }
    }

    /// One client after another; a line that broke is opened anew for the next command.
    fn ask(&self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut line = self.line.lock().unwrap();
        let mut server = match line.take() {
            Some(server) => server,
            None => TcpStream::connect(("127.0.0.1", self.tpm.load(Ordering::Relaxed)))?,
        };
        server.write_all(command)?;
        let answer = read_frame(&mut server)?;
        *line = Some(server);
        Ok(answer)
    }

    /// Until released, or for this long.
    fn wait(&self, time: Duration) {
        let orders = self.orders();
        let before = orders.releases;
        let until = Instant::now().checked_add(time);
        let mut orders = Some(orders);
        while let Some(held) = orders.take() {
            let left = until
                .map_or(Duration::from_secs(3600), |until| until.saturating_duration_since(Instant::now()));
            if held.releases != before || left.is_zero() {
                return;
            }
            orders = Some(self.changed.wait_timeout(held, left).unwrap().0);
        }
    }
}

impl Orders {
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
