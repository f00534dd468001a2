//! hostbadged: the daemon. Configuration, state, TPM, issuer, listeners, ready, signals, drain.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use hostbadge::agents::{AgentRegistry, AgentSet};
use hostbadge::api::{AdminApi, AgentApi, Api, ConnectionLimits, Server, WorkerPool, WorkloadApi};
use hostbadge::audit::{Audit, Event};
use hostbadge::clock::Clock;
use hostbadge::config::{self, Config, Diagnostic, Paths};
use hostbadge::daemon::{
    self, Arguments, CaManager, IssuerStatus, IssuerSupervisor, KeyRotator, PostureMonitor, RsaKeyManager,
    Watchdog,
};
use hostbadge::federation::{self, Federation};
use hostbadge::issue::{
    self, Enrollment, EvidenceSlots, FairQueue, Issuer, IssuerConfig, RotationPolicy, TpmSigner,
};
use hostbadge::pki::CertificateIssuer;
use hostbadge::policy::{AdminPolicy, Limiter, Rate};
use hostbadge::posture::{self, EventLogFile, ImaListFile, PostureState};
use hostbadge::service::{IdentityService, ServiceDeps};
use hostbadge::store::{self, DirLock};
use hostbadge::tpm::{SoftwareTpm, TpmConfig};

/// Faults that a person has to mend: systemd is told not to try again on this exit status.
const EXIT_CONFIG: u8 = 2;
/// A start that takes longer goes on degraded, and says what it waits for.
const STARTUP_GRACE: Duration = Duration::from_secs(10);
/// One processor signs more than thirty thousand tokens a second; more than eight would only take memory.
const MAX_WORKERS: usize = 8;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let hardening_warnings = daemon::harden();
    let config = match read_config(&arguments) {
        Ok(config) => config,
        Err(faults) => return print_diagnostics(&faults),
    };
    if arguments.check {
        return check_config(&config);
    }
    match run(&arguments, config, &hardening_warnings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hostbadged: {e}");
            ExitCode::FAILURE
        }
    }
}

fn read_config(arguments: &Arguments) -> Result<Config, Vec<Diagnostic>> {
    let Some(dir) = &arguments.dev else { return Config::load(arguments.config.as_deref()) };
    let file_fault = |e: io::Error| vec![Diagnostic { file: dir.clone(), line: None, what: e.to_string() }];
    let file = config::init_dev_dir(dir).map_err(file_fault)?;
    let dir = std::fs::canonicalize(dir).map_err(file_fault)?;
    Config::read(&file, Paths::under(&dir))
}

fn check_config(config: &Config) -> ExitCode {
    let agents = AgentSet::read(&config.paths.agents, config.trust_domain_length());
    let bundles = federation::read_bundles(&config.paths.federation);
    match (agents, bundles) {
        (Ok(agents), Ok(bundles)) => {
            let federated = match bundles.len() {
                0 => String::new(),
                n => format!(", {n} other trust domains"),
            };
            println!("{}: {} agents{federated}, no faults", config.paths.agents.display(), agents.len());
            ExitCode::SUCCESS
        }
        (agents, bundles) => {
            print_diagnostics(&[agents.err().unwrap_or_default(), bundles.err().unwrap_or_default()].concat())
        }
    }
}

fn print_diagnostics(diagnostics: &[Diagnostic]) -> ExitCode {
    for diagnostic in diagnostics {
        eprintln!("{diagnostic}");
    }
    ExitCode::from(EXIT_CONFIG)
}

