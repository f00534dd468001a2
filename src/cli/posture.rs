//! `hostbadge posture show|accept|diff`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::client::Reply;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;
use super::table::{KeyValueTable, print_columns};
use super::{client, key};
use crate::config::escape_unprintable;
use crate::wire::posture::{PostureAcceptRequest, PostureDiffResponse, PostureResponse};

/// Interval and number of attempts while the keystore opens: 10 s in total.
const UNLOCK_POLL_INTERVAL: Duration = Duration::from_millis(250);
const UNLOCK_POLL_ATTEMPTS: u32 = 40;

#[derive(Subcommand, Debug)]
pub(super) enum PostureSubcommand {
    /// Show the present state of the host and the baseline that it is compared with
    Show,
    /// Accept the present state as the baseline (root only); examine the changes first with `hostbadge
    /// posture diff`
    Accept {
        /// First open this host's keys with the recovery key (read from standard input) and seal them to the
        /// present state: after an update that changed PCRs of `[seal] pcrs`
        #[arg(long)]
        recovery: bool,
        /// Digest of the state that was examined with `hostbadge posture show` or `diff`; any other state is
        /// refused. Without it, the command shows the present state and accepts that
        #[arg(long, value_name = "DIGEST")]
        digest: Option<String>,
    },
    /// Show the differences from the baseline, explained where the boot event log allows it
    Diff,
}

pub(super) async fn run(common: &CommonArgs, subcommand: &PostureSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        PostureSubcommand::Show => show(common).await,
        PostureSubcommand::Accept { recovery, digest } => accept(common, *recovery, digest.as_deref()).await,
        PostureSubcommand::Diff => diff(common).await,
    }
}

async fn show(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = get_posture(common).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print_state(&reply.body)?;
    Ok(ExitCode::SUCCESS)
}

async fn accept(common: &CommonArgs, recovery: bool, digest: Option<&str>) -> Result<ExitCode, CliError> {
    let reply = if recovery {
        key::recover_keys(common, false).await?;
        accept_once_unlocked(common, digest).await?
    } else {
        accept_state(common, digest).await?
    };
    if common.json {
        return print_json(&reply.raw);
    }
    match digest {
        Some(_) => print_state(&reply.body)?,
        // The PCRs were printed before they were accepted.
        None => print_summary(&reply.body)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn diff(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::get::<PostureDiffResponse>(&common.admin_socket, "/v1/posture/diff").await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let diff = reply.body;
    if diff.changes.is_empty() {
        print_line("Nothing changed from the baseline.")?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in &diff.changes {
        print_line(escape_unprintable(change))?;
    }
    let digest = escape_unprintable(&diff.digest);
    print_line(format_args!("To accept this state: hostbadge posture accept --digest {digest}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn get_posture(common: &CommonArgs) -> Result<Reply<PostureResponse>, CliError> {
    client::get(&common.admin_socket, "/v1/posture").await
}

/// Accepts the state with this digest, or else the state that it shows. The daemon refuses any other state.
async fn accept_state(common: &CommonArgs, digest: Option<&str>) -> Result<Reply<PostureResponse>, CliError> {
    let digest = match digest {
        Some(digest) => digest.to_owned(),
        None => {
            let posture = get_posture(common).await?.body;
            let Some(reading) = &posture.reading else {
                let unread = || "the PCRs have not been read yet".to_owned();
                return Err(CliError::unavailable(posture.error.unwrap_or_else(unread)));
            };
            let digest = reading.digest.clone();
            if !common.json {
                print_state(&posture)?;
                print_line("")?;
            }
            digest
        }
    };
    client::post(&common.admin_socket, "/v1/posture/accept", &PostureAcceptRequest { digest }).await
}

/// The baseline is stored through the keystore, which opens a moment after the recovery.
async fn accept_once_unlocked(
    common: &CommonArgs,
    digest: Option<&str>,
) -> Result<Reply<PostureResponse>, CliError> {
    for _ in 0..UNLOCK_POLL_ATTEMPTS {
        match accept_state(common, digest).await {
            Err(CliError::Unavailable(_)) => tokio::time::sleep(UNLOCK_POLL_INTERVAL).await,
            result => return result,
        }
    }
    accept_state(common, digest).await
}

fn print_state(posture: &PostureResponse) -> Result<(), CliError> {
    print_summary(posture)?;
    let rows: Vec<Vec<String>> = posture.compared.iter().map(|pcr| pcr_row(posture, *pcr)).collect();
    print_columns(&["PCR", "BASELINE", "NOW", ""], &rows)
}

fn print_summary(posture: &PostureResponse) -> Result<(), CliError> {
    let mut table = KeyValueTable::default();
    let reason = posture.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    table.add("posture", format!("{}{reason}", posture.posture));
    table.add("mode", posture.mode.to_string());
    match &posture.baseline {
        None => table.add("baseline", "none"),
        Some(baseline) => match &baseline.accepted {
            None => table.add(
                "baseline",
                format!("recorded {}, not accepted yet: hostbadge posture accept", baseline.recorded),
            ),
            Some(accepted) => {
                table.add("baseline", format!("accepted {} by {}", accepted.at, accepted.by));
                table.add("digest", &accepted.digest);
            }
        },
    }
    if let Some(reading) = &posture.reading {
        table.add("read", format!("{} ({:.0} s ago)", reading.at, reading.age));
        table.add("digest now", &reading.digest);
    }
    table.add_some("error", posture.error.as_ref());
    if let Some(measured) = &posture.measured {
        let proven = || format!("proven lines of the IMA list: {}", measured.lines);
        table.add("measured", measured.error.clone().unwrap_or_else(proven));
    }
    table.print()
}

fn pcr_row(posture: &PostureResponse, pcr: u8) -> Vec<String> {
    let value = |pcrs: Option<&String>| pcrs.cloned().unwrap_or_else(|| "-".into());
    let baseline = posture.baseline.as_ref().and_then(|baseline| baseline.pcrs.get(&pcr));
    let reading = posture.reading.as_ref().and_then(|reading| reading.pcrs.get(&pcr));
    let verdict = if posture.changed.contains(&pcr) { "changed" } else { "" };
    vec![pcr.to_string(), value(baseline), value(reading), verdict.to_owned()]
}
