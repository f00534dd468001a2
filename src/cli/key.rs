//! `hostbadge key list|rotate|recovery|recover|accept`.

use std::process::ExitCode;

use clap::Subcommand;
use zeroize::Zeroizing;

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::OutputArgs;
use super::output::print_line;
use super::recovery_key::create_recovery_key;
use super::table::{KeyValueTable, print_columns};
use super::{client, prompt};
use crate::clock::Timestamp;
use crate::config::escape_unprintable;
use crate::wire::admin::DoneResponse;
use crate::wire::keys::{
    Key, KeyKind, KeysResponse, RecoverRequest, RotateRequest, RotateResponse, RotationOutcome,
};

const ROTATED_NOW_NOTICE: &str = "Relying parties that hold an uploaded key set refuse the tokens of the \
                                  new key until they get the new set: hostbadge export jwks";
const CA_NOTICE: &str = "Relying parties need nothing new: chains contain the issuing CA. Certificates of the \
                         previous one stay valid until they expire";
const ROTATION_NOTICE: &str =
    "Give relying parties that hold an uploaded key set the new one before then: hostbadge export jwks";
const STARTED_NOTICE: &str = "The TPM makes the key, which takes it up to a minute; then the rotation goes on by itself. \
                              hostbadge key list shows when the key signs";

#[derive(Subcommand, Debug)]
pub(super) enum KeySubcommand {
    /// List all keys of this host with their states, times, risk classes and intervals, and the next step of each
    List,
    /// Publish the next issuing key; it signs after `[keys] publish_before` (24 hours by default)
    Rotate {
        /// Make the next key sign at once. Relying parties that hold an uploaded key set refuse its tokens
        /// until they get the new set
        #[arg(long)]
        now: bool,

        /// Rotate the key of this tenant, and no other [default: that of agents without a tenant]
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,

        /// Make the next issuing CA of certificates in place of an issuing key. It signs at once, and
        /// certificates of the previous one stay valid
        #[arg(long, conflicts_with_all = ["now", "tenant"])]
        ca: bool,

        /// Rotate the RSA key, which signs RS256 in the TPM, in place of an issuing key
        #[arg(long, conflicts_with_all = ["tenant", "ca"])]
        rsa: bool,
    },
    /// Create a recovery key and print it once (root only). It opens this host's keys after a firmware update
    /// or on another TPM. Once it was written completely, and on a terminal once its first group was typed,
    /// it is in force and invalidates the previous recovery key, which otherwise stays valid
    Recovery(OutputArgs),
    /// Open this host's keys with the recovery key (read from standard input) and seal them to the present
    /// TPM (root only)
    Recover {
        /// Also accept the state directory if it is not the latest of this host
        #[arg(long)]
        accept: bool,
    },
    /// Accept the state directory after an older copy of it was restored (root only)
    Accept,
}

impl KeySubcommand {
    /// Whether the result goes to standard output.
    pub(super) fn prints_result(&self) -> bool {
        match self {
            KeySubcommand::Recovery(output) => !output.is_file(),
            _ => true,
        }
    }
}

pub(super) async fn run(common: &CommonArgs, subcommand: &KeySubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        KeySubcommand::List => list(common).await,
        KeySubcommand::Rotate { now, tenant, ca, rsa } => {
            let request = RotateRequest { now: *now, tenant: tenant.clone(), ca: *ca, rsa: *rsa };
            rotate(common, request).await
        }
        KeySubcommand::Recovery(output) => create_recovery_key(common, output).await,
        KeySubcommand::Recover { accept } => recover(common, *accept).await,
        KeySubcommand::Accept => accept(common).await,
    }
}

