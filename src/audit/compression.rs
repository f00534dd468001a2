//! Compresses files of the log that are complete: `N.jsonl` becomes `N.jsonl.gz`.
//!
//! The compressed file is written under another name, synced, decompressed again and compared, and renamed; then the
//! plain one is removed. A crash leaves the plain file, or both, of which the plain one counts: it is compressed again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use miniz_oxide::deflate::CompressionLevel;
use miniz_oxide::deflate::core::CompressorOxide;
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus, StreamResult};
use ring::digest::{Context, SHA256};

use super::files::{log_files, open_file, remove_with_extension, sync_dir_of, with_path};
use super::room::has_room;
use crate::clock::Timestamp;
use crate::verify::audit::{Crc32, GzReader, MAX_UNPACKED_LEN, beside, compressed_file, is_compressed};

/// A file is compressed when it was last written so long ago.
const MIN_AGE: Duration = Duration::from_secs(60);
/// Bytes that are compressed between two pauses.
const BLOCK_LEN: usize = 128 * 1024;
/// The pause that is asked for between the rename and the removal of the plain file.
const SETTLE_TIME: Duration = Duration::from_millis(300);
/// Extension of a compressed file that is being written.
const NEW_EXTENSION: &str = "gz-new";
/// The header of a gzip file (RFC 1952 section 2.3) without name and time, of an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Called after each block with the time that it took. An error ends the compression.
pub(super) type Pause<'a> = dyn FnMut(Duration) -> io::Result<()> + 'a;

/// The oldest file before the current one that can be compressed: one that is complete, and not larger than what is
/// decompressed again. A larger one, as after a disk on which no new file could be started, stays as it is.
pub(super) fn next_file(dir: &Path, current: &Path, now: Timestamp) -> io::Result<Option<PathBuf>> {
    for path in log_files(dir)? {
        if path.as_path() >= current {
            break;
        }
        if is_compressed(&path) {
            continue;
        }
        let metadata = match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            result => result.map_err(|e| with_path(&path, e))?,
        };
        let modified = metadata.modified().map_err(|e| with_path(&path, e))?;
        let written_at = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_settled = now.since(Timestamp::from_secs(written_at.as_secs())) > MIN_AGE;
        if is_settled && (1..=MAX_UNPACKED_LEN).contains(&metadata.len()) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Compresses a file, and removes it once the compressed one is on the disk and has the same content. Blocking.
///
/// # Errors
/// The disk has no room, or a file cannot be read or written. The plain file is there then.
pub(super) fn compress(path: &Path, pause: &mut Pause<'_>) -> io::Result<()> {
    let plain = open_file(path, File::options().read(true))?;
    let before = plain.metadata().map_err(|e| with_path(path, e))?;
    let new = beside(path, NEW_EXTENSION);
    if !has_room(path, before.len()) {
        return Err(with_path(&new, io::ErrorKind::StorageFull.into()));
    }
    // Left by a crash. Never through a link, and never over another file.
    let _ = fs::remove_file(&new);
    let options = &mut OpenOptions::new();
    let mut packed = open_file(&new, options.read(true).write(true).create_new(true).mode(0o600))?;
    let written = write_packed(&plain, &mut packed, pause).and_then(|written| {
        packed.set_modified(before.modified()?)?;
        packed.sync_all()?;
        packed.rewind()?;
        let read = read_back(&packed, pause)?;
        let after = plain.metadata()?;
        let is_unchanged = (after.len(), after.modified()?) == (before.len(), before.modified()?);
        match is_unchanged && written == read && written.0 == before.len() {
            true => Ok(()),
            false => Err(io::Error::other("what was compressed is not what the file has")),
        }
    });
    let to = compressed_file(path);
    if let Err(e) = written.and_then(|()| fs::rename(&new, &to)) {
        let _ = fs::remove_file(&new);
        return Err(with_path(&new, e));
    }
    sync_dir_of(path)?;
    // Who lists the directory meanwhile finds one of both names.
    let _ = pause(SETTLE_TIME);
    fs::remove_file(path).map_err(|e| with_path(path, e))?;
    sync_dir_of(path)
}

/// Writes the content of a file as a gzip file. Returns its length and digest.
fn write_packed(plain: &File, packed: &mut File, pause: &mut Pause<'_>) -> io::Result<(u64, Vec<u8>)> {
    let level = CompressionLevel::DefaultLevel;
    let mut compressor = Box::new(CompressorOxide::with_format_and_level(DataFormat::Raw, level));
    let (mut block, mut out) = (vec![0; BLOCK_LEN], vec![0; BLOCK_LEN]);
    let (mut sum, mut digest, mut length) = (Crc32::default(), Context::new(&SHA256), 0);
    packed.write_all(&HEADER)?;
    let mut reader = plain;
    loop {
        let begun = Instant::now();
        let read = read_block(&mut reader, &mut block)?;
        let mut input = &block[..read];
        sum.add(input);
        digest.update(input);
        length += read as u64;
        let flush = if read == 0 { MZFlush::Finish } else { MZFlush::None };
        loop {
            let StreamResult { bytes_consumed, bytes_written, status } =
                deflate(&mut compressor, input, &mut out, flush);
            packed.write_all(&out[..bytes_written])?;
            input = &input[bytes_consumed..];
            match status {
                Ok(MZStatus::StreamEnd) => {
                    packed.write_all(&sum.value().to_le_bytes())?;
                    // The trailer has the length modulo 2^32.
                    packed.write_all(&(length as u32).to_le_bytes())?;
                    return Ok((length, digest.finish().as_ref().to_vec()));
                }
                Ok(_) | Err(MZError::Buf) if input.is_empty() && read > 0 => break,
                Ok(_) | Err(MZError::Buf) if bytes_consumed > 0 || bytes_written > 0 => {}
                _ => return Err(io::Error::other("the content cannot be compressed")),
            }
        }
        pause(begun.elapsed())?;
    }
}

/// The length and the digest of what a compressed file has.
fn read_back(packed: &File, pause: &mut Pause<'_>) -> io::Result<(u64, Vec<u8>)> {
    let mut reader = GzReader::new(packed, MAX_UNPACKED_LEN);
    let (mut block, mut digest, mut length) = (vec![0; BLOCK_LEN], Context::new(&SHA256), 0);
    loop {
        let begun = Instant::now();
        let read = read_block(&mut reader, &mut block)?;
        if read == 0 {
            return Ok((length, digest.finish().as_ref().to_vec()));
        }
        digest.update(&block[..read]);
        length += read as u64;
        pause(begun.elapsed())?;
    }
}

/// Fills the block as far as there is something to read.
fn read_block(from: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < block.len() {
        match from.read(&mut block[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

/// Removes what a crash has left of compressed files in `dir`.
pub(super) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    remove_with_extension(dir, NEW_EXTENSION)
}

/// No pauses.
#[cfg(test)]
pub(super) fn unhurried() -> impl FnMut(Duration) -> io::Result<()> {
    |_| Ok(())
}

#[cfg(test)]
mod tests;
