//! Reads the configuration, and checks it for `hostbadged --check`.

use std::io::{self, Write};
use std::process::ExitCode;

use super::arguments::Arguments;
use crate::agents::{AgentSet, AgentSource};
use crate::config::{self, Config, Diagnostic, Paths, SignalSection};
use crate::federation;
use crate::plural::counted;
use crate::policy::cedar::{self, PolicySet};
use crate::service::read_signal_keys;

/// Exit status for faults that only the administrator can fix. The systemd unit does not restart the service
/// on it.
const EXIT_CONFIG: u8 = 2;

/// Reads the configuration file that the arguments name; for a development instance, creates the directory's
/// configuration first, unless it is only checked.
///
/// # Errors
/// Every fault in the file, or the one that kept it from being read.
pub fn read_config(arguments: &Arguments) -> Result<Config, Vec<Diagnostic>> {
    let Some(dir) = &arguments.dev else { return Config::load(arguments.config.as_deref()) };
    let file_fault =
        |e: io::Error| vec![Diagnostic { file: dir.clone(), line: None, message: e.to_string() }];
    let file = match arguments.check {
        false => config::init_dev_dir(dir).map_err(file_fault)?,
        true => config::dev_config_path(dir),
    };
    if arguments.check && !file.exists() {
        let message = "is no development host, which hostbadged --dev creates; a check creates nothing";
        return Err(vec![Diagnostic { file: dir.clone(), line: None, message: message.into() }]);
    }
    let dir = std::fs::canonicalize(dir).map_err(file_fault)?;
    Config::read(&file, Paths::under(&dir))
}

/// Reads the agents, the policies and the bundles of other trust domains, and prints their faults or a summary. Returns
/// exit status 0 or 2.
pub fn check_config(config: &Config) -> ExitCode {
    let agents = AgentSet::read_from(&AgentSource::from(config));
    let bundles = federation::read_existing_bundles(&config.paths.federation, config.needs_federation);
    let policies = PolicySet::read(&config.paths.policies);
    let (agents, policies, bundles) = match (agents, policies, bundles) {
        (Ok(agents), Ok(policies), Ok(bundles)) => (agents, policies, bundles),
        (agents, policies, bundles) => {
            let faults = [agents.err(), policies.err(), bundles.err()];
            return print_diagnostics(&faults.map(Option::unwrap_or_default).concat());
        }
    };
    let signal_faults: Vec<Diagnostic> = config.signals.iter().filter_map(signal_fault).collect();
    if !signal_faults.is_empty() {
        return print_diagnostics(&signal_faults);
    }
    let mut warnings = agents.warnings_on_host().unwrap_or_default();
    warnings.extend(policies.iter().flat_map(|policies| cedar::warnings(policies, &agents)));
    for warning in warnings {
        let (file, line) = (warning.file.display(), warning.line.unwrap_or(1));
        let _ = writeln!(io::stderr(), "{file}:{line}: warning: {}", warning.message);
    }
    let federated = match bundles.len() {
        0 => String::new(),
        n => format!(", {}", counted(n, "other trust domain")),
    };
    let roles = match agents.roles().len() {
        0 => String::new(),
        n => format!(", {}", counted(n, "role")),
    };
    let policies = match policies {
        None => String::new(),
        Some(set) => format!(", {}", set.counted()),
    };
    let (dir, agents) = (config.paths.agents.display(), counted(agents.len(), "agent"));
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{dir}: {agents}{roles}{policies}{federated}, no faults")
        .and_then(|()| stdout.flush())
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "hostbadged: standard output: {e}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the file of keys of an issuer of signals.
fn signal_fault(section: &SignalSection) -> Option<Diagnostic> {
    let message = read_signal_keys(&section.jwks).err()?;
    Some(Diagnostic { file: section.jwks.clone(), line: None, message })
}

/// Prints faults to standard error, one per line. Returns exit status 2.
pub fn print_diagnostics(diagnostics: &[Diagnostic]) -> ExitCode {
    for diagnostic in diagnostics {
        let _ = writeln!(io::stderr(), "{diagnostic}");
    }
    ExitCode::from(EXIT_CONFIG)
}
