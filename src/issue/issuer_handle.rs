//! The handle to the current [`IssuerState`], which lacks what is revoked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::issuer::IssuerState;
use crate::mutex::lock;
use crate::revocation::RevocationSet;

/// A handle to the current [`IssuerState`]. Cheap to clone. Without a state nothing is issued.
#[derive(Clone, Debug, Default)]
pub struct Issuer(Arc<IssuerShared>);

#[derive(Debug, Default)]
struct IssuerShared {
    /// What requests are served from.
    state: ArcSwapOption<IssuerState>,
    suspended: AtomicBool,
    source: Mutex<Source>,
    /// Greater after each change of the served state.
    generation: watch::Sender<u64>,
}

/// What the served state is made from.
#[derive(Debug, Default)]
struct Source {
    /// The state with all keys, also with those that are revoked and not destroyed yet.
    complete: Option<Arc<IssuerState>>,
    revocations: Arc<RevocationSet>,
    /// How many of the keys are revoked.
    revoked: usize,
}

impl Issuer {
    /// Replaces the current state.
    pub fn set_state(&self, state: IssuerState) {
        let mut source = lock(&self.0.source);
        source.complete = Some(Arc::new(state));
        self.publish(&mut source);
    }

    /// Takes keys that are revoked from the documents, and lets them sign no more. This needs neither the disk nor
    /// the TPM.
    pub fn apply_revocations(&self, revocations: &Arc<RevocationSet>) {
        // What was revoked stays so while the revocations are not available.
        if !revocations.is_loaded() {
            return;
        }
        let mut source = lock(&self.0.source);
        source.revocations = revocations.clone();
        let complete = source.complete.as_ref();
        // The revocation of a key is never lifted, so that an equal number means the same keys.
        if complete.is_some_and(|state| state.count_revoked(revocations) != source.revoked) {
            self.publish(&mut source);
        }
    }

    fn publish(&self, source: &mut Source) {
        let Some(complete) = source.complete.clone() else { return };
        source.revoked = complete.count_revoked(&source.revocations);
        let served = match source.revoked {
            0 => Some(complete),
            _ => match complete.without_revoked(&source.revocations) {
                Ok(state) => Some(Arc::new(state)),
                Err(e) => {
                    tracing::error!(
                        "nothing is issued: the documents without the revoked keys cannot be made: {e}"
                    );
                    None
                }
            },
        };
        self.0.state.store(served);
        self.0.generation.send_modify(|generation| *generation += 1);
    }

    /// Changes with each change of the state.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// While suspended, [`Issuer::state`] is `None`; afterwards it is the previous state again.
    pub fn set_suspended(&self, suspended: bool) {
        self.0.suspended.store(suspended, Ordering::Release);
    }

