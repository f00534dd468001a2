//! Builds the components, runs until a signal, and stops everything in order.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::activity_loader::{self, ActivityHandle};
use super::admin_group::{self, AdminGroupHandle};
use super::anomaly_monitor::{self, AnomalyHandle};
use super::arguments::Arguments;
use super::ca_manager::{self, CaHandle};
use super::checkpointer::{self, CheckpointHandle};
use super::clock_monitor::{self, ClockMonitorHandle};
use super::credential_manager::{self, CredentialHandle};
use super::delegation_manager::{self, DelegationHandle};
use super::error::Error;
use super::invocation_watcher::{self, InvocationHandle};
use super::issuer_supervisor::{self, IssuerHandle};
use super::latest_time::LatestTime;
use super::logging::start_logging;
use super::memory::release_startup_memory;
use super::notify;
use super::parts::Parts;
use super::posture_monitor::{self, PostureHandle};
use super::revocation_manager::{self, RevocationHandle};
use super::servers::{self, ServersHandle};
use super::signals::{Request, Signals};
use super::sockets::open_sockets;
use super::startup::Startup;
use super::status_list_manager::{self, StatusListHandle};
use super::storage::Storage;
use super::swtpm_supervisor::{self, SwtpmHandle};
use super::tpm_ext::shut_down_tpm;
use super::watchdog::{self, WatchdogHandle};
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::config::{Config, Paths};
use crate::names::{Name, Names};
use crate::policy::AdminPolicy;
use crate::service::IdentityService;
use crate::tpm::{SoftwareTpm, TpmConfig};

/// How often the status line is renewed.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How long blocking work may delay the end of the process.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the journal's queue may delay the end of the process.
const JOURNAL_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Threads for blocking work beside the workers': files, swtpm, the TPM's end.
const MAX_BLOCKING_THREADS: usize = 8;

/// Runs the daemon until SIGTERM or SIGINT. `hardening_warnings` are logged.
///
/// # Errors
/// The daemon cannot start, or did not stop cleanly. A TPM, a state file or an agent file that is not usable
/// is not such an error: the daemon starts, issues nothing, and names the cause in `hostbadge status`.
pub fn run(arguments: &Arguments, config: Config, hardening_warnings: &[String]) -> Result<(), Error> {
    let journal = start_logging(&config.log, Clock::System)?;
    for warning in hardening_warnings {
        tracing::warn!("{warning}");
    }
    let storage = Storage::open(&config.paths, config.audit, journal.clone(), Clock::System)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build()?;
    let audit = storage.audit.clone();
    let result = runtime.block_on(async { App::build(arguments.dev.clone(), config, audit)?.run().await });
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    storage.audit.sync();
    journal.flush(JOURNAL_FLUSH_TIMEOUT);
    result
}

/// The components, running but not yet serving agents.
struct App {
    /// Directory of a development instance.
    dev_dir: Option<PathBuf>,
    config: Config,
    audit: Audit,
    service: IdentityService,
    startup: Startup,
    signals: Signals,
    issuer: IssuerHandle,
    ca: CaHandle,
    checkpoints: CheckpointHandle,
    clock_monitor: ClockMonitorHandle,
    credentials: CredentialHandle,
    revocations: RevocationHandle,
    status_lists: StatusListHandle,
    activity: ActivityHandle,
    anomalies: AnomalyHandle,
    invocations: InvocationHandle,
    delegations: DelegationHandle,
    posture: PostureHandle,
    servers: ServersHandle,
    admin_group: AdminGroupHandle,
    watchdog: WatchdogHandle,
    swtpm: Option<SwtpmHandle>,
}

