//! Wire types of keys.

use crate::issue::{self, KeyReport};
use crate::risk::RiskClass;
use crate::wire::keys::{Key, KeyKind, KeyRisk, KeyState, NextStep, RotateResponse, RotationOutcome};

impl From<&KeyReport> for Key {
    fn from(report: &KeyReport) -> Self {
        Key {
            kid: report.kid.clone(),
            kind: match report.kind {
                issue::KeyKind::Issuing => KeyKind::Issuing,
                issue::KeyKind::Host => KeyKind::Host,
                issue::KeyKind::Rsa => KeyKind::Rsa,
                issue::KeyKind::HostCaRoot => KeyKind::HostCaRoot,
                issue::KeyKind::IssuingCa => KeyKind::IssuingCa,
                issue::KeyKind::KeyEncryption => KeyKind::KeyEncryption,
                issue::KeyKind::TenantKeyEncryption => KeyKind::TenantKeyEncryption,
                issue::KeyKind::Erasure => KeyKind::Erasure,
            },
            tenant: report.tenant.clone(),
            alg: report.alg.to_owned(),
            state: match report.state {
                issue::KeyState::Generated => KeyState::Generated,
                issue::KeyState::Active => KeyState::Active,
                issue::KeyState::Published => KeyState::Published,
                issue::KeyState::Retired => KeyState::Retired,
                issue::KeyState::Destroyed => KeyState::Destroyed,
                issue::KeyState::Revoked => KeyState::Revoked,
            },
            created: report.created,
            since: report.since,
            next: report.next.as_ref().map(|next| NextStep { step: next.step.to_owned(), at: next.at }),
            risk: Some(match report.risk {
                RiskClass::High => KeyRisk::High,
                RiskClass::Moderate => KeyRisk::Moderate,
                RiskClass::Low => KeyRisk::Low,
            }),
            rotate_every: report.rotate_every.map(|interval| interval.as_secs()),
            note: report.note.map(str::to_owned),
            endorsement: report.endorsement.clone(),
        }
    }
}

impl From<issue::RotationResult> for RotateResponse {
    fn from(result: issue::RotationResult) -> Self {
        RotateResponse {
            outcome: match result.outcome {
                issue::RotationOutcome::Published => RotationOutcome::Published,
                issue::RotationOutcome::AlreadyPublished => RotationOutcome::AlreadyPublished,
                issue::RotationOutcome::Activated => RotationOutcome::Activated,
            },
            kid: Some(result.kid),
            active_from: Some(result.active_from),
            retired: result.retired,
            destroyed_early: result.destroyed_early,
        }
    }
}
