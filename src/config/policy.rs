//! The table `[policy]`: how policies are applied.

use serde::{Deserialize, Deserializer};

use crate::clock::Zone;

/// The table `[policy]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySection {
    /// The time zone of hours and weekdays in policies, such as `Europe/Berlin`. Default: UTC.
    #[serde(deserialize_with = "zone")]
    pub timezone: Zone,
    /// Whether a request needs a policy that permits it, beside its grant. Default: no.
    pub require_permit: bool,
}

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zone, D::Error> {
    let name = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
    Zone::read(&name).map_err(serde::de::Error::custom)
}
