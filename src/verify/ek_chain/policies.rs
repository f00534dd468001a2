//! Certificate policies along a path (RFC 5280, sections 4.2.1.4, 4.2.1.11, 4.2.1.14 and 6.1).
//!
//! The verifier asks for no policy of its own: any policy is accepted, and none is required
//! (user-initial-policy-set is any-policy, the three indicators of section 6.1.1 are false). A path then
//! fails only if a CA in it requires an explicit policy, and no policy is valid along the whole path.

use std::collections::BTreeSet;

use der::oid::ObjectIdentifier;
use der::oid::db::rfc5280;
use x509_cert::ext::pkix::certpolicy::CertificatePolicies;
use x509_cert::ext::pkix::{InhibitAnyPolicy, PolicyConstraints, PolicyMappings};

use super::certificate::ManufacturerCertificate;

/// The qualifiers that RFC 5280 defines: a pointer to a practice statement, and a notice to users. A verifier
/// displays them at most.
const KNOWN_QUALIFIERS: [ObjectIdentifier; 2] = [rfc5280::ID_QT_CPS, rfc5280::ID_QT_UNOTICE];

/// Checks the policies of a path: `path` has the EK's certificate first, and does not have the root, whose
/// policies section 6.1 does not process.
///
/// # Errors
///
/// The index in `path` of the certificate that is at fault, and a predicate about it.
pub(super) fn check_policies(path: &[&ManufacturerCertificate]) -> Result<(), (usize, &'static str)> {
    let mut state = PolicyState::new(path.len());
    for (at, certificate) in path.iter().enumerate().rev() {
        state.process(certificate, at == 0).map_err(|reason| (at, reason))?;
    }
    Ok(())
}

/// The state variables of section 6.1.2 that matter without policy mappings.
struct PolicyState {
    /// The policies that are valid so far; `None` for any policy.
    valid: Option<BTreeSet<ObjectIdentifier>>,
    /// After how many certificates a valid policy is required.
    explicit_policy: u32,
    /// After how many certificates anyPolicy is no longer a match.
    inhibit_any_policy: u32,
    /// A CA maps policies to others, which is not evaluated.
    has_mappings: bool,
}

impl PolicyState {
    fn new(path_len: usize) -> PolicyState {
        let never = u32::try_from(path_len).unwrap_or(u32::MAX).saturating_add(1);
        PolicyState { valid: None, explicit_policy: never, inhibit_any_policy: never, has_mappings: false }
    }

    fn process(&mut self, certificate: &ManufacturerCertificate, is_last: bool) -> Result<(), &'static str> {
        let policies = certificate.extension::<CertificatePolicies>();
        let policies = policies.map_err(|_| "its certificate policies are malformed")?;
        let is_critical =
            certificate.critical_extensions().any(|id| id == rfc5280::ID_CE_CERTIFICATE_POLICIES);
        if is_critical && policies.as_ref().is_some_and(has_unknown_qualifier) {
            return Err("its critical certificate policies have a qualifier that is unknown here");
        }
        let any_is_allowed = self.inhibit_any_policy > 0 || (!is_last && certificate.is_self_issued());
        self.restrict(policies, any_is_allowed)?;
        self.count_and_constrain(certificate, is_last)
    }

    /// Keeps the valid policies that the certificate has (section 6.1.3, steps d and e).
    fn restrict(
        &mut self,
        policies: Option<CertificatePolicies>,
        any_is_allowed: bool,
    ) -> Result<(), &'static str> {
        let Some(CertificatePolicies(policies)) = policies else {
            self.valid = Some(BTreeSet::new());
            return Ok(());
        };
        let count = policies.len();
        let mut own: BTreeSet<ObjectIdentifier> =
            policies.into_iter().map(|policy| policy.policy_identifier).collect();
        if own.len() != count || own.is_empty() {
            return Err("its certificate policies are malformed");
        }
        let has_any = own.remove(&rfc5280::ANY_POLICY);
        if has_any && any_is_allowed {
            // Each policy that was valid so far matches.
            return Ok(());
        }
        self.valid = Some(match self.valid.take() {
            Some(valid) => valid.intersection(&own).copied().collect(),
            None => own,
        });
        Ok(())
    }

    /// Counts the certificate, and applies its constraints to those below it (sections 6.1.4, steps h to j,
    /// and 6.1.5, steps a and b).
    fn count_and_constrain(
        &mut self,
        certificate: &ManufacturerCertificate,
        is_last: bool,
    ) -> Result<(), &'static str> {
        if is_last || !certificate.is_self_issued() {
            self.explicit_policy = self.explicit_policy.saturating_sub(1);
            self.inhibit_any_policy = self.inhibit_any_policy.saturating_sub(1);
        }
        let malformed = "its constraints on policies are malformed";
        if let Some(constraints) = certificate.extension::<PolicyConstraints>().map_err(|_| malformed)?
            && let Some(required) = constraints.require_explicit_policy
        {
            // The last certificate's constraint counts only if it is zero.
            if !is_last || required == 0 {
                self.explicit_policy = self.explicit_policy.min(required);
            }
        }
        if let Some(InhibitAnyPolicy(inhibit)) = certificate.extension().map_err(|_| malformed)? {
            self.inhibit_any_policy = self.inhibit_any_policy.min(inhibit);
        }
        self.has_mappings |= certificate.extension::<PolicyMappings>().map_err(|_| malformed)?.is_some();
        if self.explicit_policy == 0 { self.require_valid_policy() } else { Ok(()) }
    }

    fn require_valid_policy(&self) -> Result<(), &'static str> {
        if self.has_mappings {
            return Err("a CA above it requires a policy, and maps policies, which is not supported");
        }
        match &self.valid {
            Some(valid) if valid.is_empty() => Err("a CA above it requires a policy that it does not have"),
            _ => Ok(()),
        }
    }
}

fn has_unknown_qualifier(policies: &CertificatePolicies) -> bool {
    let qualifiers = policies.0.iter().flat_map(|policy| policy.policy_qualifiers.iter().flatten());
    qualifiers.into_iter().any(|qualifier| !KNOWN_QUALIFIERS.contains(&qualifier.policy_qualifier_id))
}
