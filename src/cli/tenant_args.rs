//! Whose documents a command exports.

use clap::Args;

use super::error::CliError;
use crate::agents::is_tenant_name;

/// Whose documents are exported.
#[derive(Args, Debug)]
pub(super) struct TenantArgs {
    /// Export the document of this tenant's issuer, ISSUER/tenant/NAME [default: that of agents without a tenant]
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

impl TenantArgs {
    /// The path of a document on the agent socket.
    pub(super) fn path(&self, document: &str) -> Result<String, CliError> {
        match &self.tenant {
            None => Ok(document.to_owned()),
            Some(tenant) if is_tenant_name(tenant) => Ok(format!("/tenant/{tenant}{document}")),
            Some(_) => Err(CliError::Local(
                "a tenant has the form of an agent name: a-z 0-9 . _ -, at most 63 characters".into(),
            )),
        }
    }
}
