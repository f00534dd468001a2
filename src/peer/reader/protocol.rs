//! The messages between the daemon and a reader: one request with two descriptors, one response, each of
//! fixed size. Both ends are the same program, so another version is an error.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::mount::MountError;
use crate::peer::root_file::FileDigest;
use crate::peer::sys;
use crate::peer::{DigestError, Sha256Digest};

/// Begins both messages; the last digit is the version of the protocol.
const MAGIC: [u8; 4] = *b"hbr2";
const REQUEST_LEN: usize = 24;
/// Length of a response.
pub(super) const RESPONSE_LEN: usize = 40;
/// The digest, or the name of a file system filled with zeros.
const PAYLOAD_LEN: usize = 32;

/// A request for the digest of one executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The file's size in bytes. A longer file has changed.
    pub size: u64,
    /// The file's mount, as in the mount table.
    pub mount_id: u64,
    /// Whether the process is in the daemon's user namespace.
    pub own_namespace: bool,
}

/// The digest, or why there is none.
pub(super) type Response = Result<FileDigest, ReaderError>;

/// Why a reader computes no digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReaderError {
    /// The file cannot be opened or read.
    Unreadable,
    /// The file is longer than the request says.
    Changed,
    /// The file system is refused.
    Mount(MountError),
}

impl From<ReaderError> for DigestError {
    fn from(error: ReaderError) -> DigestError {
        match error {
            ReaderError::Unreadable => DigestError::Unreadable,
            ReaderError::Changed => DigestError::Changed,
            ReaderError::Mount(MountError::NotFound) => DigestError::NotMounted,
            ReaderError::Mount(MountError::TooLarge) => DigestError::TooManyMounts,
            ReaderError::Mount(MountError::UserServed(fs_type)) => DigestError::UserServed(fs_type),
            ReaderError::Mount(MountError::ForeignNamespace(fs_type)) => {
                DigestError::ForeignNamespace(fs_type)
            }
        }
    }
}

/// Sends a request with the executable, opened with O_PATH, and the mount table. Does not block: both
/// messages fit into the buffer of a new socket.
pub(super) fn send(
    socket: impl AsFd,
    request: &Request,
    executable: BorrowedFd<'_>,
    mount_table: BorrowedFd<'_>,
) -> io::Result<()> {
    let bytes = request.encode();
    let fds = [executable.as_raw_fd(), mount_table.as_raw_fd()];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(&bytes)],
        &[ControlMessage::ScmRights(&fds)],
        flags,
        None,
    )?;
    if sent == REQUEST_LEN { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives a request with its two descriptors: executable and mount table.
pub(super) fn receive(socket: impl AsFd) -> io::Result<(Request, OwnedFd, OwnedFd)> {
    let mut bytes = [0; REQUEST_LEN];
    let mut buffer = [IoSliceMut::new(&mut bytes)];
    let mut space = cmsg_space!([i32; 2]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    let fd = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(fd, &mut buffer, Some(&mut space), flags)?;
    let length = message.bytes;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(received.into_iter().map(sys::own_received_fd));
        }
    }
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let [executable, mount_table] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| invalid())?;
    let request = Request::decode(&bytes[..length]).ok_or_else(invalid)?;
    Ok((request, executable, mount_table))
}

