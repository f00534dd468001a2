//! `hostbadge clock show|accept`.

use std::process::ExitCode;

use clap::Subcommand;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::table::KeyValueTable;
use crate::wire::clock::{ClockStatus, ClockSync};

#[derive(Subcommand, Debug)]
pub(super) enum ClockSubcommand {
    /// Show whether the host's clock is synchronized, and what was made while it was ahead
    Show,
    /// Say that the host's clock is right now (root only): revoke the certificates that were issued while it
    /// was ahead. The daemon does this by itself where the kernel regards the clock as synchronized
    Accept,
}

pub(super) async fn run(common: &CommonArgs, subcommand: &ClockSubcommand) -> Result<ExitCode, CliError> {
    let reply = match subcommand {
        ClockSubcommand::Show => client::get::<ClockStatus>(&common.admin_socket, "/v1/clock").await?,
        ClockSubcommand::Accept => client::post_empty(&common.admin_socket, "/v1/clock/accept").await?,
    };
    if common.json {
        return print_json(&reply.raw);
    }
    let mut table = KeyValueTable::default();
    table.add("time", reply.body.time.to_string());
    for line in clock_lines(&reply.body) {
        table.add("clock", line);
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

/// The clock in a few lines, each with what to do.
pub(super) fn clock_lines(clock: &ClockStatus) -> Vec<String> {
    let is_synchronized = clock.sync == ClockSync::Synchronized;
    let mut first = clock.sync.to_string();
    if clock.accepted && !is_synchronized {
        first += ", accepted by an administrator";
    }
    if clock.required && !is_synchronized {
        first += "; nothing is issued, because [clock] require_synchronized is set";
    }
    let mut lines = vec![first];
    if let Some(latest) = clock.behind {
        lines.push(format!(
            "it is behind a time that it has had, {latest}: grants with hours do not count, and expired ones stay \
             so; if it is right now: hostbadge clock accept"
        ));
    }
    if clock.future_certificates > 0 {
        let remedy = match clock.accepted || is_synchronized {
            true => "they are being revoked",
            false => "if the clock is right now: hostbadge clock accept",
        };
        lines.push(format!(
            "certificates that were issued while it was ahead: {}; {remedy}",
            clock.future_certificates
        ));
    }
    if clock.future_keys > 0 {
        lines.push(format!(
            "keys that were made or changed while it was ahead: {}; they are replaced as hostbadge key list shows, \
             or at once by hostbadge key rotate --now",
            clock.future_keys
        ));
    }
    lines
}