impl App {
    /// Opens the sockets and spawns the components, in the order of their dependencies. Call it inside the
    /// runtime.
    fn build(dev_dir: Option<PathBuf>, config: Config, audit: Audit) -> Result<App, Error> {
        let swtpm = dev_dir.as_ref().map(|dir| SoftwareTpm::start(&dir.join("tpm"))).transpose()?;
        let tpm_config = tpm_config(&config, swtpm.as_ref())?;
        let names =
            Names::start([&config.admin.group, &config.metrics.group].map(|name| Name::Group(name.clone())))?;
        let parts = Parts::open(&config, names.clone(), audit.clone());
        let signals = Signals::listen()?;
        let admin_policy = admin_policy(&config, names, dev_dir.is_some());
        let groups = (admin_policy.group_number().ok(), admin_policy.metrics_group_number());
        let sockets = open_sockets(&config.paths.run, groups.0, groups.1)?;
        let admin_group = admin_group::spawn(admin_policy.clone(), sockets.own_admin_path.clone());

        let mut startup = Startup::default();
        let issuer = issuer_supervisor::spawn(parts.issuer_deps(&config, tpm_config), &mut startup);
        let ca = ca_manager::spawn(parts.ca_deps(&config, &issuer), &mut startup);
        let latest_time = LatestTime::open(&config.paths.state, &parts.clock_state);
        let clock_monitor =
            clock_monitor::spawn(parts.clock_state.clone(), audit.clone(), parts.agents(), latest_time);
        let credentials = credential_manager::spawn(parts.credential_deps(&issuer), &mut startup);
        let status_lists = status_list_manager::spawn(parts.status_lists(), &mut startup);
        let activity = activity_loader::spawn(parts.activity_deps(&config));
        let anomalies = anomaly_monitor::spawn(parts.anomaly_deps(&config));
        let revocations = revocation_manager::spawn(parts.revocation_deps(&config, &issuer), &mut startup);
        let invocations = invocation_watcher::spawn(parts.invocation_deps(&config));
        let delegations = delegation_manager::spawn(parts.delegation_deps());
        let checkpoints = checkpointer::spawn(parts.checkpoint_deps(&config, &issuer));
        let posture = posture_monitor::spawn(parts.posture_deps(&config, &issuer), &mut startup);
        let service = IdentityService::new(parts.service_deps(&config, &issuer, &posture, admin_policy));
        let servers = servers::spawn(sockets, &service, &config.limits)?;
        let watchdog = watchdog::spawn(audit.clone(), servers.workers.clone());
        let swtpm = swtpm.map(swtpm_supervisor::spawn);
        Ok(App {
            dev_dir,
            config,
            audit,
            service,
            startup,
            signals,
            issuer,
            ca,
            checkpoints,
            clock_monitor,
            credentials,
            revocations,
            status_lists,
            activity,
            anomalies,
            invocations,
            delegations,
            posture,
            servers,
            admin_group,
            watchdog,
            swtpm,
        })
    }

    /// Serves agents until SIGTERM or SIGINT, then stops the daemon.
    async fn run(mut self) -> Result<(), Error> {
        std::mem::take(&mut self.startup).wait().await;
        self.servers.accept_agents();
        let message =
            format!("hostbadged {} serves {}", env!("CARGO_PKG_VERSION"), self.config.paths.run.display());
        // An audit log that cannot be written does not keep the daemon from starting: status and each denial
        // report it.
        let _ = self.audit.record_event(Event::DaemonStarted, &message).await;
        let _ = self.service.record_start_faults().await;
        notify::ready(&self.service.status_line());
        if let Some(dir) = &self.dev_dir {
            print_dev_banner(dir, &self.config.paths, &self.service);
        }
        release_startup_memory();
        self.serve_until_signal().await;
        self.stop().await
    }

