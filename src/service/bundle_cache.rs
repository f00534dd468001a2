//! The bundle document, made once for each change of what it is made from.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;

/// The last bundle document.
#[derive(Debug, Default)]
pub(super) struct BundleCache(ArcSwapOption<CachedBundle>);

#[derive(Debug)]
struct CachedBundle {
    /// The key set that it was made from. It is the same memory as the issuer's until its keys change.
    token_keys: Bytes,
    /// The generation of the CA that it was made from.
    ca_generation: u64,
    document: Bytes,
}

impl BundleCache {
    /// The document that was made from this key set and this generation of the CA.
    pub fn get(&self, token_keys: &Bytes, ca_generation: u64) -> Option<Bytes> {
        let cached = self.0.load();
        let cached = cached.as_ref()?;
        let is_same =
            cached.ca_generation == ca_generation && cached.token_keys.as_ptr() == token_keys.as_ptr();
        is_same.then(|| cached.document.clone())
    }

    /// Replaces the document.
    pub fn store(&self, token_keys: &Bytes, ca_generation: u64, document: &Bytes) {
        let (token_keys, document) = (token_keys.clone(), document.clone());
        self.0.store(Some(Arc::new(CachedBundle { token_keys, ca_generation, document })));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_that_of_the_same_keys_and_generation() {
        let keys = |text: &str| Bytes::from(text.to_owned());
        let (cache, first, second) = (BundleCache::default(), keys("a"), keys("a"));
        assert_eq!(cache.get(&first, 1), None);
        cache.store(&first, 1, &Bytes::from_static(b"document"));
        assert_eq!(cache.get(&first.clone(), 1).as_deref(), Some(&b"document"[..]));
        assert_eq!(cache.get(&first, 2), None, "the CA changed");
        assert_eq!(cache.get(&second, 1), None, "the keys changed");
    }
}
