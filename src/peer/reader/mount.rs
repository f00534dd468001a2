//! The file system of an executable, from the mount table of the process that runs it, and whether its
//! content can be relied on.
//!
//! statfs(2) would ask the file system itself, which may never answer. The kernel's own list of mounts does
//! not, but its text is the caller's: a user can mount thousands of file systems at paths of any bytes.

use std::io::{BufRead, Read};

/// Most bytes of `/proc/PID/mountinfo` that are read: about 300,000 common lines. The kernel permits 100,000
/// mounts in a namespace by default, with paths of up to 4 KiB.
const MAX_TABLE_LEN: u64 = 32 * 1024 * 1024;
/// Most bytes of a line that are kept: the type follows two paths of at most 4 KiB, in which the kernel
/// writes some bytes as four characters. Options, which can be longer, follow it.
const MAX_LINE_LEN: usize = 40 * 1024;
/// Longest name of a file system that a refusal repeats.
const MAX_NAME_LEN: usize = 32;

/// File systems that keep content themselves, or on a server that only root can choose.
const STORING: [&str; 26] = [
    "9p", "bcachefs", "btrfs", "ceph", "cifs", "cramfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "iso9660",
    "jfs", "nfs", "nfs4", "ramfs", "reiserfs", "rootfs", "smb3", "squashfs", "tmpfs", "ubifs", "vfat",
    "virtiofs", "xfs", "zfs",
];
/// File systems that show the content of others. A user can mount them in a user namespace of its own.
const STACKED: [&str; 1] = ["overlay"];

/// Why the file system of an executable is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MountError {
    /// No line has the mount ID.
    NotFound,
    /// The table exceeds [`MAX_TABLE_LEN`], or cannot be read.
    TooLarge,
    /// The file system is not one of those that are known to store their content themselves.
    UserServed(String),
    /// This file system was mounted in another user namespace.
    ForeignNamespace(String),
}

/// Returns the type of the mount `id` in `table`, which is a `/proc/PID/mountinfo` (proc(5)).
pub(super) fn find_type(table: impl BufRead, id: u64) -> Result<String, MountError> {
    let mut table = table.take(MAX_TABLE_LEN);
    let mut line = Vec::new();
    while read_line(&mut table, &mut line).map_err(|_| MountError::TooLarge)? {
        if let Some(fs_type) = parse_line(&line, id) {
            return Ok(ascii_name(fs_type));
        }
    }
    Err(if table.limit() == 0 { MountError::TooLarge } else { MountError::NotFound })
}

/// Reads one line, of which it keeps the first [`MAX_LINE_LEN`] bytes. Returns false at the end.
fn read_line(table: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    if table.by_ref().take(MAX_LINE_LEN as u64).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        // The rest of a line that is longer.
        table.skip_until(b'\n')?;
    }
    Ok(true)
}

/// Returns the type in a line with this mount ID. The kernel escapes white space in all fields, so a path or
/// a source contains no separator.
fn parse_line(line: &[u8], id: u64) -> Option<&[u8]> {
    let mut fields = line.split(|b| *b == b' ');
    let first = std::str::from_utf8(fields.next()?).ok()?;
    if first.parse() != Ok(id) {
        return None;
    }
    // Parent, device, root, mount point and options; then optional fields up to a dash.
    let mut fields = fields.skip(5).skip_while(|field| *field != b"-").skip(1);
    fields.next().filter(|fs_type| !fs_type.is_empty())
}

/// A name for messages: at most [`MAX_NAME_LEN`] visible ASCII characters.
fn ascii_name(fs_type: &[u8]) -> String {
    let to_char = |b: &u8| if b.is_ascii_graphic() { char::from(*b) } else { '?' };
    fs_type.iter().take(MAX_NAME_LEN).map(to_char).collect()
}