    /// The current state; `None` before the first one and while suspended.
    pub fn state(&self) -> Option<Arc<IssuerState>> {
        if self.0.suspended.load(Ordering::Acquire) { None } else { self.0.state.load_full() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::error::Error;
    use super::super::host_identity::IssuerConfig;
    use super::super::issuer::IssuerKeys;
    use super::super::key::IssuingKey;
    use super::super::report::{KeyKind, KeyReport, KeyState};
    use super::super::rsa::RsaKeySet;
    use super::super::tpm_keys::TpmKeys;
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::revocation::{NewRevocation, Revocations, Target, TargetKind};
    use crate::risk::RiskClass;
    use crate::verify::Jwk;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn key() -> Arc<IssuingKey> {
        Arc::new(IssuingKey::from_pkcs8(&IssuingKey::generate().unwrap(), NOW).unwrap())
    }

    fn state(active: &Arc<IssuingKey>, published: &[Jwk], tenant: &Arc<IssuingKey>) -> IssuerState {
        state_with_rsa(active, published, tenant, RsaKeySet::default())
    }

    fn state_with_rsa(
        active: &Arc<IssuingKey>,
        published: &[Jwk],
        tenant: &Arc<IssuingKey>,
        rsa: RsaKeySet,
    ) -> IssuerState {
        let config = IssuerConfig { trust_domain: None, issuer: None };
        let host = config.host_identity("host", true);
        let tpm = TpmKeys { host_key: key().jwk().clone(), host_key_made: Some(NOW), rsa };
        let tpm_keys = tpm.jwks();
        let keys = |issuer: &str, key: &Arc<IssuingKey>, published: &[Jwk]| {
            let (issuer, published) = (issuer.to_owned(), published.to_vec());
            let keys = IssuerKeys::new("https://h", issuer, key.clone(), published, &tpm_keys, Vec::new());
            Arc::new(keys.unwrap())
        };
        let own = keys("https://h", active, published);
        let tenants = BTreeMap::from([("t".to_owned(), keys("https://t", tenant, &[tenant.jwk().clone()]))]);
        IssuerState::new(host, own, tenants, tpm, 10, Clock::manual(NOW)).unwrap()
    }

    /// Nothing is stored, so that the revocation is in effect and fails.
    async fn revoke(revocations: &Revocations, kid: &str) {
        let target = Target::new(TargetKind::Key, kid);
        let new =
            NewRevocation { target, is_blocking: true, revoked_by: String::new(), reason: String::new() };
        assert!(revocations.revoke(new).await.is_err());
    }

    #[tokio::test]
    async fn a_revoked_key_is_in_no_document_and_signs_nothing() {
        let (issuer, revocations) = (Issuer::default(), Revocations::of_test(Clock::manual(NOW)));
        let (active, other, tenant) = (key(), key(), key());
        let published = [active.jwk().clone(), other.jwk().clone()];
        issuer.set_state(state(&active, &published, &tenant));
        let has = |kid: &str| {
            let state = issuer.state().unwrap();
            let bundles = state.bundles();
            let documents = [
                &bundles.jwt_bundle,
                &bundles.wit_bundle,
                &bundles.spiffe_bundle,
                &state.own().documents().jwks,
            ];
            documents.map(|text| String::from_utf8_lossy(text).contains(kid))
        };
        assert_eq!(has(active.kid()), [true; 4]);

        revoke(&revocations, active.kid()).await;
        let mut changed = issuer.subscribe();
        issuer.apply_revocations(&revocations.current());
        assert!(changed.has_changed().unwrap());
        changed.mark_unchanged();
        assert_eq!((has(active.kid()), has(other.kid())), ([false; 4], [true; 4]));
        let served = issuer.state().unwrap();
        assert!(matches!(served.own().issuing_key(), Err(Error::KeyRevoked(kid)) if kid == active.kid()));
        assert!(served.waits_for_successor(None) && !served.waits_for_successor(Some("t")));
        let text = String::from_utf8_lossy(&served.bundles().spiffe_bundle).into_owned();
        assert!(text.contains("\"spiffe_sequence\":11"), "{text}");

        // Another scope changes nothing, and a later state lacks the key too.
        revoke(&revocations, "unknown").await;
        issuer.apply_revocations(&revocations.current());
        assert!(!changed.has_changed().unwrap());
        issuer.set_state(state(&other, &published, &tenant));
        assert_eq!((has(active.kid()), has(other.kid())), ([false; 4], [true; 4]));
        assert_eq!(issuer.state().unwrap().own().issuing_key().unwrap().kid(), other.kid());

        // What was revoked stays so while the revocations are not available.
        issuer.apply_revocations(&Arc::default());
        assert_eq!(has(active.kid()), [false; 4]);
    }

    /// The keys that are published and retired; none is active.
    fn rsa_keys(moduli: &[u8]) -> RsaKeySet {
        let published: Vec<Jwk> =
            moduli.iter().map(|first| Jwk::from_rsa(&[*first; 256], &[1, 0, 1])).collect();
        let report =
            |key: &Jwk| KeyReport::new(KeyKind::Rsa, key.kid.clone(), KeyState::Retired, RiskClass::Low);
        RsaKeySet { active: None, reports: published.iter().map(report).collect(), published }
    }

    #[tokio::test]
    async fn a_revoked_rsa_key_is_in_no_key_set() {
        let (issuer, revocations) = (Issuer::default(), Revocations::of_test(Clock::manual(NOW)));
        let (active, tenant) = (key(), key());
        let rsa = rsa_keys(&[0x81, 0x83]);
        let kids: Vec<String> = rsa.published.iter().map(|key| key.kid.clone()).collect();
        issuer.set_state(state_with_rsa(&active, &[active.jwk().clone()], &tenant, rsa));
        let has = |kid: &str| {
            let state = issuer.state().unwrap();
            let sets = [&state.own().documents().jwks, &state.issuer_of(Some("t")).unwrap().documents().jwks];
            sets.map(|text| String::from_utf8_lossy(text).contains(kid))
        };
        assert_eq!((has(&kids[0]), has(&kids[1])), ([true; 2], [true; 2]));

        revoke(&revocations, &kids[0]).await;
        issuer.apply_revocations(&revocations.current());
        assert_eq!((has(&kids[0]), has(&kids[1])), ([false; 2], [true; 2]));
        let served = issuer.state().unwrap();
        let states = served.key_reports().iter().filter(|key| key.kind == KeyKind::Rsa);
        let states: Vec<KeyState> = states.map(|key| key.state).collect();
        assert_eq!(states, [KeyState::Revoked, KeyState::Retired]);
        assert!(!served.waits_for_successor(None), "issuing keys are not affected");
        let text = String::from_utf8_lossy(&served.bundles().spiffe_bundle).into_owned();
        assert!(text.contains("\"spiffe_sequence\":10"), "RSA keys are in no bundle: {text}");
    }
}
