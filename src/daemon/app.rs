//! Builds the components, runs until a signal, and stops everything in order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ca_manager::{self, CaDeps, CaHandle};
use super::harden::max_connections_for_rlimit;
use super::issuer_supervisor::{self, IssuerDeps, IssuerHandle};
use super::logging::start_logging;
use super::memory::release_startup_memory;
use super::posture_monitor::{self, PostureDeps, PostureHandle};
use super::servers::{self, ServerDeps, ServersHandle};
use super::signals::{Request, Signals};
use super::sockets::open_sockets;
use super::startup::Startup;
use super::storage::Storage;
use super::swtpm_supervisor::{self, SwtpmHandle};
use super::watchdog::{self, WatchdogHandle};
use super::{Arguments, Error, notify};
use crate::agents::AgentRegistry;
use crate::api::{AdminApi, AgentApi, ConnectionLimits, WorkloadApi};
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::config::{Config, Paths};
use crate::federation::Federation;
use crate::issue::{Enrollment, EvidenceSlots, FairQueue, Issuer, IssuerConfig, RotationPolicy, TpmSigner};
use crate::pki::CertificateIssuer;
use crate::policy::{AdminPolicy, Limiter, Rate};
use crate::posture::{EventLogFile, ImaListFile, PostureState};
use crate::service::{IdentityService, ServiceDeps};
use crate::tpm::{SoftwareTpm, Tpm, TpmConfig};

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
/// is no such error: the daemon starts, issues nothing, and names the cause in `hostbadge status`.
pub fn run(arguments: &Arguments, config: Config, hardening_warnings: &[String]) -> Result<(), Error> {
    let journal = start_logging(&config.log, Clock::System)?;
    for warning in hardening_warnings {
        tracing::warn!("{warning}");
    }
    let storage = Storage::open(&config.paths, journal.clone(), Clock::System)?;
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
    posture: PostureHandle,
    servers: ServersHandle,
    watchdog: WatchdogHandle,
    swtpm: Option<SwtpmHandle>,
}

