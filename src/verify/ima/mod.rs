//! The IMA list: the files that the kernel measured, as Linux exports them in `binary_runtime_measurements`.
//!
//! An entry is the PCR's number, the SHA-1 of its data, the length and the name of its template, and the
//! length of its data and the data, which are fields with their lengths. Numbers have 32 bits in the byte
//! order of the host. Because every length is explicit, the name of a file cannot make one entry look like
//! another.
//!
//! The list is untrusted and long. It is verified against the quoted PCR 10, which proves the first entries
//! up to the moment of the quote; the host continues to measure after it. Formats: the kernel's
//! Documentation/security/IMA-templates.rst, and `ima_measurements_show()` in
//! security/integrity/ima/ima_fs.c.

pub(super) mod entry;
mod list;
#[cfg(test)]
pub(crate) mod sample_list;

pub use entry::{EntryError, ImaEntry, parse_entry};
pub use list::{MeasurementList, ProvenEntries};

pub use super::byte_reader::ByteOrder;
