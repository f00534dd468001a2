//! Second phase: loads or creates the keys, retrying until it succeeds or the administrator has changed what
//! to load.

use std::future::Future;

use tokio::sync::mpsc;

use super::context::{IssuerContext, IssuerDeps, LOAD_RETRY_DELAY};
use super::recovery::{Recovered, handle_command};
use super::rotation::tenants_of;
use super::rsa_key;
use crate::daemon::pcr_changes;
use crate::issue::{self, IssuerState, KeyCommand, LoadedKeys};
use crate::keystore;
use crate::tpm::{self, Tpm};
use crate::wire::status::TpmDescription;

/// How the phase ended.
pub(super) enum StartupOutcome {
    /// The keys are loaded and the issuer is ready.
    Ready(Box<LoadedKeys>),
    /// The administrator recovered the keys onto this TPM, which is to be used from now on.
    Migrated(Tpm),
    /// The TPM is to be opened again with the objects that are on disk.
    Reopen,
    /// The daemon stops.
    Stopped,
}

/// Runs the phase. Executes key commands while it waits for the next attempt.
pub(super) async fn load_keys(
    context: &IssuerContext,
    tpm: &Tpm,
    commands: &mut mpsc::Receiver<KeyCommand>,
) -> StartupOutcome {
    loop {
        match try_load(context, tpm).await {
            Ok((issuer_state, loaded)) => {
                announce_ready(context, tpm, issuer_state, &loaded).await;
                return StartupOutcome::Ready(Box::new(loaded));
            }
            // The TPM's state names the cause and the remedy; the next attempt follows a change of that
            // state.
            Err(issue::Error::Tpm(e)) if is_tpm_unavailable(&e) => {
                context.report_blocked(None);
                context.startup.complete();
                let mut state = tpm.state();
                state.mark_unchanged();
                if let Some(outcome) = wait_for_retry(context, tpm, commands, state.changed()).await {
                    return outcome;
                }
            }
            Err(e) => {
                let changes = describe_cause(context, tpm, &e).await;
                context.report_blocked(Some(format!("{e}{changes}")));
                context.startup.complete();
                if let Some(outcome) =
                    wait_for_retry(context, tpm, commands, std::future::pending::<()>()).await
                {
                    return outcome;
                }
            }
        }
    }
}

async fn try_load(context: &IssuerContext, tpm: &Tpm) -> Result<(IssuerState, LoadedKeys), issue::Error> {
    let IssuerDeps { state_dir, issuer_config, rotation_policy, seal_pcrs, clock, .. } = &context.deps;
    let mut loaded =
        issue::load_or_create_keys(tpm, state_dir, issuer_config, *rotation_policy, seal_pcrs, clock).await?;
    // Before the first request, so that the published key set is complete from the start.
    rsa_key::load(context, tpm, &mut loaded.keys).await;
    make_keys_of_tenants(context, tpm, &mut loaded).await;
    Ok((loaded.keys.issuer_state()?, loaded))
}

/// Makes the keys of tenants that have none, so that their agents get tokens from the start. If it fails, the
/// next phase does it, and reports the error.
async fn make_keys_of_tenants(context: &IssuerContext, tpm: &Tpm, loaded: &mut LoadedKeys) {
    let Some(named) = tenants_of(&context.deps.agents.current()) else { return };
    if context.deps.audit.ensure_writable().is_ok()
        && let Ok(events) = loaded.keys.make_keys_of_tenants(tpm, &named).await
    {
        loaded.changes.extend(events);
    }
}

async fn announce_ready(context: &IssuerContext, tpm: &Tpm, issuer_state: IssuerState, loaded: &LoadedKeys) {
    if let Ok(facts) = tpm.info().await {
        context.status.tpm_info.send_replace(Some(TpmDescription {
            manufacturer: facts.manufacturer,
            vendor: facts.vendor,
            firmware: facts.firmware,
            ek_certificate: facts.ek_certificate.is_some(),
            ek_certificate_fault: facts.ek_certificate_fault.map(|fault| fault.to_string()),
            ak_name: facts.ak_name,
        }));
    }
    let key = issuer_state.own().signing_kid().to_owned();
    let host = issuer_state.host().clone();
    context.status.keystore.send_replace(Some(loaded.keys.keystore().clone()));
    context.deps.issuer.set_state(issuer_state);
    context.report_blocked(None);
    tracing::info!(
        event = "issuer-ready",
        "host {} issues as {} with key {key}, guarded by a {} TPM",
        host.id,
        host.issuer,
        host.tpm_kind()
    );
    context.startup.complete();
}

/// Waits for the retry delay or for `wakeup`, and executes a command that arrives meanwhile. `None` for
/// another attempt.
async fn wait_for_retry<T>(
    context: &IssuerContext,
    tpm: &Tpm,
    commands: &mut mpsc::Receiver<KeyCommand>,
    wakeup: impl Future<Output = T>,
) -> Option<StartupOutcome> {
    tokio::select! {
        () = context.stop.cancelled() => Some(StartupOutcome::Stopped),
        _ = wakeup => None,
        () = tokio::time::sleep(LOAD_RETRY_DELAY) => None,
        Some(command) = commands.recv() => {
            handle_command(context, tpm, command).await.map(|recovered| match recovered {
                Recovered::Migrated(tpm) => StartupOutcome::Migrated(tpm),
                Recovered::Reopen => StartupOutcome::Reopen,
            })
        }
    }
}

/// Which measurements changed, if that is why the keys do not open; else empty.
async fn describe_cause(context: &IssuerContext, tpm: &Tpm, error: &issue::Error) -> String {
    let issue::Error::Keystore(keystore::Error::PcrsChanged { sealed_to, .. }) = error else {
        return String::new();
    };
    let IssuerDeps { state_dir, event_log, .. } = &context.deps;
    pcr_changes::describe_changes_since_seal(tpm, state_dir, event_log, sealed_to).await
}

/// Whether the TPM's named state already explains the error.
fn is_tpm_unavailable(error: &tpm::Error) -> bool {
    matches!(error, tpm::Error::NotReady(_) | tpm::Error::DeadlineExceeded(_) | tpm::Error::QueueFull)
}