impl App {
    /// Opens the sockets and spawns the components, in the order of their dependencies. Call it inside the
    /// runtime.
    fn build(dev_dir: Option<PathBuf>, config: Config, audit: Audit) -> Result<App, Error> {
        let clock = Clock::System;
        let swtpm = dev_dir.as_ref().map(|dir| SoftwareTpm::start(&dir.join("tpm"))).transpose()?;
        let tpm_config = tpm_config(&config, swtpm.as_ref())?;
        let agents = AgentRegistry::open(&config.paths.agents, config.trust_domain_length(), clock.clone());
        for fault in &agents.load_status().faults {
            tracing::error!(event = "agents-rejected", "{fault}");
        }
        let federation = Federation::open(&config.paths.federation);
        for fault in federation.diagnostics().iter() {
            tracing::error!(event = "agents-rejected", "{fault}");
        }
        let admin_group =
            nix::unistd::Group::from_name(&config.admin.group).ok().flatten().map(|group| group.gid.as_raw());
        let signals = Signals::listen()?;
        let sockets = open_sockets(&config.paths.run, admin_group)?;

        let mut startup = Startup::default();
        let issuer = Issuer::default();
        let enrollment = Enrollment::open(&config.paths.state);
        let event_log = EventLogFile::in_dir(&config.paths.run);
        let ima_list = ImaListFile::in_dir(&config.paths.run);
        let issuer_handle = issuer_supervisor::spawn(
            IssuerDeps {
                tpm_config,
                state_dir: config.paths.state.clone(),
                issuer_config: IssuerConfig {
                    trust_domain: config.trust_domain.clone(),
                    issuer: config.issuer.clone(),
                },
                rotation_policy: RotationPolicy {
                    interval: config.keys.rotate_every,
                    publish_before: config.keys.publish_before,
                },
                seal_pcrs: config.seal.pcrs.clone(),
                event_log: event_log.clone(),
                issuer: issuer.clone(),
                agents: agents.clone(),
                audit: audit.clone(),
                enrollment: enrollment.clone(),
                clock: clock.clone(),
            },
            &mut startup,
        );
        let certificate_issuer = CertificateIssuer::new(config.certificates.ttl);
        let ca = ca_manager::spawn(
            CaDeps {
                certificate_issuer: certificate_issuer.clone(),
                issuer: issuer.clone(),
                agents: agents.clone(),
                audit: audit.clone(),
                clock: clock.clone(),
                enrollment: enrollment.clone(),
                state_dir: config.paths.state.clone(),
                tpm: issuer_handle.tpm.clone(),
                keystore: issuer_handle.keystore.clone(),
                issuer_first_attempt: issuer_handle.first_attempt.clone(),
            },
            &mut startup,
        );
        let posture = PostureState::new(config.posture.mode, config.posture.max_age);
        let posture_handle = posture_monitor::spawn(
            PostureDeps {
                config: config.posture.clone(),
                state_dir: config.paths.state.clone(),
                event_log: event_log.clone(),
                ima_list: ima_list.clone(),
                posture: posture.clone(),
                agents: agents.clone(),
                audit: audit.clone(),
                clock: clock.clone(),
                tpm: issuer_handle.tpm.clone(),
                keystore: issuer_handle.keystore.clone(),
                issuer_first_attempt: issuer_handle.first_attempt.clone(),
            },
            &mut startup,
        );

        let limits = &config.limits;
        let limiter = Limiter::new(
            Rate { per_second: limits.rate, burst: limits.burst },
            Rate { per_second: limits.stranger_rate, burst: limits.stranger_burst },
            Rate { per_second: limits.tpm_rate, burst: limits.tpm_burst },
        );
        let service = IdentityService::new(ServiceDeps {
            agents,
            federation,
            limiter,
            issuer,
            audit: audit.clone(),
            audit_dir: config.paths.audit.clone(),
            clock,
            tpm_state: issuer_handle.tpm_state.clone(),
            tpm_description: issuer_handle.tpm_info.clone(),
            tpm: issuer_handle.tpm.clone(),
            blocked_reason: issuer_handle.blocked_reason.clone(),
            tpm_signer: TpmSigner {
                queue: FairQueue::default(),
                tpm: issuer_handle.tpm.clone(),
                rsa_blocked_reason: issuer_handle.rsa_blocked_reason.clone(),
            },
            evidence_slots: EvidenceSlots::default(),
            event_log,
            ima_log: ima_list,
            enrollment,
            posture,
            compared_pcrs: config.posture.pcrs.clone(),
            posture_commands: posture_handle.commands.clone(),
            key_admin: issuer_handle.key_admin.clone(),
            certificate_issuer,
            admin_policy: AdminPolicy {
                admin_group,
                dev_uid: dev_dir.as_ref().map(|_| nix::unistd::geteuid().as_raw()),
            },
        });
        let connection_limits = ConnectionLimits::new(
            limits.connections.min(max_connections_for_rlimit()),
            limits.connections_per_uid,
        );
        let for_workers = service.with_inline_audit();
        let workload = WorkloadApi::new(for_workers.clone())?;
        let agent = AgentApi::new(for_workers);
        let admin = AdminApi::new(service.clone(), connection_limits.clone());
        let servers = servers::spawn(ServerDeps { sockets, agent, workload, admin, connection_limits })?;
        let watchdog = watchdog::spawn(audit.clone(), servers.workers.clone());
        Ok(App {
            dev_dir,
            config,
            audit,
            service,
            startup,
            signals,
            issuer: issuer_handle,
            ca,
            posture: posture_handle,
            servers,
            watchdog,
            swtpm: swtpm.map(swtpm_supervisor::spawn),
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
        self.servers.drain().await;
        let tpm = self.issuer.tpm.clone();
        tokio::join!(self.ca.stop(), self.posture.stop(), self.issuer.stop());
        let tpm = tpm.borrow().clone();
        if let Some(tpm) = tpm {
            shut_down_tpm(tpm).await?;
        }
        match self.swtpm {
            Some(swtpm) => Ok(swtpm.stop().await?),
            None => Ok(()),
        }
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

async fn reload_agents(service: IdentityService) {
    notify::reloading();
    if let Err(e) = service.reload_on_signal("SIGHUP").await {
        tracing::error!("the agents were not reloaded on SIGHUP: {e}");
    }
    notify::ready(&service.status_line());
}

/// Ends the TPM thread, which flushes its objects and sessions. Waits at most for the TPM's deadline.
async fn shut_down_tpm(tpm: Tpm) -> Result<(), Error> {
    tokio::task::spawn_blocking(move || tpm.shutdown()).await?;
    Ok(())
}

/// Prints the status line and commands to try to standard output.
fn print_dev_banner(dir: &Path, paths: &Paths, service: &IdentityService) {
    let socket = paths.run.join("agent.sock");
    let socket = socket.display();
    println!("hostbadged: a development host in {}", dir.display());
    println!("  {}", service.status_line());
    println!("  curl --unix-socket {socket} -d audience=https://api.example.com http://localhost/v1/token");
    println!("  HOSTBADGE_SOCKET={socket} hostbadge whoami");
}
