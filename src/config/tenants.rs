//! The tables `[tenant.NAME]`: what all agents of a tenant may have together.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::diagnostic::{Diagnostic, SourceFile};

/// A table `[tenant.NAME]`. A key that is absent sets no bound beside those of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantSection {
    /// Requests a second, from 1 to 10,000,000.
    pub rate: Option<u32>,
    /// Requests that may be made at once after a pause, from 1 to 10,000,000; only with `rate`. Default: four
    /// times `rate`.
    pub burst: Option<u32>,
    /// Tokens that have not expired.
    pub live_tokens: Option<u32>,
    /// Sealed credentials.
    pub credentials: Option<u32>,
    /// X.509 certificates that have not expired.
    pub certificates: Option<u32>,
}

impl TenantSection {
    /// The rate a second and the burst; `None` without `rate`.
    pub fn rate(&self) -> Option<(u32, u32)> {
        self.rate.map(|rate| (rate, self.burst.unwrap_or(rate.saturating_mul(4))))
    }

    fn faults(&self, name: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if !is_name(name) {
            faults.push(
                "the name of a tenant has the form of an agent name: a-z 0-9 . _ -, at most 63 characters"
                    .into(),
            );
        }
        for (key, value) in [("rate", self.rate), ("burst", self.burst)] {
            if let Some(value) = value.filter(|value| !(1..=10_000_000).contains(value)) {
                faults.push(format!("tenant.{name}.{key} is {value}; it must be from 1 to 10000000"));
            }
        }
        if self.burst.is_some() && self.rate.is_none() {
            faults.push(format!("tenant.{name}.burst has no effect without rate"));
        }
        faults
    }
}

/// Reads the tables. Faults are reported at each table's line.
pub(super) fn check_tenants(
    tables: BTreeMap<String, Spanned<TenantSection>>,
    source: &SourceFile,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<String, TenantSection> {
    for (name, table) in &tables {
        let faults = table.get_ref().faults(name).into_iter();
        diagnostics.extend(faults.map(|message| source.diagnostic(table.span(), message)));
    }
    tables.into_iter().map(|(name, table)| (name, table.into_inner())).collect()
}

/// The form of agents' and tenants' names, which `agents` checks in agents' files.
fn is_name(name: &str) -> bool {
    let is_first_char = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_name_char = |byte: u8| is_first_char(byte) || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= 63 && name.bytes().next().is_some_and(is_first_char) && name.bytes().all(is_name_char)
}

#[cfg(test)]
mod tests {
    use super::super::tests::read_config;

    #[test]
    fn quotas_of_tenants_are_read_and_validated() {
        let text = "[tenant.acme]\nrate = 100\nlive_tokens = 5000\n[tenant.globex]\ncredentials = 0\n";
        let tenants = read_config(text).unwrap().tenants;
        assert_eq!((tenants["acme"].rate(), tenants["acme"].live_tokens), (Some((100, 400)), Some(5000)));
        assert_eq!((tenants["globex"].rate(), tenants["globex"].credentials), (None, Some(0)));
        for (text, expected) in [
            ("\n[tenant.acme]\nrate = 0", ":2: tenant.acme.rate is 0; it must be from 1 to 10000000"),
            ("\n[tenant.acme]\nburst = 5", ":2: tenant.acme.burst has no effect without rate"),
            ("\n[tenant.Acme]\nrate = 5", ":2: the name of a tenant has the form of an agent name"),
            ("\n[tenant.acme]\nrat = 5", ":3: unknown key `rat` in [tenant.acme]; did you mean `rate`?"),
            ("\n[tenant]\nrate = 5", ":2: expected a table `[tenant.NAME]` for each tenant"),
        ] {
            let error = read_config(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