fn run(
    arguments: &Arguments,
    config: Config,
    hardening_warnings: &[String],
) -> Result<(), Box<dyn std::error::Error>> {
    let clock = Clock::System;
    let journal = daemon::start_logging(&config.log, clock.clone())?;
    for warning in hardening_warnings {
        tracing::warn!("{warning}");
    }
    store::ensure_dir(&config.paths.state, 0o700)?;
    let _lock = DirLock::acquire(&config.paths.state)?;
    store::ensure_dir(&config.paths.audit, 0o700)?;
    let _audit_lock = DirLock::acquire(&config.paths.audit)?;
    store::ensure_dir(&config.paths.run, 0o755)?;
    let audit = Audit::open(&config.paths.audit, journal.clone(), clock.clone())
        .map_err(|e| format!("{}: {e}", config.paths.audit.display()))?;

    let swtpm = match &arguments.dev {
        Some(dir) => Some(SoftwareTpm::start(&dir.join("tpm"))?),
        None => None,
    };
    let agents = AgentRegistry::open(&config.paths.agents, config.trust_domain_length(), clock.clone());
    for fault in &agents.load_status().faults {
        tracing::error!(event = "agents-rejected", "{fault}");
    }

    let federation = Federation::open(&config.paths.federation);
    for fault in federation.diagnostics().iter() {
        tracing::error!(event = "agents-rejected", "{fault}");
    }

    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(8).enable_all().build()?;
    let audit_log = audit.clone();
    let result =
        runtime.block_on(serve(arguments.dev.as_deref(), &config, clock, agents, federation, audit, swtpm));
    runtime.shutdown_timeout(Duration::from_secs(1));
    audit_log.sync();
    journal.flush(Duration::from_secs(2));
    result
}

