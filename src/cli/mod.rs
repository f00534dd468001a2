//! The command `hostbadge`, one file for each subcommand.
//!
//! Requests and responses are the types of [`crate::wire`]. With `--json` a subcommand prints the daemon's
//! response as it is, so members that this release does not know are kept.

mod agent;
mod agent_lint;
mod agent_list;
mod agent_new;
mod anomaly;
mod approve;
mod attest;
mod audit;
mod audit_cursor;
mod audit_export;
mod audit_filters;
mod audit_lifecycle;
mod audit_output;
mod audit_prove;
mod audit_query;
mod audit_sink;
mod audit_source;
mod audit_tail;
mod audit_text;
mod audit_unreadable;
mod certificate;
mod client;
mod clock;
mod common;
mod credential;
mod credential_get;
mod credential_import;
mod delegate;
mod enroll;
mod enroll_install;
mod error;
mod examples;
mod export;
mod export_status_list;
mod files;
mod format;
mod hygiene;
mod introspect;
mod key;
mod leak;
mod linked_dir;
mod manufacturer_roots;
mod metric_samples;
mod metrics;
mod nonce;
mod offboard;
mod output;
mod pending_approval;
mod policy;
mod policy_why;
mod posture;
mod progress;
mod prompt;
mod prove;
mod recovery_key;
mod renewal;
mod report;
mod review;
mod revoke;
mod rights_args;
mod run;
mod selftest;
mod status;
mod table;
mod tenant;
mod tenant_args;
mod token;
mod top;
mod verify;
mod verify_audit;
mod verify_receipt;
mod verify_token;
mod watch;
mod watched_file;
mod whoami;
mod why;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, setrlimit};

use common::{CommonArgs, CommonOptions};
use error::CliError;
use output::require_stdout;
use report::report_error;

pub use report::report_usage;

/// Client and administration tool for hostbadged
#[derive(Parser, Debug)]
#[command(
    name = "hostbadge",
    version,
    after_help = "Exit status: 0 success, 1 refused or verification failed, 2 usage error, 3 no daemon at \
                  the socket, 4 service unavailable.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    subcommand: CliSubcommand,

    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Subcommand, Debug)]
