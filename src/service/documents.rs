//! Public documents: key sets, discovery, bundles and revocation lists.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error::NotReady;
use super::identity_service::IdentityService;
use crate::federation::FederatedBundle;
use crate::issue::{BundleDocuments, IssuerDocuments};
use crate::pki;

/// Every local process may ask for the documents, so the reason is for administrators only.
const ISSUER_NOT_READY: &str = "the issuer is not ready; administrators see the reason in hostbadge status";
const CA_NOT_READY: &str = "the host's CA is being created; try again in a moment";

impl IdentityService {
    /// The key set of the access tokens of a tenant's agents, or of agents without one (RFC 7517 section 5), JSON.
    /// `None` if the tenant has no keys.
    ///
    /// # Errors
    /// [`NotReady`] until the issuing keys are loaded, as for each document here.
    pub fn jwks(&self, tenant: Option<&str>) -> Result<Option<Bytes>, NotReady> {
        self.document(tenant, |documents| &documents.jwks)
    }

    /// The discovery document (OpenID Connect Discovery 1.0 section 3) of a tenant's issuer, or of the host's,
    /// JSON. `None` if the tenant has no keys.
    ///
    /// # Errors
    /// [`NotReady`] until the issuing keys are loaded.
    pub fn discovery(&self, tenant: Option<&str>) -> Result<Option<Bytes>, NotReady> {
        self.document(tenant, |documents| &documents.discovery)
    }

    /// The bundle document of the host's trust domain (SPIFFE Trust Domain and Bundle, section 4), JSON.
    ///
    /// # Errors
    /// [`NotReady`] until the issuing keys are loaded and the CA has a root.
    pub fn bundle_document(&self) -> Result<Bytes, NotReady> {
        let not_ready = || NotReady(ISSUER_NOT_READY.into());
        let issuer_state = self.deps.issuer.state().ok_or_else(not_ready)?;
        let token_keys = &issuer_state.bundles().spiffe_bundle;
        // Read before the roots, so that a document of older roots is not kept under the new generation, and
        // has no number of newer ones.
        let ca_generation = self.deps.certificate_issuer.generation();
        let root_number = self.deps.certificate_issuer.bundle_number();
        if let Some(document) = self.bundle_cache.get(token_keys, ca_generation) {
            return Ok(document);
        }
        let roots = self.roots()?;
        let document = pki::bundle_document(token_keys, &roots, root_number).ok_or_else(not_ready)?;
        let document = Bytes::from(document.to_string());
        self.bundle_cache.store(token_keys, ca_generation, &document);
        Ok(document)
    }

    fn roots(&self) -> Result<Vec<Vec<u8>>, NotReady> {
        let roots = self.deps.certificate_issuer.bundle();
        if roots.is_empty() { Err(NotReady(CA_NOT_READY.into())) } else { Ok(roots) }
    }

    /// The roots of this trust domain, concatenated DER.
    ///
    /// # Errors
    /// [`NotReady`] until the CA has a root.
    pub fn x509_bundle(&self) -> Result<Bytes, NotReady> {
        Ok(self.roots()?.concat().into())
    }

    /// The roots of this trust domain and of federated ones by SPIFFE ID, concatenated DER each.
    ///
    /// # Errors
    /// [`NotReady`] until the issuing keys are loaded and the CA has a root.
    pub fn x509_bundles(&self) -> Result<BTreeMap<String, Bytes>, NotReady> {
        let own_id = trust_domain_id(&self.ready_issuer()?.host().trust_domain);
        let mut bundles = self.federated_x509_bundles();
        // A file in `federation` that is named like this trust domain does not replace its roots.
        bundles.insert(own_id, self.x509_bundle()?);
        Ok(bundles)
    }

    /// The roots of federated trust domains by SPIFFE ID, concatenated DER each. Empty until the issuing keys
    /// are loaded: until then it is not known which domain is this host's own.
    pub fn federated_x509_bundles(&self) -> BTreeMap<String, Bytes> {
        let Some(issuer_state) = self.deps.issuer.state() else { return BTreeMap::new() };
        let own = &issuer_state.host().trust_domain;
        let bundles = self.deps.federation.bundles();
        bundles
            .iter()
            .filter(|(domain, bundle)| !bundle.x509_authorities.is_empty() && *domain != own)
            .map(|(domain, bundle)| (trust_domain_id(domain), bundle.x509_authorities.clone()))
            .collect()
    }

    /// The revocation lists of this trust domain's issuing CAs, DER each.
    pub fn crls(&self) -> Vec<Bytes> {
        self.deps.certificate_issuer.crls()
    }

    /// Key sets of JWT-SVIDs by SPIFFE ID of the trust domain: this one's and those of federated ones.
    ///
    /// # Errors
    /// [`NotReady`] until the issuing keys are loaded.
    pub fn jwt_bundles(&self) -> Result<BTreeMap<String, Bytes>, NotReady> {
        self.key_sets(|own| &own.jwt_bundle, |bundle| &bundle.jwt_jwks)
    }

    /// Key sets of WIT-SVIDs by SPIFFE ID of the trust domain: this one's and those of federated ones.
    ///
    /// # Errors
    /// [`NotReady`] until the issuing keys are loaded.
    pub fn wit_bundles(&self) -> Result<BTreeMap<String, Bytes>, NotReady> {
        self.key_sets(|own| &own.wit_bundle, |bundle| &bundle.wit_jwks)
    }

    fn document(
        &self,
        tenant: Option<&str>,
        select: fn(&IssuerDocuments) -> &Bytes,
    ) -> Result<Option<Bytes>, NotReady> {
        let not_ready = || NotReady(ISSUER_NOT_READY.into());
        let issuer_state = self.deps.issuer.state().ok_or_else(not_ready)?;
        Ok(issuer_state.issuer_of(tenant).ok().map(|issuer| select(issuer.documents()).clone()))
    }

    fn key_sets(
        &self,
        own: fn(&BundleDocuments) -> &Bytes,
        federated: fn(&FederatedBundle) -> &Option<Bytes>,
    ) -> Result<BTreeMap<String, Bytes>, NotReady> {
        let issuer_state = self.ready_issuer()?;
        let bundles = self.deps.federation.bundles();
        let mut key_sets: BTreeMap<String, Bytes> = bundles
            .iter()
            .filter_map(|(domain, bundle)| Some((trust_domain_id(domain), federated(bundle).clone()?)))
            .collect();
        // A file in `federation` that is named like this trust domain does not replace its keys.
        key_sets
            .insert(trust_domain_id(&issuer_state.host().trust_domain), own(issuer_state.bundles()).clone());
        Ok(key_sets)
    }
}

fn trust_domain_id(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}")
}
