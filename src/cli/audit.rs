//! `hostbadge audit tail|query|export|lifecycle|prove`.

use std::process::ExitCode;

use clap::Subcommand;

use super::audit_export;
use super::audit_lifecycle;
use super::audit_prove;
use super::audit_query;
use super::audit_tail;
use super::common::CommonArgs;
use super::error::CliError;

#[derive(Subcommand, Debug)]
pub(super) enum AuditSubcommand {
    /// Print the last records of the audit log
    Tail(Box<audit_tail::TailArgs>),
    /// Search the whole audit log by an index
    #[command(after_long_help = audit_query::INDEX_HELP)]
    Query(Box<audit_query::QueryArgs>),
    /// Write records in the format of a collector: OCSF or OpenTelemetry
    #[command(after_long_help = audit_export::FORMATS_HELP)]
    Export(Box<audit_export::ExportArgs>),
    /// Name agents, units and grants that may have to be ended or completed; exit status 1 if there is something
    #[command(after_long_help = audit_lifecycle::KINDS)]
    Lifecycle(audit_lifecycle::LifecycleArgs),
    /// Prove that one record is in the log, without showing the others: the record, an inclusion proof and the
    /// checkpoint, in the form of c2sp.org/tlog-proof
    ///
    /// A leaf of the tree is the SHA-256 digest of a record's line. The proof is made from the files of the log, so that
    /// the daemon is not asked.
    Prove(audit_prove::ProveArgs),
}

pub(super) async fn run(common: &CommonArgs, subcommand: &AuditSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        AuditSubcommand::Tail(args) => audit_tail::run(common, args).await,
        AuditSubcommand::Query(args) => audit_query::run(common, args).await,
        AuditSubcommand::Export(args) => audit_export::run(common, args).await,
        AuditSubcommand::Lifecycle(args) => audit_lifecycle::run(common, args).await,
        AuditSubcommand::Prove(args) => audit_prove::run(common, args),
    }
}
