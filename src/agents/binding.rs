//! The key `bind` of a grant: what its tokens are bound to.

use serde::{Deserialize, Serialize};

/// What a token is bound to (RFC 7800).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// Nothing: who has the token can use it.
    #[default]
    None,
    /// The proof key of the agent's invocation: each request has a DPoP proof (RFC 9449), with which the daemon answers
    /// for that request.
    Dpop,
    /// An X509-SVID of the agent: the token is used on a connection with that certificate (RFC 8705).
    Mtls,
}

impl Binding {
    /// The values of the key, as written.
    pub(super) const VALUES: &'static [&'static str] = &["none", "dpop", "mtls"];

    /// The value as the configuration, requests and policies write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Binding::None => "none",
            Binding::Dpop => "dpop",
            Binding::Mtls => "mtls",
        }
    }

    /// The `token_type` of such a token (RFC 6749 section 7.1, RFC 9449 section 5, RFC 8705 section 3).
    pub const fn token_type(self) -> &'static str {
        match self {
            Binding::Dpop => "DPoP",
            Binding::None | Binding::Mtls => "Bearer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_configuration() {
        for (binding, value) in [Binding::None, Binding::Dpop, Binding::Mtls].into_iter().zip(Binding::VALUES)
        {
            assert_eq!((binding.as_str(), serde_json::to_value(binding).unwrap()), (*value, (*value).into()));
        }
    }
}
