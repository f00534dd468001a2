//! Posture commands: show, diff, accept.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;

use super::admin::{Admin, RootAdmin};
use super::command_budget::StateCommand;
use super::error::{AdminError, NotReady};
use super::identity_service::IdentityService;
use crate::clock::BootTime;
use crate::posture::{
    Baseline, PcrReading, PcrValues, Posture, PostureAction, PostureState, changed_pcrs,
    describe_pcr_changes, pcr_digest,
};
use crate::wire::posture::{
    AcceptanceStatus, BaselineStatus, ImaStatus, PcrReadingStatus, PostureAcceptRequest, PostureDiffResponse,
    PostureResponse,
};

impl IdentityService {
    /// The host's posture with the baseline and the last reading. Where posture is off, the PCRs are read
    /// first.
    pub async fn posture_report(&self, _: &Admin) -> PostureResponse {
        self.refresh_posture_if_off().await;
        let uses_ima = self.deps.agents.current().uses_ima();
        report(&self.deps.posture, &self.deps.compared_pcrs, uses_ima, BootTime::now())
    }

    /// The differences between the baseline and the last reading. Where posture is off, the PCRs are read
    /// first.
    ///
    /// # Errors
    /// [`AdminError::NotReady`] where there is no baseline or no reading.
    pub async fn posture_diff(&self, _: &Admin) -> Result<PostureDiffResponse, AdminError> {
        self.refresh_posture_if_off().await;
        let (event_log, state) = (self.deps.event_log.clone(), self.deps.posture.clone());
        let compared = self.deps.compared_pcrs.clone();
        // Comparing two long event logs takes some milliseconds.
        let diff = move || diff(&state, &compared, event_log.read().as_deref(), BootTime::now());
        Ok(tokio::task::spawn_blocking(diff).await??)
    }

    /// Reads the PCRs and makes them the accepted baseline, if their digest is the requested one.
    ///
    /// # Errors
    /// [`AdminError::Posture`], [`AdminError::BudgetExceeded`].
    pub async fn accept_posture(
        &self,
        admin: &RootAdmin,
        request: PostureAcceptRequest,
    ) -> Result<PostureResponse, AdminError> {
        let action = PostureAction::Accept { digest: request.digest, accepted_by: admin.id() };
        let accepted = async { Ok(self.deps.posture_commands.send(action).await?) };
        self.within_budget(admin, StateCommand::AcceptPosture, accepted).await?;
        Ok(self.posture_report(admin).await)
    }

    async fn refresh_posture_if_off(&self) {
        if self.posture() == Posture::Off {
            // A failure is in the report: the reading's error.
            let _ = self.deps.posture_commands.send(PostureAction::Refresh).await;
        }
    }
}

fn report(state: &PostureState, compared: &[u8], uses_ima: bool, now: BootTime) -> PostureResponse {
    let current = state.evaluate(now);
    let snapshot = current.snapshot();
    let (reading, baseline) = (snapshot.reading.as_ref(), snapshot.baseline.as_deref());
    let changed = match (baseline, reading) {
        (Some(baseline), Some(reading)) => {
            changed_pcrs(&select_pcrs(compared, &baseline.pcrs), &reading.pcrs).collect()
        }
        _ => Vec::new(),
    };
    PostureResponse {
        mode: current.mode.into(),
        posture: current.posture.into(),
        reason: Some(current.reason()).filter(|reason| !reason.is_empty()),
        compared: compared.to_vec(),
        max_age: state.max_age().as_secs_f64(),
        baseline: baseline.map(baseline_status),
        reading: reading.map(|reading| PcrReadingStatus {
            age: current.age().unwrap_or_default().as_secs_f64(),
            ..reading_status(reading, compared)
        }),
        changed,
        error: snapshot.baseline_error.clone().or(snapshot.read_error.clone()),
        measured: uses_ima.then(|| match state.ima_digests().entry_count() {
            Ok(lines) => ImaStatus { lines, error: None },
            Err(error) => ImaStatus { lines: 0, error: Some(error.to_string()) },
        }),
    }
}

fn diff(
    state: &PostureState,
    compared: &[u8],
    event_log: Option<&[u8]>,
    now: BootTime,
) -> Result<PostureDiffResponse, NotReady> {
    let current = state.evaluate(now);
    let snapshot = current.snapshot();
    let Some(baseline) = &snapshot.baseline else {
        let reason = snapshot.baseline_error.clone();
        return Err(NotReady(reason.unwrap_or_else(|| "there is no baseline to compare with yet".into())));
    };
    let Some(reading) = &snapshot.reading else {
        let reason = snapshot.read_error.clone();
        return Err(NotReady(reason.unwrap_or_else(|| "the PCRs have not been read yet".into())));
    };
    let before = select_pcrs(compared, &baseline.pcrs);
    Ok(PostureDiffResponse {
        posture: current.posture.into(),
        digest: pcr_digest(compared, &reading.pcrs),
        changed: changed_pcrs(&before, &reading.pcrs).collect(),
        changes: describe_pcr_changes(&before, baseline.event_log.as_deref(), &reading.pcrs, event_log),
    })
}

fn baseline_status(baseline: &Baseline) -> BaselineStatus {
    BaselineStatus {
        recorded: baseline.recorded_at,
        accepted: baseline.acceptance.as_ref().map(|acceptance| AcceptanceStatus {
            at: acceptance.accepted_at,
            by: acceptance.accepted_by.clone(),
            digest: acceptance.digest.clone(),
        }),
        boot_log: baseline.event_log.is_some(),
        pcrs: hex_values(&baseline.pcrs),
    }
}

fn reading_status(reading: &PcrReading, compared: &[u8]) -> PcrReadingStatus {
    PcrReadingStatus {
        at: reading.wall_time,
        age: 0.0,
        digest: pcr_digest(compared, &reading.pcrs),
        pcrs: hex_values(&reading.pcrs),
    }
}

fn hex_values(pcrs: &PcrValues) -> BTreeMap<u8, String> {
    pcrs.iter().map(|(number, value)| (*number, HEXLOWER.encode(value))).collect()
}

fn select_pcrs(compared: &[u8], pcrs: &PcrValues) -> PcrValues {
    pcrs.iter().filter(|(number, _)| compared.contains(number)).map(|(n, value)| (*n, *value)).collect()
}