/// Checks that the content of a file system does not depend on a program of the caller's user.
/// `own_namespace` is whether the caller is in the daemon's user namespace, in which only root can mount.
pub(super) fn check_type(fs_type: &str, own_namespace: bool) -> Result<(), MountError> {
    if STORING.contains(&fs_type) {
        return Ok(());
    }
    match (STACKED.contains(&fs_type), own_namespace) {
        (true, true) => Ok(()),
        (true, false) => Err(MountError::ForeignNamespace(fs_type.to_owned())),
        (false, _) => Err(MountError::UserServed(fs_type.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, repeat};

    const TABLE: &str = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        23 22 0:21 / /proc rw,nosuid - proc proc rw\n\
        41 22 0:45 / /mnt/\\040-\\040ext4\\040x rw shared:7 master:2 propagate_from:3 - fuse.evil /dev/fuse \
        rw\n\
        42 22 0:46 / /merged rw - overlay overlay rw,lowerdir=/a:/b\n\
        43 22 0:47 net:[4026531840] /- rw - nsfs nsfs rw\n";

    #[test]
    fn type_follows_optional_fields() {
        let find = |id| find_type(TABLE.as_bytes(), id);
        assert_eq!(find(22).unwrap(), "ext4");
        assert_eq!(find(41).unwrap(), "fuse.evil");
        assert_eq!(find(42).unwrap(), "overlay");
        assert_eq!(find(43).unwrap(), "nsfs");
        assert_eq!(find(4), Err(MountError::NotFound));
        assert_eq!(find(220), Err(MountError::NotFound));
    }

    #[test]
    fn malformed_lines_have_no_type() {
        for table in [
            "",
            "\n\n",
            "22",
            "22 ",
            "22 1 8:1 / / rw shared:1",
            "22 1 8:1 / / rw -",
            "22 1 8:1 / / rw - ",
            "22 1 8:1 - ext4",
            "-22 1 8:1 / / rw - ext4 a rw",
            "+022x 1 8:1 / / rw - ext4 a rw",
            "99999999999999999999999 1 8:1 / / rw - ext4 a rw",
        ] {
            assert_eq!(find_type(table.as_bytes(), 22), Err(MountError::NotFound), "{table:?}");
        }
        let bytes = b"\xff\xfe 1 8:1 / / rw - ext4 a rw\n22 1 8:1 /\xff / rw - ex\x01t4\xff a rw\n";
        assert_eq!(find_type(&bytes[..], 22).unwrap(), "ex?t4?");
        let long = format!("22 1 8:1 / / rw - {} a rw\n", "x".repeat(1000));
        assert_eq!(find_type(long.as_bytes(), 22).unwrap(), "x".repeat(MAX_NAME_LEN));
    }

    #[test]
    fn long_options_are_skipped_and_a_long_table_is_refused() {
        let options = "o".repeat(3 * MAX_LINE_LEN);
        let table = format!("21 1 8:1 / / rw - overlay o {options}\n22 1 8:1 / / rw - xfs a {options}\n");
        assert_eq!(find_type(table.as_bytes(), 22).unwrap(), "xfs");
        let endless = |byte| BufReader::new(repeat(byte));
        assert_eq!(find_type(endless(b'2'), 22), Err(MountError::TooLarge));
        assert_eq!(find_type(endless(b'\n'), 22), Err(MountError::TooLarge));
    }

    #[test]
    fn only_storing_types_are_relied_on_in_every_namespace() {
        for fs_type in STORING {
            assert_eq!((check_type(fs_type, true), check_type(fs_type, false)), (Ok(()), Ok(())));
        }
        assert_eq!(check_type("overlay", true), Ok(()));
        assert_eq!(check_type("overlay", false), Err(MountError::ForeignNamespace("overlay".into())));
        for fs_type in ["fuse", "fuse.sshfs", "fuseblk", "fuse.ext4", "ecryptfs", "9p2", "", "ext4.x", "EXT4"]
        {
            for own_namespace in [true, false] {
                assert_eq!(
                    check_type(fs_type, own_namespace),
                    Err(MountError::UserServed(fs_type.into())),
                    "{fs_type}"
                );
            }
        }
    }

    #[test]
    fn own_root_has_a_type() {
        let file = std::fs::File::open("/proc/self/mountinfo").unwrap();
        let exe = std::fs::File::open("/proc/self/exe").unwrap();
        let id = crate::peer::sys::mount_id(std::os::fd::AsFd::as_fd(&exe)).unwrap();
        let fs_type = find_type(BufReader::new(file), id).unwrap();
        assert_eq!(check_type(&fs_type, true), Ok(()), "{fs_type}");
    }
}