    /// Renews the status line, and reloads the agents on SIGHUP.
    async fn serve_until_signal(&mut self) {
        let mut ticks = tokio::time::interval(STATUS_INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => notify::set_status(&self.service.status_line()),
                request = self.signals.next() => match request {
                    // In a task of its own: files on an unreachable network mount must not delay the end of
                    // the daemon.
                    Request::Reload => drop(tokio::spawn(reload_agents(self.service.clone()))),
                    Request::Stop => return,
                },
            }
        }
    }

    /// Stops in the opposite order of the dependencies: requests in progress may need every component,
    /// components may need the TPM, and the TPM's last command needs swtpm.
    async fn stop(self) -> Result<(), Error> {
        notify::stopping();
        let _ = self.audit.record_event(Event::DaemonStopping, "hostbadged is shutting down").await;
        // First, since workers that have ended send no heartbeats.
        self.watchdog.stop().await;
        self.admin_group.stop().await;
        self.clock_monitor.stop().await;
        self.activity.stop().await;
        self.servers.drain().await;
        let tpm = self.issuer.tpm.clone();
        self.anomalies.stop().await;
        self.invocations.stop().await;
        self.delegations.stop().await;
        self.revocations.stop().await;
        self.status_lists.stop().await;
        tokio::join!(self.ca.stop(), self.credentials.stop(), self.posture.stop(), self.issuer.stop());
        // The last of all records are in the log.
        self.checkpoints.stop().await;
        let tpm = tpm.borrow().clone();
        // An error of one does not keep the other from being stopped.
        let tpm_stopped = match tpm {
            Some(tpm) => shut_down_tpm(tpm).await.map_err(Error::from),
            None => Ok(()),
        };
        let swtpm_stopped = match self.swtpm {
            Some(swtpm) => swtpm.stop().await.map_err(Error::from),
            None => Ok(()),
        };
        tpm_stopped.and(swtpm_stopped)
    }
}

/// A development instance uses its own software TPM, a host the configured one.
fn tpm_config(config: &Config, swtpm: Option<&SoftwareTpm>) -> Result<TpmConfig, Error> {
    Ok(TpmConfig {
        tcti: match swtpm {
            Some(swtpm) => swtpm.tcti(),
            None => config.tpm.tcti.parse()?,
        },
        allow_emulator: config.tpm.allow_emulator || swtpm.is_some(),
        deadline: config.tpm.deadline,
        probe_every: config.tpm.probe_every,
        ..TpmConfig::default()
    })
}

/// Administrators are root and the configured group, and for a development instance the user who runs it.
fn admin_policy(config: &Config, names: Names, is_dev: bool) -> AdminPolicy {
    AdminPolicy {
        admin_group: config.admin.group.clone(),
        metrics_group: config.metrics.group.clone(),
        names,
        dev_uid: is_dev.then(|| nix::unistd::geteuid().as_raw()),
    }
}

async fn reload_agents(service: IdentityService) {
    notify::reloading();
    if let Err(e) = service.reload_on_sighup().await {
        tracing::error!("the agents were not reloaded on SIGHUP: {e}");
    }
    notify::ready(&service.status_line());
}

/// Prints the status line and commands to try to standard output.
fn print_dev_banner(dir: &Path, paths: &Paths, service: &IdentityService) {
    let path = |name: &str| paths.run.join(name).display().to_string();
    let (agent, workload, admin) = (path("agent.sock"), path("workload.sock"), path("admin.sock"));
    let text = format!(
        "hostbadged: a development host in {}\n  {}\n\
         \x20 agent socket      HOSTBADGE_SOCKET={agent}\n\
         \x20 workload socket   SPIFFE_ENDPOINT_SOCKET=unix://{workload}\n\
         \x20 admin socket      HOSTBADGE_ADMIN_SOCKET={admin}\n\
         \x20 agents            {}/*.toml, then hostbadge agent reload\n\
         \x20 curl --unix-socket {agent} -d audience=https://api.example.com http://localhost/v1/token\n\
         \x20 HOSTBADGE_ADMIN_SOCKET={admin} hostbadge status\n\
         \x20 HOSTBADGE_SOCKET={agent} hostbadge whoami\n",
        dir.display(),
        service.status_line(),
        paths.agents.display(),
    );
    // The host serves all the same, should standard output fail.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
