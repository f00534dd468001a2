//! The daemon's configuration: one TOML file, in which every key is optional.

mod anomaly;
mod approvals;
mod audit;
mod checks;
mod dev;
mod diagnostic;
mod directory;
mod durations;
mod escape;
mod keys;
mod metrics;
mod policy;
mod posture;
mod schema;
mod sections;
mod signals;
mod tenants;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use toml::Spanned;

pub use anomaly::{AnomalyAction, AnomalyActions, AnomalyRule, AnomalySection, RawAgentAnomaly};
pub use approvals::ApprovalsSection;
pub use audit::{AuditSection, AuditSync, CheckpointSettings, KeepLimits};
use checks::{
    check_certificates, check_issuer, check_keys, check_limits, check_seal, check_tokens, check_trust_domain,
};
pub use dev::{dev_config_path, init_dev_dir};
pub use diagnostic::{Diagnostic, SourceFile, insecure_permissions};
pub use directory::list_files;
pub use durations::{RawDuration, parse_duration};
pub use escape::{escape_unprintable, escape_unprintable_json, is_escaped_in_json};
use metrics::check_metrics;
pub use metrics::{MAX_AGENT_SERIES, MetricsSection};
pub use policy::PolicySection;
use posture::check_posture;
pub use posture::{PostureMode, PostureSection};
pub use schema::{Key, Kind};
pub use sections::{
    AdminSection, AgentsSection, CertificatesSection, ChangeSection, ClockSection, KeysSection,
    LimitsSection, LogLevel, LogSection, LogTarget, Paths, RequiredAdministrators, SealSection,
    TokensSection, TpmSection,
};
pub use signals::SignalSection;
use signals::check_signals;
pub use tenants::TenantSection;
use tenants::check_tenants;

/// The configuration file, unless the command line names another.
pub const DEFAULT_CONFIG_PATH: &str = "/etc/hostbadge/hostbadged.toml";

/// The configuration, with defaults for keys that the file does not set.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The SPIFFE trust domain. Default: `<host-id>.internal`.
    pub trust_domain: Option<String>,
    /// The claim `iss` of all tokens. Default: `https://<trust-domain>`.
    pub issuer: Option<String>,
    /// The table `[paths]`.
    pub paths: Paths,
    /// Whether the file sets `paths.federation`: the directory must exist then.
    pub needs_federation: bool,
    /// The table `[agents]`.
    pub agents: AgentsSection,
    /// The table `[change]`.
    pub change: ChangeSection,
    /// The table `[tpm]`.
    pub tpm: TpmSection,
    /// The table `[keys]`.
    pub keys: KeysSection,
    /// The table `[tokens]`.
    pub tokens: TokensSection,
    /// The table `[certificates]`.
    pub certificates: CertificatesSection,
    /// The table `[clock]`.
    pub clock: ClockSection,
    /// The table `[seal]`.
    pub seal: SealSection,
    /// The table `[limits]`.
    pub limits: LimitsSection,
    /// Whether the file sets `paths.policies`: the directory must exist then.
    pub needs_policies: bool,
    /// The table `[policy]`.
    pub policy: PolicySection,
    /// The table `[posture]`.
    pub posture: PostureSection,
    /// The table `[anomaly]`.
    pub anomaly: AnomalySection,
    /// The table `[approvals]`.
    pub approvals: ApprovalsSection,
    /// The table `[audit]`.
    pub audit: AuditSection,
    /// The table `[log]`.
    pub log: LogSection,
    /// The table `[admin]`.
    pub admin: AdminSection,
    /// The table `[metrics]`.
    pub metrics: MetricsSection,
    /// The tables `[[signals]]`.
    pub signals: Vec<SignalSection>,
    /// The tables `[tenant.NAME]`, by name.
    pub tenants: BTreeMap<String, TenantSection>,
}

/// The file's content. The defaults of `paths` depend on `--dev`, so they are applied afterwards.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    trust_domain: Option<Spanned<String>>,
    issuer: Option<Spanned<String>>,
    #[serde(default)]
    paths: RawPaths,
    #[serde(default)]
    agents: AgentsSection,
    #[serde(default)]
    change: ChangeSection,
    #[serde(default)]
    tpm: TpmSection,
    #[serde(default)]
    keys: OptionalSpan<KeysSection>,
    #[serde(default)]
    tokens: OptionalSpan<TokensSection>,
    #[serde(default)]
    certificates: OptionalSpan<CertificatesSection>,
    #[serde(default)]
    clock: ClockSection,
    #[serde(default)]
    seal: OptionalSpan<SealSection>,
    #[serde(default)]
    limits: OptionalSpan<LimitsSection>,
    #[serde(default)]
    policy: PolicySection,
    #[serde(default)]
    posture: OptionalSpan<PostureSection>,
    #[serde(default)]
    anomaly: AnomalySection,
    #[serde(default)]
    approvals: ApprovalsSection,
    #[serde(default)]
    audit: AuditSection,
    #[serde(default)]
    log: LogSection,
    #[serde(default)]
    admin: AdminSection,
    #[serde(default)]
    metrics: OptionalSpan<MetricsSection>,
    #[serde(default)]
    signals: Vec<Spanned<SignalSection>>,
    #[serde(default, rename = "tenant")]
    tenants: BTreeMap<String, Spanned<TenantSection>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawPaths {
    agents: Option<Spanned<PathBuf>>,
    roles: Option<Spanned<PathBuf>>,
    policies: Option<Spanned<PathBuf>>,
    federation: Option<Spanned<PathBuf>>,
    state: Option<Spanned<PathBuf>>,
    audit: Option<Spanned<PathBuf>>,
    run: Option<Spanned<PathBuf>>,
}