impl Request {
    fn encode(&self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = u8::from(self.own_namespace);
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..].copy_from_slice(&self.mount_id.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Request> {
        let bytes: &[u8; REQUEST_LEN] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let request = Request { own_namespace: bytes[4] == 1, size: number(8)?, mount_id: number(16)? };
        // Every other byte is determined.
        (request.encode() == *bytes).then_some(request)
    }
}

/// Encodes a response: magic, status, payload.
pub(super) fn encode_response(response: &Response) -> [u8; RESPONSE_LEN] {
    let (status, payload): (u8, &[u8]) = match response {
        Ok(digest) => (0, &digest.sha256.0),
        Err(ReaderError::Unreadable) => (1, b""),
        Err(ReaderError::Changed) => (2, b""),
        Err(ReaderError::Mount(MountError::NotFound)) => (3, b""),
        Err(ReaderError::Mount(MountError::TooLarge)) => (4, b""),
        Err(ReaderError::Mount(MountError::UserServed(fs_type))) => (5, fs_type.as_bytes()),
        Err(ReaderError::Mount(MountError::ForeignNamespace(fs_type))) => (6, fs_type.as_bytes()),
    };
    let mut bytes = [0; RESPONSE_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = status;
    bytes[5] = u8::from(response.as_ref().is_ok_and(|digest| digest.has_verity));
    let length = payload.len().min(PAYLOAD_LEN);
    bytes[8..8 + length].copy_from_slice(&payload[..length]);
    bytes
}

/// Decodes a response; `None` if it is not a response of this version.
pub(super) fn decode_response(bytes: &[u8; RESPONSE_LEN]) -> Option<Response> {
    let payload: [u8; PAYLOAD_LEN] = bytes[8..].try_into().ok()?;
    let name = || -> Option<String> {
        let length = payload.iter().position(|b| *b == 0).unwrap_or(PAYLOAD_LEN);
        let name = std::str::from_utf8(&payload[..length]).ok()?;
        name.chars().all(|c| c.is_ascii_graphic()).then(|| name.to_owned())
    };
    let response = match bytes[4] {
        0 => Ok(FileDigest { sha256: Sha256Digest(payload), has_verity: bytes[5] == 1 }),
        1 => Err(ReaderError::Unreadable),
        2 => Err(ReaderError::Changed),
        3 => Err(ReaderError::Mount(MountError::NotFound)),
        4 => Err(ReaderError::Mount(MountError::TooLarge)),
        5 => Err(ReaderError::Mount(MountError::UserServed(name()?))),
        6 => Err(ReaderError::Mount(MountError::ForeignNamespace(name()?))),
        _ => return None,
    };
    (encode_response(&response) == *bytes).then_some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_read_back_and_others_are_refused() {
        let request = Request { size: 7, mount_id: u64::MAX, own_namespace: true };
        let bytes = request.encode();
        assert_eq!(Request::decode(&bytes), Some(request));
        assert_eq!(Request::decode(&bytes[1..]), None);
        for at in 0..8 {
            let mut changed = bytes;
            changed[at] ^= 0x80;
            assert_eq!(Request::decode(&changed), None, "byte {at}");
        }
    }

    #[test]
    fn response_is_read_back_and_others_are_refused() {
        for response in [
            Ok(FileDigest { sha256: Sha256Digest([9; 32]), has_verity: false }),
            Ok(FileDigest { sha256: Sha256Digest([0; 32]), has_verity: true }),
            Err(ReaderError::Unreadable),
            Err(ReaderError::Changed),
            Err(ReaderError::Mount(MountError::NotFound)),
            Err(ReaderError::Mount(MountError::TooLarge)),
            Err(ReaderError::Mount(MountError::UserServed("fuse.x".into()))),
            Err(ReaderError::Mount(MountError::ForeignNamespace("o".repeat(PAYLOAD_LEN)))),
        ] {
            let bytes = encode_response(&response);
            assert_eq!(decode_response(&bytes), Some(response));
            for at in 0..8 {
                let mut changed = bytes;
                changed[at] ^= 0x40;
                assert_eq!(decode_response(&changed), None, "byte {at}");
            }
        }
        let mut hostile = encode_response(&Err(ReaderError::Mount(MountError::UserServed("a".into()))));
        hostile[8] = b'\n';
        assert_eq!(decode_response(&hostile), None);
    }

    #[test]
    fn descriptors_arrive_with_the_request() {
        let (daemon, reader) = std::os::unix::net::UnixStream::pair().unwrap();
        let (exe, table) =
            (std::fs::File::open("/proc/self/exe").unwrap(), std::fs::File::open("/proc/self/stat").unwrap());
        let request = Request { size: 1, mount_id: 2, own_namespace: false };
        send(&daemon, &request, exe.as_fd(), table.as_fd()).unwrap();
        let (received, exe_again, _) = receive(&reader).unwrap();
        assert_eq!(received, request);
        let id = |fd: BorrowedFd<'_>| sys::file_id(fd, c"").unwrap();
        assert_eq!(id(exe_again.as_fd()), id(exe.as_fd()));
        // Without descriptors it is not a request.
        std::io::Write::write_all(&mut &daemon, &request.encode()).unwrap();
        assert!(receive(&reader).is_err());
        drop(daemon);
        assert!(receive(&reader).is_err());
    }
}
