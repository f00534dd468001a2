//! A software TPM that a test shares with its daemon: swtpm serves one client at a time, so one connection to it carries the
//! commands of all, one after another.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use hostbadge::tpm::{SoftwareTpm, Tcti};
use nix::unistd::Pid;

use super::Host;

/// Keeps the TPM running.
pub struct SharedTpm {
    software: SoftwareTpm,
    wire: Arc<Mutex<TcpStream>>,
}

impl SharedTpm {
    /// Starts the TPM of `host`, which is to start as an installed daemon, with `configuration` beside its paths.
    pub fn of(host: &mut Host, configuration: &str) -> SharedTpm {
        let software = SoftwareTpm::start(&host.path("tpm")).unwrap();
        let Tcti::Swtpm { port, .. } = software.tcti() else { unreachable!() };
        let wire = Arc::new(Mutex::new(TcpStream::connect(("127.0.0.1", port)).unwrap()));
        let (data, control) = neighbours();
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
        let (file, dir) = (host.path("hostbadged.toml"), host.path(""));
        let text = format!(
            "[paths]\nagents = {:?}\nstate = {:?}\naudit = {:?}\nrun = {:?}\n[log]\nto = \"stderr\"\n\
             [tpm]\ntcti = \"swtpm:host=127.0.0.1,port={shared}\"\nallow_emulator = true\ndeadline = \"2s\"\n{configuration}",
            dir.join("etc/agents.d"),
            dir.join("state"),
            dir.join("audit"),
            dir.join("run"),
        );
        fs::write(&file, text).unwrap();
        host.start.config = Some(file);
        SharedTpm { software, wire }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.software.pid() as i32)
    }

    /// TPM2_PCR_Extend of the SHA-256 bank (TPM 2.0 Part 3, section 22.2), with an empty password.
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

/// A command or answer: its size is in bytes 2 to 5.
fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 10];
    stream.read_exact(&mut frame)?;
    let size = u32::from_be_bytes(frame[2..6].try_into().unwrap()) as usize;
    frame.resize(size, 0);
    stream.read_exact(&mut frame[10..])?;
    Ok(frame)
}

fn copy_both_ways(client: TcpStream, server: TcpStream) {
    let pairs = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
    for (mut from, mut to) in pairs {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Two listeners side by side, away from the ports of the software TPMs and of other tests that look for some.
fn neighbours() -> (TcpListener, TcpListener) {
    let first = 14_000 + (std::process::id() as u16 % 1000) * 2;
    (first..20_000)
        .step_by(2)
        .find_map(|port| {
            TcpListener::bind(("127.0.0.1", port)).ok().zip(TcpListener::bind(("127.0.0.1", port + 1)).ok())
        })
        .expect("two free ports")
}