/// A table with its span in the file; `None` if the file does not have it.
#[derive(Default)]
struct OptionalSpan<T>(Option<Spanned<T>>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OptionalSpan<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(|table| OptionalSpan(Some(table)))
    }
}

impl<T: Default> OptionalSpan<T> {
    /// The table, or its defaults. Faults that `check` finds are reported at the table's line.
    fn checked(
        self,
        source: &SourceFile,
        check: fn(&T) -> Vec<String>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> T {
        let Some(table) = self.0 else { return T::default() };
        diagnostics.extend(
            check(table.get_ref()).into_iter().map(|message| source.diagnostic(table.span(), message)),
        );
        table.into_inner()
    }
}

impl Config {
    /// Reads a configuration file; `paths` are the defaults for paths that it does not set.
    ///
    /// # Errors
    /// All unknown keys, wrong types and invalid values, or the first syntax error.
    pub fn read(file: &Path, paths: Paths) -> Result<Config, Vec<Diagnostic>> {
        let source = SourceFile::read(file).map_err(|diagnostic| vec![diagnostic])?;
        let parsed = source.parse::<ConfigFile>(keys::KEYS);
        let mut diagnostics = parsed.faults;
        let Some(config_file) = parsed.values else { return Err(source.sorted(diagnostics)) };

        if let Some(domain) = &config_file.trust_domain
            && let Err(message) = check_trust_domain(domain.get_ref())
        {
            diagnostics.push(source.diagnostic(domain.span(), message));
        }
        if let Some(issuer) = &config_file.issuer
            && let Err(message) = check_issuer(issuer.get_ref())
        {
            diagnostics.push(source.diagnostic(issuer.span(), message));
        }
        let mut absolute_or_default =
            |configured: Option<Spanned<PathBuf>>, default: PathBuf| match configured {
                Some(path) if !path.get_ref().is_absolute() => {
                    diagnostics.push(source.diagnostic(path.span(), "must be an absolute path"));
                    default
                }
                Some(path) => path.into_inner(),
                None => default,
            };
        let needs_federation = config_file.paths.federation.is_some();
        let needs_policies = config_file.paths.policies.is_some();
        let is_beside_agents = config_file.paths.agents.is_some();
        let agents = absolute_or_default(config_file.paths.agents, paths.agents);
        let beside_agents = |name: &str, default: PathBuf| match is_beside_agents {
            true => agents.with_file_name(name),
            false => default,
        };
        let (roles, policies) =
            (beside_agents("roles.d", paths.roles), beside_agents("policies", paths.policies));
        let paths = Paths {
            agents,
            roles: absolute_or_default(config_file.paths.roles, roles),
            policies: absolute_or_default(config_file.paths.policies, policies),
            federation: absolute_or_default(config_file.paths.federation, paths.federation),
            state: absolute_or_default(config_file.paths.state, paths.state),
            audit: absolute_or_default(config_file.paths.audit, paths.audit),
            run: absolute_or_default(config_file.paths.run, paths.run),
        };
        let keys = config_file.keys.checked(&source, check_keys, &mut diagnostics);
        let tokens = config_file.tokens.checked(&source, check_tokens, &mut diagnostics);
        let certificates = config_file.certificates.checked(&source, check_certificates, &mut diagnostics);
        let seal = config_file.seal.checked(&source, check_seal, &mut diagnostics);
        let limits = config_file.limits.checked(&source, check_limits, &mut diagnostics);
        let metrics = config_file.metrics.checked(&source, check_metrics, &mut diagnostics);
        let posture = config_file.posture.checked(&source, check_posture, &mut diagnostics);
        let signals = check_signals(config_file.signals, &source, &mut diagnostics);
        let tenants = check_tenants(config_file.tenants, &source, &mut diagnostics);
        if !diagnostics.is_empty() {
            return Err(source.sorted(diagnostics));
        }
        Ok(Config {
            trust_domain: config_file.trust_domain.map(Spanned::into_inner),
            issuer: config_file.issuer.map(|i| i.into_inner()),
            paths,
            needs_federation,
            agents: config_file.agents,
            change: config_file.change,
            needs_policies,
            policy: config_file.policy,
            tpm: config_file.tpm,
            keys,
            tokens,
            certificates,
            clock: config_file.clock,
            seal,
            limits,
            posture,
            anomaly: config_file.anomaly,
            approvals: config_file.approvals,
            audit: config_file.audit,
            log: config_file.log,
            admin: config_file.admin,
            metrics,
            signals,
            tenants,
        })
    }

    /// The length of the trust domain in bytes, also while the host id of `<host-id>.internal` is not known
    /// yet.
    pub fn trust_domain_length(&self) -> usize {
        self.trust_domain.as_ref().map_or(26 + ".internal".len(), String::len)
    }

    /// Reads `file`, else [`DEFAULT_CONFIG_PATH`]; if neither exists, all keys have their defaults.
    ///
    /// # Errors
    /// As [`Config::read`], also if `file` does not exist.
    pub fn load(file: Option<&Path>) -> Result<Config, Vec<Diagnostic>> {
        match file {
            Some(file) => Config::read(file, Paths::default()),
            None if !Path::new(DEFAULT_CONFIG_PATH).exists() => Ok(Config::default()),
            None => Config::read(Path::new(DEFAULT_CONFIG_PATH), Paths::default()),
        }
    }
}

#[cfg(test)]
mod tests;
