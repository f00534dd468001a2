//! Numbers in the columns of a database, and values in the digests of its rows.

use rusqlite::Row;

/// A number of a column, 0 for NULL. SQLite's integers are signed; those of the databases are not negative.
///
/// # Errors
/// A value that is no number, or a negative one.
pub(super) fn number(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    Ok(optional_number(row, index)?.unwrap_or_default())
}

/// A number of a column; `None` for NULL.
///
/// # Errors
/// As [`number`].
pub(super) fn optional_number(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<u64>> {
    let value: Option<i64> = row.get(index)?;
    let unsigned =
        |value: i64| u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value));
    value.map(unsigned).transpose()
}

/// A number as SQLite stores it.
///
/// # Errors
/// A number above 2^63 - 1.
pub(super) fn signed(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
}

/// Appends a value with its length, so that no value can look like two.
pub(super) fn append(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
    bytes.extend_from_slice(value);
}