enum CliSubcommand {
    /// Show which agent this process is, as the daemon identifies it
    #[command(after_long_help = examples::WHOAMI)]
    Whoami(whoami::WhoamiArgs),
    /// Request a token for an audience and print it
    ///
    /// This command is then the caller. An agent that `[match]` selects by `exe` or `exe_sha256` cannot use
    /// it, and sends the request from its own program: hostbadge-agents(5).
    #[command(after_long_help = examples::TOKEN)]
    Token(token::TokenArgs),
    /// Request an X.509 certificate for this process's identity, once or continuously
    ///
    /// This command is then the caller. An agent that `[match]` selects by `exe` or `exe_sha256` cannot use
    /// it, and sends the request from its own program: hostbadge-agents(5).
    #[command(after_long_help = examples::CERTIFICATE)]
    Certificate(certificate::CertificateArgs),
    /// Request a proof for one HTTP request, or an assertion for an authorization server
    ///
    /// The daemon decides on the request that is named, and makes the proof with a key that this process does not have.
    /// The output is headers, a line each, which curl reads with --header @FILE; for a client assertion, parameters in
    /// the form encoding. It can be used for at most 60 s.
    ///
    /// This command is then the caller. An agent that `[match]` selects by `exe` or `exe_sha256` cannot use
    /// it, and sends the request from its own program: hostbadge-agents(5).
    #[command(after_long_help = examples::PROVE)]
    Prove(prove::ProveArgs),
    /// Make the processes of a cgroup a sub-agent of this process's agent
    ///
    /// The agent's file has to permit it by `[delegate]`. The cgroup is one below that of the agent, which this process is
    /// not in. From then on, each process in it is the sub-agent and no other agent: hostbadge-agents(5).
    #[command(after_long_help = examples::DELEGATE)]
    Delegate(delegate::DelegateArgs),
    /// Run a command as a sub-agent, with its tokens in files that are renewed, and without secrets in its environment
    ///
    /// The command runs in a cgroup of its own: below that of this process where its unit has `Delegate=yes`, else in a
    /// scope of the user's or the system's service manager. It has the terminal; signals and its exit status are passed on.
    /// Variables that look like secrets are removed from its environment.
    #[command(after_long_help = examples::RUN)]
    Run(Box<run::RunArgs>),
    /// Request evidence of the host's state for a remote verifier
    #[command(after_long_help = examples::ATTEST)]
    Attest(attest::AttestArgs),
    /// Show daemon and TPM status (administrators)
    #[command(after_long_help = examples::STATUS)]
    Status,
    /// Show, check and reload the registered agents (administrators)
    #[command(subcommand, after_long_help = examples::AGENT)]
    Agent(agent::AgentSubcommand),
    /// Store, rotate and remove sealed credentials (administrators), and get one (agents)
    #[command(subcommand)]
    Credential(credential::CredentialSubcommand),
    /// Show, rotate and recover the host's keys (administrators)
    #[command(subcommand, after_long_help = examples::KEY)]
    Key(key::KeySubcommand),
    /// Tell what a leaked token or certificate is and where it was used, and revoke it (administrators)
    ///
    /// The token is read from standard input, in which it may stand in other text, of at most 1 MiB: a log, a commit,
    /// a shell history. It never is an argument, which other users could see.
    #[command(after_long_help = examples::LEAK)]
    Leak(leak::LeakArgs),
    /// Look for tokens and keys that were left in files, environments, shell histories and unit files
    ///
    /// It says where they are and of what kind, and never what they are. It needs no daemon. Exit status 0: nothing was
    /// found; 1: something was found; 2: none of the named paths can be looked at. What cannot be read, such as a path
    /// that does not exist, is named on standard error.
    #[command(after_long_help = examples::HYGIENE)]
    Hygiene(hygiene::HygieneArgs),
    /// Attack this host as its other processes could, without changing it, and print which attempts failed (root only)
    ///
    /// Run it on a host in use. It takes at most about two minutes: after 120 s no further attempt begins, and what is
    /// left is skipped. It registers no agent and changes no file of the daemon; what the daemon decides is in the audit
    /// log, as for every caller. What needs a token or evidence is skipped unless this process is an agent.
    /// Exit status 0: no hole was found; 1: a hole was found; 2: another user than root runs it; 3: no daemon answers.
    #[command(after_long_help = examples::SELFTEST)]
    Selftest(selftest::SelftestArgs),
    /// Compare what agents may do with what they did, and narrow their files (root)
    ///
    /// Reads the agents' files and the audit log, without the daemon. What was not used for less than a day is not called
    /// unused. Only agents' own files are narrowed; roles are named.
    #[command(after_long_help = examples::REVIEW)]
    Review(review::ReviewArgs),
    /// Show tenants and their quotas, and remove one (administrators)
    #[command(subcommand, after_long_help = examples::TENANT)]
    Tenant(tenant::TenantSubcommand),
    /// Revoke a token, an agent, or all of an owner, tenant or key (administrators)
    #[command(subcommand, after_long_help = examples::REVOKE)]
    Revoke(revoke::RevokeSubcommand),
    /// List what agents did that they did not before, and resume an agent that a rule suspended (administrators)
    #[command(subcommand, after_long_help = examples::ANOMALY)]
    Anomaly(anomaly::AnomalySubcommand),
    /// Approve or refuse requests of agents whose grants ask for a person (administrators)
    #[command(subcommand, after_long_help = examples::APPROVE)]
    Approve(approve::ApproveSubcommand),
    /// Revoke everything, and issue nothing until thaw (administrators)
    Freeze(revoke::FreezeArgs),
    /// Issue again after freeze (root only). What was issued before stays revoked
    Thaw,
    /// Enroll this host with an organization, through four files (administrators and operators)
    #[command(subcommand, after_long_help = examples::ENROLL)]
    Enroll(enroll::EnrollSubcommand),
    /// Check, show and explain the policies (administrators)
    #[command(subcommand, after_long_help = examples::POLICY)]
    Policy(policy::PolicySubcommand),
    /// Show, compare and accept the measured state of the host (administrators)
    #[command(subcommand, after_long_help = examples::POSTURE)]
    Posture(posture::PostureSubcommand),
    /// Show the host's clock, and say that it is right (administrators)
    #[command(subcommand)]
    Clock(clock::ClockSubcommand),
    /// Export public documents for relying parties
    #[command(subcommand, after_long_help = examples::EXPORT)]
    Export(export::ExportSubcommand),
    /// Verify tokens, evidence, receipts and audit logs, without daemon and TPM
    #[command(subcommand, after_long_help = examples::VERIFY)]
    Verify(verify::VerifySubcommand),
    /// Tell whether a token of this host, which is read from standard input, is valid now; exit status 1 if it is not
    #[command(after_long_help = examples::INTROSPECT)]
    Introspect(introspect::IntrospectArgs),
    /// Print a new nonce for `attest --nonce` and `verify evidence --nonce`: 32 random bytes in base64url
    #[command(after_long_help = examples::NONCE)]
    Nonce(nonce::NonceArgs),
    /// Print metrics for Prometheus, or write them to a file for node exporter (administrators and the metrics group)
    #[command(after_long_help = examples::METRICS)]
    Metrics(metrics::MetricsArgs),
    /// Show what the daemon does now: rates, agents, the TPM and alerts; q quits (administrators)
    ///
    /// The view is made again each second. Rates are over the time since the last view, and percentiles are upper bounds.
    #[command(after_long_help = examples::TOP)]
    Top(top::TopArgs),
    /// Show the audit log (administrators)
    #[command(subcommand, after_long_help = examples::AUDIT)]
    Audit(audit::AuditSubcommand),
}

