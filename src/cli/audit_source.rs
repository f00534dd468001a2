//! Where an export gets records from: the log's files, or the daemon.

use std::path::PathBuf;

use super::audit_filters::FilterArgs;
use super::audit_unreadable::{as_in_responses, seq_of};
use super::client;
use super::common::CommonArgs;
use super::error::CliError;
use crate::audit::{self, AuditQuery, PageStart, read_page, sync_record};
use crate::wire::admin::{AuditResponse, MAX_AUDIT_RECORDS, MissingRecords};
use crate::wire::status::StatusResponse;

/// Where the records come from.
pub(super) struct Source<'a> {
    pub(super) common: &'a CommonArgs,
    pub(super) filters: &'a FilterArgs,
    /// The directory of the log, where this process may read it.
    pub(super) dir: Option<PathBuf>,
    /// Whether the directory is not that of the daemon.
    pub(super) is_copy: bool,
}

impl Source<'_> {
    /// The number of the log's last record; 0 for a log without records.
    pub(super) async fn last_seq(&self) -> Result<u64, CliError> {
        match self.dir.clone().filter(|_| self.is_copy) {
            Some(dir) => {
                let last = tokio::task::spawn_blocking(move || audit::last_seq(&dir)).await;
                last.map_err(CliError::local)?.map_err(CliError::local)
            }
            None => {
                let status = client::get::<StatusResponse>(&self.common.admin_socket, "/v1/status").await?;
                Ok(status.body.audit.last_seq)
            }
        }
    }

    /// The record with this number, whatever the filters.
    pub(super) async fn record(&self, seq: u64) -> Result<Option<String>, CliError> {
        let after = seq.saturating_sub(1);
        let page = match self.dir.clone() {
            Some(dir) => {
                let query = AuditQuery { start: PageStart::After(after), ..AuditQuery::default() };
                let read = tokio::task::spawn_blocking(move || read_page(&dir, &query, 1)).await;
                read.map_err(CliError::local)?.map_err(CliError::local)?.records
            }
            None => {
                let path = format!("/v1/audit?limit=1&after={after}");
                client::get::<AuditResponse>(&self.common.admin_socket, &path).await?.body.records
            }
        };
        Ok(page.first().map(|line| line.get().to_owned()).filter(|line| seq_of(line) == Some(seq)))
    }

    /// The records after a number, as many as fit a page.
    pub(super) async fn page(&self, after: u64) -> Result<AuditResponse, CliError> {
        let Some(dir) = self.dir.clone() else {
            let path = self.filters.path(&format!("limit={MAX_AUDIT_RECORDS}&after={after}"));
            return Ok(client::get(&self.common.admin_socket, &path).await?.body);
        };
        let query = AuditQuery { start: PageStart::After(after), ..self.filters.query()? };
        let is_copy = self.is_copy;
        let read = tokio::task::spawn_blocking(move || {
            let page = read_page(&dir, &query, MAX_AUDIT_RECORDS.into())?;
            // After a power loss, the daemon gives the numbers of records that were lost to others, which a cursor
            // beyond them would leave out.
            if let Some(last) = page.last.filter(|_| !is_copy) {
                sync_record(&dir, last)?;
            }
            Ok::<_, std::io::Error>(page)
        });
        let page = read.await.map_err(CliError::local)?.map_err(CliError::local)?;
        Ok(AuditResponse {
            records: page.records,
            first: page.first,
            last: page.last,
            more: page.has_more,
            missing: MissingRecords::from_ranges(page.missing.iter().map(|range| (range.from, range.to))),
            unreadable: as_in_responses(&page.unreadable),
        })
    }
}