async fn serve(
    dev: Option<&Path>,
    config: &Config,
    clock: Clock,
    agents: AgentRegistry,
    federation: Federation,
    audit: Audit,
    software: Option<SoftwareTpm>,
) -> Result<(), Box<dyn std::error::Error>> {
    let signals = Signals::listen()?;
    let issuer = Issuer::default();
    let naming = IssuerConfig { trust_domain: config.trust_domain.clone(), issuer: config.issuer.clone() };
    let tpm = TpmConfig {
        tcti: match &software {
            Some(software) => software.tcti(),
            None => config.tpm.tcti.parse()?,
        },
        allow_emulator: config.tpm.allow_emulator || software.is_some(),
        deadline: config.tpm.deadline,
        probe_every: config.tpm.probe_every,
        ..TpmConfig::default()
    };
    let rotation =
        RotationPolicy { interval: config.keys.rotate_every, publish_before: config.keys.publish_before };
    let state = config.paths.state.clone();
    let (rsa_keeper, rsa, rsa_waits) =
        RsaKeyManager::new(agents.clone(), state.clone(), audit.clone(), clock.clone());
    let pcrs = config.seal.pcrs.clone();
    let boot_log = EventLogFile::in_dir(&config.paths.run);
    let (tell, view) = IssuerStatus::channel();
    let keeper = IssuerSupervisor {
        config: tpm,
        state_dir: state,
        issuer_config: naming,
        rotation_policy: rotation,
        seal_pcrs: pcrs,
        event_log: boot_log.clone(),
        issuer: issuer.clone(),
        clock: clock.clone(),
        status: tell,
    };
    let (orders, desk) = issue::key_command_channel();
    let enrollment = Enrollment::open(&config.paths.state);
    let rotator = KeyRotator {
        issuer: issuer.clone(),
        audit: audit.clone(),
        clock: clock.clone(),
        commands: desk,
        rsa_key: rsa,
        enrollment: enrollment.clone(),
    };

    let limits = &config.limits;
    let limiter = Limiter::new(
        Rate { per_second: limits.rate, burst: limits.burst },
        Rate { per_second: limits.stranger_rate, burst: limits.stranger_burst },
        Rate { per_second: limits.tpm_rate, burst: limits.tpm_burst },
    );
    let ima_log = ImaListFile::in_dir(&config.paths.run);
    let posture_state = PostureState::new(config.posture.mode, config.posture.max_age);
    let certificate_issuer = CertificateIssuer::new(config.certificates.ttl);
    let (looks, looks_desk) = posture::command_channel();
    let group =
        nix::unistd::Group::from_name(&config.admin.group).ok().flatten().map(|group| group.gid.as_raw());
    let road = IdentityService::new(ServiceDeps {
        agents: agents.clone(),
        federation,
        limiter,
        issuer: issuer.clone(),
        audit: audit.clone(),
        audit_dir: config.paths.audit.clone(),
        clock: clock.clone(),
        tpm_state: view.tpm_state.clone(),
        tpm_description: view.tpm_info,
        tpm: view.tpm.clone(),
        blocked_reason: view.blocked_reason.clone(),
        tpm_signer: TpmSigner {
            queue: FairQueue::default(),
            tpm: view.tpm.clone(),
            rsa_blocked_reason: rsa_waits,
        },
        evidence_slots: EvidenceSlots::default(),
        event_log: boot_log.clone(),
        ima_log: ima_log.clone(),
        enrollment: enrollment.clone(),
        posture: posture_state.clone(),
        compared_pcrs: config.posture.pcrs.clone(),
        posture_commands: looks,
        key_admin: orders,
        certificate_issuer: certificate_issuer.clone(),
        admin_policy: AdminPolicy {
            admin_group: group,
            dev_uid: dev.map(|_| nix::unistd::geteuid().as_raw()),
        },
    });
    let (certified, mut settled_authority) = tokio::sync::watch::channel(false);
    let certifier = CaManager {
        certificate_issuer: certificate_issuer.clone(),
        issuer,
        agents: agents.clone(),
        audit: audit.clone(),
        clock: clock.clone(),
        enrollment,
        state_dir: config.paths.state.clone(),
        tpm: view.tpm.clone(),
        keystore: view.keystore.clone(),
        issuer_startup_done: view.startup_done.clone(),
        startup_done: certified,
    };
    let (looked, mut settled_posture) = tokio::sync::watch::channel(false);
    let watcher = PostureMonitor {
        config: config.posture.clone(),
        state_dir: config.paths.state.clone(),
        event_log: boot_log,
        ima_list: ima_log,
        posture: posture_state,
        agents,
        audit: audit.clone(),
        clock: clock.clone(),
        commands: looks_desk,
        tpm: view.tpm.clone(),
        keystore: view.keystore.clone(),
        issuer_startup_done: view.startup_done.clone(),
        startup_done: looked,
    };

    let sockets = daemon::open_sockets(&config.paths.run, group)?;
    let crowd = ConnectionLimits::new(
        limits.connections.min(daemon::max_connections_for_rlimit()),
        limits.connections_per_uid,
    );
    let admin = Api::Admin(Arc::new(AdminApi::new(road.clone(), crowd.clone())));
    let for_lanes = road.with_inline_audit();
    let workload = WorkloadApi::new(for_lanes.clone())?;
    let agent = Api::Agent(Arc::new(AgentApi::new(for_lanes)));

    let stop = CancellationToken::new();
    let lanes_end = CancellationToken::new();
    let lanes = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MAX_WORKERS);
    let lanes = Arc::new(WorkerPool::start(lanes, &lanes_end)?);
    tokio::spawn(workload.clone().report_health());
    let workload = Api::Workload(workload);
    let workload = Server::new(sockets.workload, workload, crowd.clone(), Some(lanes.clone()), stop.clone())?;
    let agent = Server::new(sockets.agent, agent, crowd, Some(lanes.clone()), stop.clone())?;
    // Seats and a thread of its own, so that nothing at the other door ever keeps the administrator out.
    let admin = Server::new(sockets.admin, admin, ConnectionLimits::new(64, 32), None, stop.clone())?;
    let admin = tokio::spawn(admin.run());
    tokio::spawn(keeper.run(rotator, rsa_keeper));
    tokio::spawn(watcher.run());
    tokio::spawn(certifier.run());
    tokio::spawn(Watchdog { audit: audit.clone(), workers: lanes }.run());

    let mut settled = view.startup_done;
    let settled = async {
        let _ = settled.wait_for(|settled| *settled).await;
        let _ = settled_posture.wait_for(|settled| *settled).await;
        let _ = settled_authority.wait_for(|settled| *settled).await;
    };
    let _ = tokio::time::timeout(STARTUP_GRACE, settled).await;
    // Callers who come during a restart wait in the socket's queue and then get what they came for.
    let servers = [admin, tokio::spawn(agent.run()), tokio::spawn(workload.run())];
    let version = env!("CARGO_PKG_VERSION");
    // A log that cannot be written is told by status and by each refusal; it is no reason not to start.
    let _ = audit
        .record_event(
            Event::DaemonStarted,
            &format!("hostbadged {version} serves {}", config.paths.run.display()),
        )
        .await;
    daemon::ready(&road.status_line());
    if let Some(dir) = dev {
        print_dev_banner(dir, config, &road);
    }
    daemon::release_startup_memory();

    run_until_signal(signals, &road, software).await?;

    daemon::stopping();
    let _ = audit.record_event(Event::DaemonStopping, "hostbadged ends").await;
    stop.cancel();
    for server in servers {
        let _ = server.await;
    }
    lanes_end.cancel();
    let (authority, state, now) = (certificate_issuer, config.paths.state.clone(), clock.now());
    let written = tokio::task::spawn_blocking(move || authority.save_issued(&state, now)).await?;
    if let Err(e) = written {
        tracing::warn!("which certificates have not expired could not be written: {e}");
    }
    let handle = view.tpm.borrow().clone();
    if let Some(tpm) = handle {
        tokio::task::spawn_blocking(move || tpm.shutdown()).await?;
    }
    Ok(())
}

