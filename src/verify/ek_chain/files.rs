//! Reads a directory of certificates, and passes over what cannot be used.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use der::{Reader, SliceReader};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::certificate::ManufacturerCertificate;
use crate::verify::certificates::file_error;
use crate::verify::error::Error;

/// Bytes of one file: 1 MiB.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// Certificates in a directory, and files of them.
pub(super) const MAX_CERTIFICATES: usize = 2000;

/// The extensions of files of certificates.
const FILE_EXTENSIONS: [&str; 4] = ["pem", "crt", "cer", "der"];

/// A file, or a certificate in it, that was not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it: a predicate, without the subject.
    pub reason: String,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.reason)
    }
}

/// The certificates in the files of a directory, in the order of the files' names, and what was passed over.
///
/// # Errors
///
/// If the directory cannot be read, or has more than 2000 certificates.
pub(super) fn read_dir(dir: &Path) -> Result<(Vec<ManufacturerCertificate>, Vec<PassedOver>), Error> {
    let (mut certificates, mut passed_over) = (Vec::new(), Vec::new());
    for file in certificate_files(dir)? {
        let pass_over = |reason: String| PassedOver { file: file.clone(), reason };
        match read_file(&file) {
            Err(reason) => passed_over.push(pass_over(reason)),
            Ok(found) => {
                for (number, der) in found.into_iter().enumerate() {
                    match der.and_then(|der| {
                        ManufacturerCertificate::parse(&der).map_err(|error| error.to_string())
                    }) {
                        Ok(certificate) => certificates.push(certificate),
                        Err(reason) => {
                            passed_over.push(pass_over(format!("certificate {}: {reason}", number + 1)));
                        }
                    }
                }
            }
        }
        if certificates.len().max(passed_over.len()) > MAX_CERTIFICATES {
            return Err(file_error(dir, &format!("more than {MAX_CERTIFICATES} certificates")));
        }
    }
    Ok((certificates, passed_over))
}

/// The files of a directory that may hold certificates, sorted.
fn certificate_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |e: std::io::Error| file_error(dir, &e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        if extension.is_some_and(|it| FILE_EXTENSIONS.iter().any(|known| it == *known)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The certificates in a file, DER each or why one is not. The error is about the whole file.
fn read_file(path: &Path) -> Result<Vec<Result<Vec<u8>, String>>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return Err("is a directory".into());
    }
    // Opening a FIFO would wait for a writer.
    if !metadata.is_file() {
        return Err("is not a regular file".into());
    }
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(format!("is larger than {MAX_FILE_SIZE} bytes"));
    }
    // Some editors begin a text with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    match bytes {
        [] => Err("is empty".into()),
        // DER begins with the tag of a SEQUENCE, PEM with text.
        [0x30, ..] => read_der(bytes),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Err("is a text in UTF-16; save it as ASCII".into()),
        _ => read_pem(bytes),
    }
}

/// Certificates one after the other, possibly with padding behind them.
fn read_der(bytes: &[u8]) -> Result<Vec<Result<Vec<u8>, String>>, String> {
    /// id-signedData (RFC 5652, section 5.1), with tag and length.
    const SIGNED_DATA: [u8; 11] = [0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x02];
    let start = &bytes[..bytes.len().min(32)];
    if start.windows(SIGNED_DATA.len()).any(|some| some == SIGNED_DATA) {
        return Err(PKCS7.into());
    }
    let mut found = Vec::new();
    let mut rest = bytes;
    while rest.first() == Some(&0x30) && found.len() <= MAX_CERTIFICATES {
        let one = SliceReader::new(rest).and_then(|mut reader| reader.tlv_bytes().map(<[u8]>::len));
        let Ok(length) = one else {
            found.push(Err("not a certificate: it is not complete".into()));
            return Ok(found);
        };
        let (one, behind) = rest.split_at(length);
        found.push(Ok(one.to_vec()));
        rest = behind;
    }
    if rest.iter().any(|byte| ![0, 0xFF].contains(byte)) {
        found.push(Err("not a certificate, but bytes behind one".into()));
    }
    Ok(found)
}

fn read_pem(text: &[u8]) -> Result<Vec<Result<Vec<u8>, String>>, String> {
    let contains = |what: &[u8]| text.windows(what.len()).any(|some| some == what);
    let mut found: Vec<Result<Vec<u8>, String>> = CertificateDer::pem_slice_iter(text)
        .take(MAX_CERTIFICATES + 1)
        .map(|one| one.map(|der| der.to_vec()).map_err(|error| error.to_string()))
        .collect();
    for (label, reason) in
        [("-----BEGIN TRUSTED CERTIFICATE", TRUSTED), ("-----BEGIN PKCS7", PKCS7), ("-----BEGIN CMS", PKCS7)]
    {
        if contains(label.as_bytes()) {
            match found.is_empty() {
                true => return Err(reason.into()),
                false => found.push(Err(format!("the file {reason}"))),
            }
        }
    }
    if found.is_empty() { Err("has no certificate in it".into()) } else { Ok(found) }
}

const PKCS7: &str = "is PKCS#7; extract its certificates by: openssl pkcs7 -print_certs";
const TRUSTED: &str = "has OpenSSL's TRUSTED CERTIFICATE; convert it by: openssl x509";
