//! The keys `proofs`, `actions` and `client_id` of a grant: which proofs an agent gets, and for which requests.

use std::collections::BTreeSet;

use serde::Serialize;
use toml::Spanned;

use super::binding::Binding;
use crate::config::{Diagnostic, SourceFile};
use crate::present::{Action, ActionPattern, ProofKind};

/// Patterns of one table.
const MAX_ACTIONS: usize = 64;
/// Length of the longest client identifier in bytes.
const MAX_CLIENT_ID_LEN: usize = 256;

/// The proofs that a grant gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProofGrant {
    /// The kinds; none where the grant gives no proofs.
    pub kinds: BTreeSet<ProofKind>,
    /// The HTTP requests that a proof may be for. A proof for an authorization server as a whole needs none.
    pub actions: Vec<ActionPattern>,
    /// The agent's identifier in client assertions and attestations; `None` where it is the agent's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

impl ProofGrant {
    /// Whether the grant gives a proof of this kind for this request.
    pub fn allows(&self, kind: ProofKind, action: &Action) -> bool {
        self.kinds.contains(&kind) && self.actions.iter().any(|pattern| pattern.matches(action))
    }

    /// Whether everything that this grant gives is given by `other`, as far as it can be shown by the patterns'
    /// texts.
    pub fn is_within(&self, other: &ProofGrant) -> bool {
        self.client_id == other.client_id
            && self.kinds.is_subset(&other.kinds)
            && self.actions.iter().all(|action| other.actions.contains(action))
    }
}

/// The keys as written.
pub(super) struct RawProofs {
    pub proofs: Option<Spanned<Vec<Spanned<String>>>>,
    pub actions: Option<Vec<Spanned<String>>>,
    pub client_id: Option<Spanned<String>>,
}

impl RawProofs {
    /// Checks the keys and appends their faults. Without `proofs`, a grant whose tokens are bound to a proof key gives
    /// DPoP proofs. Without `actions`, proofs are for each method and for the audience, if it is a URL, and everything
    /// below it.
    pub(super) fn validate(
        self,
        audience: &str,
        bind: Option<&Spanned<Binding>>,
        source: &SourceFile,
        faults: &mut Vec<Diagnostic>,
    ) -> ProofGrant {
        let binding = bind.map_or(Binding::None, |bind| *bind.get_ref());
        let span = self.proofs.as_ref().map(Spanned::span);
        let kinds: BTreeSet<ProofKind> = match self.proofs {
            Some(kinds) => {
                kinds.into_inner().iter().filter_map(|kind| parse_kind(kind, source, faults)).collect()
            }
            None if binding == Binding::Dpop => BTreeSet::from([ProofKind::Dpop]),
            None => BTreeSet::new(),
        };
        if let Some(span) = &span
            && binding == Binding::Dpop
            && !kinds.contains(&ProofKind::Dpop)
        {
            let message = "tokens with bind = \"dpop\" cannot be used without DPoP proofs; add \"dpop\"";
            faults.push(source.diagnostic(span.clone(), message));
        }
        let client_id = self.client_id.map(|client_id| {
            let (span, client_id) = (client_id.span(), client_id.into_inner());
            if !is_client_id(&client_id) {
                let message =
                    format!("client_id must have 1 to {MAX_CLIENT_ID_LEN} visible ASCII characters");
                faults.push(source.diagnostic(span, message));
            } else if kinds.iter().all(|kind| kind.is_for_action()) {
                let message = "client_id is for client assertions and attestations; add \"client-assertion\" to \
                               proofs, or remove it";
                faults.push(source.diagnostic(span, message));
            }
            client_id
        });
        let is_for_actions = kinds.iter().any(|kind| kind.is_for_action());
        let Some(written) = self.actions else {
            let below_audience = default_actions(audience);
            if below_audience.is_empty()
                && is_for_actions
                && let Some(span) = span.or(bind.map(Spanned::span))
            {
                let message = "the audience is no URL, so actions has to say which requests these proofs are for, as \
                               in actions = [\"POST https://api.example.com/v1/*\"]";
                faults.push(source.diagnostic(span, message));
            }
            let actions = if is_for_actions { below_audience } else { Vec::new() };
            return ProofGrant { kinds, actions, client_id };
        };
        if !is_for_actions && let Some(first) = written.first() {
            let message =
                "no proof of this grant is for a request; add its kind to proofs, or remove actions";
            faults.push(source.diagnostic(first.span(), message));
        }
        ProofGrant { kinds, actions: parse_actions(written, source, faults), client_id }
    }
}

/// The patterns of the key `actions`, with their faults.
pub(super) fn parse_actions(
    written: Vec<Spanned<String>>,
    source: &SourceFile,
    faults: &mut Vec<Diagnostic>,
) -> Vec<ActionPattern> {
    if let Some(excess) = written.get(MAX_ACTIONS) {
        faults
            .push(source.diagnostic(excess.span(), format!("more than {MAX_ACTIONS} actions in one table")));
    }
    let mut actions = Vec::new();
    for text in written {
        match ActionPattern::parse(text.get_ref()) {
            Ok(action) if actions.contains(&action) => {
                faults.push(source.diagnostic(text.span(), "duplicate action; remove one"));
            }
            Ok(action) => actions.push(action),
            Err(e) => faults.push(source.diagnostic(text.span(), e.to_string())),
        }
    }
    actions
}

fn is_client_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_CLIENT_ID_LEN && text.bytes().all(|b| b.is_ascii_graphic())
}

fn parse_kind(
    text: &Spanned<String>,
    source: &SourceFile,
    faults: &mut Vec<Diagnostic>,
) -> Option<ProofKind> {
    match ProofKind::from_name(text.get_ref()) {
        Some(kind) if kind.needs_credential() => {
            let message =
                "a sealed access key makes these proofs: write a [[credential]] with use = \"sign\"";
            faults.push(source.diagnostic(text.span(), message));
            None
        }
        Some(kind) => Some(kind),
        None => {
            let kinds: Vec<&str> = ProofKind::ALL
                .into_iter()
                .filter(|kind| !kind.needs_credential())
                .map(ProofKind::as_str)
                .collect();
            let message = format!("unknown kind of proof; the kinds are {}", kinds.join(", "));
            faults.push(source.diagnostic(text.span(), message));
            None
        }
    }
}

/// Each method, for the audience and everything below it; nothing where it is no URL that a request can have.
fn default_actions(audience: &str) -> Vec<ActionPattern> {
    let below = format!("{}/*", audience.trim_end_matches('/'));
    [audience, &below].iter().filter_map(|url| ActionPattern::parse(&format!("* {url}")).ok()).collect()
}
