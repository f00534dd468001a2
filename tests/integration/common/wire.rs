//! swtpm's TCP transport: commands on one port, its control channel on the next.

use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

/// Reads a command or response, whose size is in bytes 2 to 5.
pub fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 10];
    stream.read_exact(&mut frame)?;
    let size = u32::from_be_bytes(frame[2..6].try_into().unwrap()) as usize;
    frame.resize(size, 0);
    stream.read_exact(&mut frame[10..])?;
    Ok(frame)
}

pub fn copy_both_ways(client: TcpStream, server: TcpStream) {
    let pairs = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
    for (mut from, mut to) in pairs {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Binds two neighbouring free ports between `first` and 20,000, below the ports of the software TPMs. Each
/// process starts its search elsewhere.
pub fn bind_port_pair(first: u16) -> (TcpListener, TcpListener) {
    let first = first + (std::process::id() as u16 % 1000) * 2;
    (first..20_000)
        .step_by(2)
        .find_map(|port| {
            TcpListener::bind(("127.0.0.1", port)).ok().zip(TcpListener::bind(("127.0.0.1", port + 1)).ok())
        })
        .expect("two free ports")
}