impl CliSubcommand {
    /// Whether the result goes to standard output. What is printed beside files is a summary of them.
    fn prints_result(&self) -> bool {
        match self {
            CliSubcommand::Token(arguments) => arguments.prints_result(),
            CliSubcommand::Certificate(arguments) => arguments.prints_result(),
            CliSubcommand::Prove(arguments) => arguments.prints_result(),
            CliSubcommand::Attest(arguments) => arguments.prints_result(),
            CliSubcommand::Key(subcommand) => subcommand.prints_result(),
            CliSubcommand::Enroll(subcommand) => subcommand.prints_result(),
            CliSubcommand::Export(subcommand) => subcommand.prints_result(),
            CliSubcommand::Metrics(arguments) => arguments.prints_result(),
            _ => true,
        }
    }
}

/// Runs the subcommand and returns its exit status: 0 success, 1 refused or failed, 3 no daemon, 4
/// unavailable.
pub fn run(command: Cli) -> ExitCode {
    // A value that is asked for or printed is in no core dump, as SIGQUIT at a terminal makes one. A failure
    // is no reason not to run.
    // A command that is run gets the limits of this process, and `run` sets its own.
    if !matches!(command.subcommand, CliSubcommand::Run(_)) {
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    }
    let common = CommonArgs::from(command.common);
    if command.subcommand.prints_result()
        && let Err(error) = require_stdout()
    {
        return report_error(&error, common.json);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return report_error(&CliError::local(e), common.json),
    };
    match runtime.block_on(dispatch(&common, command.subcommand)) {
        Ok(code) => code,
        Err(error) => report_error(&error, common.json),
    }
}

async fn dispatch(common: &CommonArgs, subcommand: CliSubcommand) -> Result<ExitCode, CliError> {
    match subcommand {
        CliSubcommand::Whoami(arguments) => whoami::run(common, &arguments).await,
        CliSubcommand::Token(arguments) => token::run(common, &arguments).await,
        CliSubcommand::Certificate(arguments) => certificate::run(common, &arguments).await,
        CliSubcommand::Prove(arguments) => prove::run(common, &arguments).await,
        CliSubcommand::Delegate(arguments) => delegate::run(common, &arguments).await,
        CliSubcommand::Run(arguments) => run::run(common, *arguments).await,
        CliSubcommand::Attest(arguments) => attest::run(common, &arguments).await,
        CliSubcommand::Status => status::run(common).await,
        CliSubcommand::Agent(subcommand) => agent::run(common, &subcommand).await,
        CliSubcommand::Credential(subcommand) => credential::run(common, &subcommand).await,
        CliSubcommand::Key(subcommand) => key::run(common, &subcommand).await,
        CliSubcommand::Leak(arguments) => leak::run(common, &arguments).await,
        CliSubcommand::Hygiene(arguments) => hygiene::run(common, &arguments),
        CliSubcommand::Anomaly(subcommand) => anomaly::run(common, &subcommand).await,
        CliSubcommand::Approve(subcommand) => approve::run(common, &subcommand).await,
        CliSubcommand::Selftest(arguments) => selftest::run(common, &arguments).await,
        CliSubcommand::Review(arguments) => review::run(common, &arguments).await,
        CliSubcommand::Tenant(subcommand) => tenant::run(common, &subcommand).await,
        CliSubcommand::Revoke(subcommand) => revoke::run(common, &subcommand).await,
        CliSubcommand::Freeze(arguments) => revoke::freeze(common, &arguments).await,
        CliSubcommand::Thaw => revoke::thaw(common).await,
        CliSubcommand::Enroll(subcommand) => enroll::run(common, &subcommand).await,
        CliSubcommand::Policy(subcommand) => policy::run(common, &subcommand).await,
        CliSubcommand::Posture(subcommand) => posture::run(common, &subcommand).await,
        CliSubcommand::Clock(subcommand) => clock::run(common, &subcommand).await,
        CliSubcommand::Export(subcommand) => export::run(common, &subcommand).await,
        CliSubcommand::Verify(subcommand) => verify::run(common, &subcommand),
        CliSubcommand::Introspect(arguments) => introspect::run(common, &arguments).await,
        CliSubcommand::Nonce(arguments) => nonce::run(common, &arguments).await,
        CliSubcommand::Metrics(arguments) => metrics::run(common, &arguments).await,
        CliSubcommand::Top(arguments) => top::run(common, &arguments).await,
        CliSubcommand::Audit(subcommand) => audit::run(common, &subcommand).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Identifiers in base64url begin with "-" in one of 64 cases.
    #[test]
    fn an_identifier_that_begins_with_a_hyphen_is_a_value() {
        for words in [
            &["attest", "--nonce", "-Yabc"][..],
            &["verify", "evidence", "--nonce", "-Yabc"],
            &["audit", "query", "--token-id", "-Yabc"],
            &["audit", "query", "--jti", "-Yabc"],
            &["leak", "--jti", "-Yabc"],
            &["nonce", "use", "-Yabc"],
            &["revoke", "jti", "-Yabc"],
            &["revoke", "key", "-Yabc"],
        ] {
            let parsed = Cli::try_parse_from([&["hostbadge"], words].concat());
            assert!(parsed.is_ok(), "{words:?}: {}", parsed.err().map(|e| e.to_string()).unwrap_or_default());
        }
    }
}
