//! What all streams of one kind send: made, encoded and hashed once for each change of the keys, the CA or
//! the federated bundles, and shared by the streams. With many federated trust domains a message has hundreds
//! of kilobytes.

use std::sync::{Arc, Mutex};

use prost::Message;
use ring::digest::{SHA256, digest};
use tonic::Status;
use zeroize::Zeroizing;

use super::pb::{JwtBundlesResponse, WitBundlesResponse, X509BundlesResponse, X509svidResponse};
use crate::mutex::lock;
use crate::service::{BundleVersion, IdentityService};

/// A message, and the digest by which a stream recognizes that it has sent it. Clones of a message share the
/// bundles and lists in it.
#[derive(Clone, Debug)]
pub struct Update<M> {
    /// The message.
    pub message: M,
    /// SHA-256 of its content.
    pub digest: [u8; 32],
}

impl<M: Message> Update<M> {
    /// An update with the digest of the encoded message.
    pub fn new(message: M) -> Update<M> {
        // The message may contain a private key.
        let mut bytes = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
        message.encode_raw(&mut *bytes);
        Update { digest: sha256(&bytes), message }
    }
}

impl<M> Update<M> {
    /// Completes a message by `shared`; the digest is that of both.
    pub fn join(self, shared: Update<M>, complete: impl FnOnce(&mut M, M)) -> Update<M> {
        let digest = sha256(&[self.digest, shared.digest].concat());
        let mut message = self.message;
        complete(&mut message, shared.message);
        Update { message, digest }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// The latest update of one kind.
#[derive(Debug)]
pub struct SharedUpdate<M>(Mutex<Option<(BundleVersion, Update<M>)>>);

impl<M> Default for SharedUpdate<M> {
    fn default() -> SharedUpdate<M> {
        SharedUpdate(Mutex::new(None))
    }
}

impl<M: Message + Clone> SharedUpdate<M> {
    /// The update for the present bundles, which `make` makes where they have changed since the last call.
    ///
    /// # Errors
    /// That of `make`; the next call tries again.
    pub fn get(
        &self,
        service: &IdentityService,
        make: impl FnOnce() -> Result<M, Status>,
    ) -> Result<Update<M>, Status> {
        // Read before the content, so that older content is not kept under a newer version.
        let version = service.bundle_version();
        let mut latest = lock(&self.0);
        if let Some((_, update)) = latest.as_ref().filter(|(known, _)| known.is_same(&version)) {
            return Ok(update.clone());
        }
        let update = Update::new(make()?);
        *latest = Some((version, update.clone()));
        Ok(update)
    }
}

/// The latest update of each kind.
#[derive(Debug, Default)]
pub struct SharedUpdates {
    /// Revocation lists and federated bundles of FetchX509SVID, without SVIDs.
    pub x509_svids: SharedUpdate<X509svidResponse>,
    /// Messages of FetchX509Bundles.
    pub x509_bundles: SharedUpdate<X509BundlesResponse>,
    /// Messages of FetchJWTBundles.
    pub jwt_bundles: SharedUpdate<JwtBundlesResponse>,
    /// Messages of FetchWITBundles.
    pub wit_bundles: SharedUpdate<WitBundlesResponse>,
}

/// Where a stream of bundles gets its messages.
#[derive(Clone)]
pub struct BundleSource {
    /// The service.
    pub service: IdentityService,
    /// What it shares with other streams.
    pub updates: Arc<SharedUpdates>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_joined_update_depends_on_both_parts() {
        let update = |list: &'static [u8]| {
            let crl = if list.is_empty() { Vec::new() } else { vec![list.into()] };
            Update::new(X509svidResponse { crl, ..X509svidResponse::default() })
        };
        let joined =
            |own, shared| update(own).join(update(shared), |message, shared| message.crl.extend(shared.crl));
        let (both, same) = (joined(b"a", b"b"), joined(b"a", b"b"));
        assert_eq!((&both.message, both.digest), (&same.message, same.digest));
        assert_eq!(both.message.crl, [&b"a"[..], b"b"]);
        for (own, shared) in [(&b"a"[..], &b"c"[..]), (b"c", b"b"), (b"b", b"a"), (b"", b"b")] {
            assert_ne!(joined(own, shared).digest, both.digest);
        }
    }
}
