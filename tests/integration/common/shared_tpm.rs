//! A software TPM that a test shares with its daemon. swtpm serves one client at a time, so one connection
//! carries the commands of both in turn.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use hostbadge::tpm::{SoftwareTpm, Tcti};
use nix::unistd::Pid;

use super::Host;
use super::wire::{bind_port_pair, copy_both_ways, read_frame};

/// The TPM runs until this is dropped.
pub struct SharedTpm {
    software: SoftwareTpm,
    wire: Arc<Mutex<TcpStream>>,
}

impl SharedTpm {
    /// Starts the TPM of `host`, and installs the host's daemon with this TPM and `configuration`.
    pub fn start(host: &mut Host, configuration: &str) -> SharedTpm {
        let software = SoftwareTpm::start(&host.path("tpm")).unwrap();
        let Tcti::Swtpm { port, .. } = software.tcti() else { unreachable!() };
        let wire = Arc::new(Mutex::new(TcpStream::connect(("127.0.0.1", port)).unwrap()));
        let (data, control) = bind_port_pair(14_000);
        let shared = data.local_addr().unwrap().port();
        let server = wire.clone();
        thread::spawn(move || {
            for client in data.incoming() {
                let (mut client, server) = (client.unwrap(), server.clone());
                thread::spawn(move || -> io::Result<()> {
                    loop {
                        let command = read_frame(&mut client)?;
                        let answer = exchange(&server, &command)?;
                        client.write_all(&answer)?;
                    }
                });
            }
        });
        thread::spawn(move || {
            for client in control.incoming() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port + 1)) else { break };
                copy_both_ways(client.unwrap(), server);
            }
        });
        host.install(&format!(
            "[log]\nto = \"stderr\"\n[tpm]\ntcti = \"swtpm:host=127.0.0.1,port={shared}\"\n\
             allow_emulator = true\ndeadline = \"2s\"\n{configuration}"
        ));
        SharedTpm { software, wire }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.software.pid() as i32)
    }

    /// Sends TPM2_PCR_Extend for the SHA-256 bank with an empty password (TPM 2.0 Part 3, section 22.2).
    #[track_caller]
    pub fn extend(&self, pcr: u32, digest: &[u8; 32]) {
        const PASSWORD: [u8; 9] = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let mut command = vec![0x80, 0x02, 0, 0, 0, 0, 0, 0, 0x01, 0x82];
        command.extend(pcr.to_be_bytes());
        command.extend((PASSWORD.len() as u32).to_be_bytes());
        command.extend(PASSWORD);
        command.extend([0, 0, 0, 1, 0x00, 0x0B]);
        command.extend(digest);
        let size = command.len() as u32;
        command[2..6].copy_from_slice(&size.to_be_bytes());
        let answer = exchange(&self.wire, &command).unwrap();
        assert_eq!(answer[6..10], [0; 4], "TPM2_PCR_Extend");
    }
}

fn exchange(server: &Mutex<TcpStream>, command: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
    server.write_all(command)?;
    read_frame(&mut server)
}