async fn list(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let reply = client::get::<KeysResponse>(&common.admin_socket, "/v1/keys").await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let keys = reply.body;
    let mut columns = vec!["KID", "KIND", "ALG", "STATE", "SINCE", "CREATED", "RISK", "EVERY", "NEXT", "AT"];
    let mut rows: Vec<Vec<String>> = keys.keys.iter().map(row).collect();
    if keys.keys.iter().any(|key| key.tenant.is_some()) {
        columns.insert(0, "TENANT");
        for (row, key) in rows.iter_mut().zip(&keys.keys) {
            row.insert(0, key.tenant.clone().unwrap_or_else(|| "-".into()));
        }
    }
    print_columns(&columns, &rows)?;
    for (kind, note) in notes(&keys.keys) {
        print_line(format_args!("{kind}: {}", escape_unprintable(note)))?;
    }
    if let Some(reason) = &keys.blocked_reason {
        print_line(format_args!("A step that is due is delayed: {}", escape_unprintable(reason)))?;
    }
    if let Some(reason) = &keys.rsa_blocked_reason {
        print_line(format_args!("RS256: {}", escape_unprintable(reason)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(key: &Key) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let time = |at: Option<Timestamp>| or_dash(at.map(|at| at.to_string()));
    vec![
        key.kid.clone(),
        key.kind.to_string(),
        key.alg.clone(),
        key.state.to_string(),
        time(key.since),
        time(key.created),
        or_dash(key.risk.map(|risk| risk.to_string())),
        or_dash(key.rotate_every.map(interval)),
        or_dash(key.next.as_ref().map(|next| next.step.clone())),
        time(key.next.as_ref().map(|next| next.at)),
    ]
}

/// An interval in the largest unit that divides it.
fn interval(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(31_557_600, "y"), (86_400, "d"), (3600, "h"), (60, "m")];
    match UNITS.into_iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

/// What is said of each kind of key that does not rotate by itself, once.
fn notes(keys: &[Key]) -> Vec<(KeyKind, &str)> {
    let mut notes: Vec<(KeyKind, &str)> = Vec::new();
    for key in keys {
        if let Some(note) = &key.note
            && !notes.iter().any(|(kind, _)| *kind == key.kind)
        {
            notes.push((key.kind, note));
        }
    }
    notes
}

async fn rotate(common: &CommonArgs, request: RotateRequest) -> Result<ExitCode, CliError> {
    let reply = client::post::<RotateResponse>(&common.admin_socket, "/v1/keys/rotate", &request).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    let rotation = reply.body;
    let mut table = KeyValueTable::default();
    match rotation.outcome {
        RotationOutcome::Activated => {
            table.add_some("signs now", rotation.kid);
            table.add_some("retired", rotation.retired);
            table.add_some("destroyed early", rotation.destroyed_early);
        }
        RotationOutcome::AlreadyPublished => {
            table.add_some("already published", rotation.kid);
            table.add_some("signs from", rotation.active_from.map(|at| at.to_string()));
        }
        RotationOutcome::Published => {
            table.add_some("published", rotation.kid);
            table.add_some("signs from", rotation.active_from.map(|at| at.to_string()));
        }
        RotationOutcome::Started => {
            print_line(STARTED_NOTICE)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    table.print()?;
    print_line(match (request.ca, request.now) {
        (true, _) => CA_NOTICE,
        (false, true) => ROTATED_NOW_NOTICE,
        (false, false) => ROTATION_NOTICE,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Opens the keys with the recovery key; also the first step of `hostbadge posture accept --recovery`.
pub(super) async fn recover_keys(common: &CommonArgs, accept: bool) -> Result<DoneResponse, CliError> {
    let recovery_key = Zeroizing::new(prompt::read_recovery_key()?.trim().to_owned());
    let request = RecoverRequest { recovery_key, accept };
    Ok(client::post(&common.admin_socket, "/v1/keys/recover", &request).await?.body)
}

async fn recover(common: &CommonArgs, accept: bool) -> Result<ExitCode, CliError> {
    let done = recover_keys(common, accept).await?;
    print_done(common, &done, "The keys are open and sealed to the present state of this TPM.")
}

async fn accept(common: &CommonArgs) -> Result<ExitCode, CliError> {
    let done = client::post_empty::<DoneResponse>(&common.admin_socket, "/v1/keys/accept").await?.body;
    let message = "The state directory was accepted. Keys that were retired since that copy was made may sign \
                   again: hostbadge key rotate --now";
    print_done(common, &done, message)
}

fn print_done(common: &CommonArgs, done: &DoneResponse, message: &str) -> Result<ExitCode, CliError> {
    if common.json {
        return print_json(done);
    }
    print_line(message)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_the_unit_of_the_configuration_file() {
        for (seconds, text) in
            [(31_557_600, "1y"), (2_592_000, "30d"), (43_200, "12h"), (90, "90s"), (120, "2m"), (0, "0s")]
        {
            assert_eq!(interval(seconds), text);
        }
    }
}
