//! A record as an entry of the journal, with a message for administrators.

use super::super::event::Event;
use super::super::journal::JournalEntry;
use super::super::text::BoundedText;
use super::{Record, from_caller};
use crate::clock::Timestamp;
use crate::policy::ErrorCode;

impl<'a> Record<'a> {
    /// Returns the journal entry.
    pub(in crate::audit) fn journal_entry(&self) -> Box<JournalEntry> {
        let unit = self.peer.and_then(|peer| peer.unit.as_deref()).map(from_caller);
        Box::new(JournalEntry {
            agent: self.agent.map(|agent| agent.cut().into()),
            audience: self.audience.map(|audience| audience.cut().into()),
            jti: self.jti.map(|jti| jti.cut().into()),
            reason: self.reason.map(ErrorCode::as_str),
            pid: self.peer.map(|peer| peer.pid),
            uid: self.peer.map(|peer| peer.uid),
            correlation: self.request.map(|request| request.correlation),
            unit: unit.map(|unit| unit.cut().into_owned()),
            ..*JournalEntry::new(self.event.level(), Some(self.event), self.message())
        })
    }

    /// How many refusals before this one have no entry.
    fn suppressed_note(&self) -> String {
        match self.suppressed {
            0 => String::new(),
            n => format!("; and {n} more since the last entry"),
        }
    }

    /// Returns the message for administrators.
    fn message(&self) -> String {
        let caller = self.peer.map_or(String::new(), |peer| {
            let unit = peer.unit.as_deref().map(from_caller);
            let unit = unit.map(|unit| format!(", {}", unit.cut())).unwrap_or_default();
            format!(" (pid {}, uid {}{unit})", peer.pid, peer.uid)
        });
        let text = |member: Option<BoundedText<'a>>| member.map(|text| text.cut()).unwrap_or_default();
        let agent = self.agent.map_or("no agent".into(), |agent| agent.cut());
        let detail = text(self.detail);
        match self.event {
            Event::TokenIssued => format!(
                "{agent}{caller} got a token for {}, scope \"{}\"",
                text(self.audience),
                text(self.scope)
            ),
            Event::CertificateIssued => format!(
                "{agent}{caller} got a certificate for {}, serial {}, until {}",
                text(self.spiffe_id),
                text(self.serial),
                Timestamp::from_secs(self.exp.unwrap_or_default())
            ),
            Event::CredentialReleased => {
                let how = if detail.is_empty() { String::new() } else { format!(", {detail}") };
                format!(
                    "{agent}{caller} got version {} of the credential {}{how}",
                    self.credential_version.unwrap_or_default(),
                    text(self.credential)
                )
            }
            Event::SvidIssued => {
                format!("{agent}{caller} got a SPIFFE token for {}", text(self.audience))
            }
            Event::ProofIssued => format!("{agent}{caller} got a proof: {detail}"),
            Event::WitSvidIssued => {
                format!("{agent}{caller} got a WIT-SVID for {}", text(self.spiffe_id))
            }
            Event::RequestRefused => {
                let reason = self.reason.map_or("refused", ErrorCode::as_str);
                format!("{agent}{caller} refused: {reason}: {detail}{}", self.suppressed_note())
            }
            Event::ApprovalRequested => {
                let what = match self.credential {
                    Some(credential) => format!("the credential {}", credential.cut()),
                    None => format!("a token or proof for {}", text(self.audience)),
                };
                format!(
                    "{agent}{caller} asks for {what}, and waits for an approval: hostbadge approve show {}{}",
                    text(self.approval),
                    self.suppressed_note()
                )
            }
            Event::Introspected => {
                let token_state = if self.active == Some(true) { "active" } else { "inactive" };
                let because = if detail.is_empty() { String::new() } else { format!(": {detail}") };
                format!("{agent}{caller} introspected a token: {token_state}{because}")
            }
            Event::NonceUsed => {
                let state = if self.active == Some(true) { "valid" } else { "not valid" };
                let because = if detail.is_empty() { String::new() } else { format!(": {detail}") };
                format!("{agent}{caller} used a nonce: {state}{because}")
            }
            Event::TokenRevoked if self.peer.is_some() => {
                format!("{agent}{caller} asked for the revocation of a token: {detail}")
            }
            Event::Attested => format!("{agent}{caller} got evidence, {detail}"),
            _ => detail.into_owned(),
        }
    }
}