/// What the daemon is told by signals. Made before anybody is told that it is ready: a signal that nobody listens for
/// would end it in the middle of things.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// SIGHUP reloads the agents; SIGTERM and SIGINT end the daemon. A development host's TPM is kept alive meanwhile.
async fn run_until_signal(
    mut signals: Signals,
    service: &IdentityService,
    mut swtpm: Option<SoftwareTpm>,
) -> io::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                // Beside this loop: files on a dead network mount must not keep the daemon from ending.
                tokio::spawn(reload_agents(service.clone()));
            }
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = tick.tick() => {
                daemon::set_status(&service.status_line());
                swtpm = ensure_swtpm_running(swtpm).await?;
            }
        }
    }
    if let Some(swtpm) = swtpm {
        tokio::task::spawn_blocking(move || swtpm.stop()).await??;
    }
    Ok(())
}

async fn reload_agents(service: IdentityService) {
    daemon::reloading();
    if let Err(e) = service.reload_on_signal("SIGHUP").await {
        tracing::error!("SIGHUP: {e}");
    }
    daemon::ready(&service.status_line());
}

async fn ensure_swtpm_running(swtpm: Option<SoftwareTpm>) -> io::Result<Option<SoftwareTpm>> {
    let Some(mut swtpm) = swtpm else { return Ok(None) };
    let (swtpm, outcome) = tokio::task::spawn_blocking(move || {
        let outcome = swtpm.ensure_running();
        (swtpm, outcome)
    })
    .await?;
    if let Err(e) = outcome {
        tracing::error!("the software TPM cannot be started again: {e}");
    }
    Ok(Some(swtpm))
}

/// What a developer wants to see first.
fn print_dev_banner(dir: &Path, config: &Config, service: &IdentityService) {
    let socket = config.paths.run.join("agent.sock");
    let socket = socket.display();
    println!("hostbadged: a development host in {}", dir.display());
    println!("  {}", service.status_line());
    println!("  curl --unix-socket {socket} -d audience=https://api.example.com http://localhost/v1/token");
    println!("  HOSTBADGE_SOCKET={socket} hostbadge whoami");
}
