//! The schema of policies: which names and types they may use.

use cedar_policy::{CedarSchemaError, Schema};

/// The schema, as administrators read it. Packages install it below `/usr/share/hostbadge/`.
pub const SCHEMA_TEXT: &str = include_str!("hostbadge.cedarschema");

/// Parses the schema. It is needed only while policies are read: decisions pass values of its types, which a
/// test checks.
///
/// # Errors
/// The schema of this program has a fault, which a test excludes.
pub(super) fn parse() -> Result<Schema, Box<CedarSchemaError>> {
    Ok(Schema::from_cedarschema_str(SCHEMA_TEXT).map(|(schema, _)| schema)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_valid_and_has_all_actions() {
        let (schema, warnings) = Schema::from_cedarschema_str(SCHEMA_TEXT).unwrap();
        assert_eq!(warnings.count(), 0);
        let mut actions: Vec<String> = schema.actions().map(ToString::to_string).collect();
        actions.sort();
        let names = ["attest", "certificate", "credential", "delegate", "prove", "token"];
        assert_eq!(actions, names.map(|name| format!("Action::\"{name}\"")));
    }
}
