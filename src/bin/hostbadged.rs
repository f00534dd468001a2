//! hostbadged: the daemon. Configuration, state, TPM, issuer, listeners, ready, signals, drain.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use hostbadge::agents::{Agents, Registry};
use hostbadge::api::{Admin, AgentApi, Api, Crowd, Lanes, PostureDesk, Room, Server, Status, Workload};
use hostbadge::audit::{Audit, Event};
use hostbadge::clock::Clock;
use hostbadge::config::{self, Config, Fault, Paths};
use hostbadge::daemon::{self, Arguments, Certifier, Keeper, Pulse, Rotator, RsaKeeper, View, Watcher};
use hostbadge::federation::{self, Federation};
use hostbadge::issue::{self, ByTpm, Enrollment, Issuer, Naming, Places, Rotation, Turns};
use hostbadge::pki::Authority;
use hostbadge::policy::{Gate, Limiter, Rate};
use hostbadge::posture::{self, BootLog, ImaList, Watched};
use hostbadge::road::Road;
use hostbadge::store::{self, DirLock};
use hostbadge::tpm::{SoftwareTpm, TpmConfig};

/// Faults that a person has to mend: systemd is told not to try again on this exit status.
const MEND_FIRST: u8 = 2;
/// A start that takes longer goes on degraded, and says what it waits for.
const SETTLE: Duration = Duration::from_secs(10);
/// One processor signs more than thirty thousand tokens a second; more than eight would only take memory.
const LANES_MOST: usize = 8;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let missing = daemon::harden();
    let config = match read_config(&arguments) {
        Ok(config) => config,
        Err(faults) => return report(&faults),
    };
    if arguments.check {
        return check(&config);
    }
    match run(&arguments, config, &missing) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hostbadged: {e}");
            ExitCode::FAILURE
        }
    }
}

fn read_config(arguments: &Arguments) -> Result<Config, Vec<Fault>> {
    let Some(dir) = &arguments.dev else { return Config::system(arguments.config.as_deref()) };
    let whole = |e: io::Error| vec![Fault { file: dir.clone(), line: None, what: e.to_string() }];
    let file = config::lay_out_dev(dir).map_err(whole)?;
    let dir = std::fs::canonicalize(dir).map_err(whole)?;
    Config::read(&file, Paths::below(&dir))
}

fn check(config: &Config) -> ExitCode {
    let agents = Registry::read(&config.paths.agents, config.trust_domain_length());
    let bundles = federation::read(&config.paths.federation);
    match (agents, bundles) {
        (Ok(agents), Ok(bundles)) => {
            let others = match bundles.len() {
                0 => String::new(),
                n => format!(", {n} other trust domains"),
            };
            println!("{}: {} agents{others}, no faults", config.paths.agents.display(), agents.len());
            ExitCode::SUCCESS
        }
        (agents, bundles) => {
            report(&[agents.err().unwrap_or_default(), bundles.err().unwrap_or_default()].concat())
        }
    }
}

fn report(faults: &[Fault]) -> ExitCode {
    for fault in faults {
        eprintln!("{fault}");
    }
    ExitCode::from(MEND_FIRST)
}

fn run(arguments: &Arguments, config: Config, missing: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let clock = Clock::System;
    let journal = daemon::start_logging(&config.log, clock.clone())?;
    for what in missing {
        tracing::warn!("{what}");
    }
    store::ensure_dir(&config.paths.state, 0o700)?;
    let _lock = DirLock::take(&config.paths.state)?;
    store::ensure_dir(&config.paths.audit, 0o700)?;
    let _record_lock = DirLock::take(&config.paths.audit)?;
    store::ensure_dir(&config.paths.run, 0o755)?;
    let audit = Audit::open(&config.paths.audit, journal.clone(), clock.clone())
        .map_err(|e| format!("{}: {e}", config.paths.audit.display()))?;

    let software = match &arguments.dev {
        Some(dir) => Some(SoftwareTpm::start(&dir.join("tpm"))?),
        None => None,
    };
    let agents = Agents::open(&config.paths.agents, config.trust_domain_length(), clock.clone());
    for fault in &agents.loaded().faults {
        tracing::error!(event = "agents-rejected", "{fault}");
    }

    let federation = Federation::open(&config.paths.federation);
    for fault in federation.faults().iter() {
        tracing::error!(event = "agents-rejected", "{fault}");
    }

    let runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(8).enable_all().build()?;
    let record = audit.clone();
    let ended = runtime.block_on(serve(
        arguments.dev.as_deref(),
        &config,
        clock,
        agents,
        federation,
        audit,
        software,
    ));
    runtime.shutdown_timeout(Duration::from_secs(1));
    record.sync();
    journal.flush(Duration::from_secs(2));
    ended
}

async fn serve(
    dev: Option<&Path>,
    config: &Config,
    clock: Clock,
    agents: Agents,
    federation: Federation,
    audit: Audit,
    software: Option<SoftwareTpm>,
) -> Result<(), Box<dyn std::error::Error>> {
    let signals = Signals::listen()?;
    let issuer = Issuer::default();
    let naming = Naming { trust_domain: config.trust_domain.clone(), issuer: config.issuer.clone() };
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
    let rotation = Rotation { every: config.keys.rotate_every, publish_before: config.keys.publish_before };
    let state = config.paths.state.clone();
    let (rsa_keeper, rsa, rsa_waits) =
        RsaKeeper::new(agents.clone(), state.clone(), audit.clone(), clock.clone());
    let pcrs = config.seal.pcrs.clone();
    let boot_log = BootLog::in_dir(&config.paths.run);
    let (tell, view) = View::new();
    let keeper = Keeper {
        config: tpm,
        state_dir: state,
        naming,
        rotation,
        pcrs,
        boot_log: boot_log.clone(),
        issuer: issuer.clone(),
        clock: clock.clone(),
        tell,
    };
    let (orders, desk) = issue::orders();
    let enrollment = Enrollment::open(&config.paths.state);
    let rotator = Rotator {
        issuer: issuer.clone(),
        audit: audit.clone(),
        clock: clock.clone(),
        desk,
        rsa,
        enrollment: enrollment.clone(),
    };

    let limits = &config.limits;
    let limiter = Limiter::new(
        Rate { per_second: limits.rate, burst: limits.burst },
        Rate { per_second: limits.stranger_rate, burst: limits.stranger_burst },
        Rate { per_second: limits.tpm_rate, burst: limits.tpm_burst },
    );
    let road = Road {
        agents,
        federation,
        limiter: Arc::new(limiter),
        issuer,
        audit: audit.clone(),
        clock: clock.clone(),
        tpm: view.tpm.clone(),
        trouble: view.trouble.clone(),
        handle: view.handle.clone(),
        by_tpm: ByTpm { turns: Turns::default(), tpm: view.handle.clone(), rsa_waits },
        places: Places::default(),
        boot_log,
        enrollment,
        ima: ImaList::in_dir(&config.paths.run),
        posture: Watched::new(config.posture.mode, config.posture.max_age),
        authority: Authority::new(config.certificates.ttl),
    };
    let (certified, mut settled_authority) = tokio::sync::watch::channel(false);
    let certifier = Certifier {
        authority: road.authority.clone(),
        issuer: road.issuer.clone(),
        agents: road.agents.clone(),
        audit: audit.clone(),
        clock: clock.clone(),
        enrollment: road.enrollment.clone(),
        state_dir: config.paths.state.clone(),
        handle: view.handle.clone(),
        vault: view.vault.clone(),
        issuer_settled: view.settled.clone(),
        settled: certified,
    };
    let (looks, desk) = posture::orders();
    let (looked, mut settled_posture) = tokio::sync::watch::channel(false);
    let watcher = Watcher {
        config: config.posture.clone(),
        state_dir: config.paths.state.clone(),
        boot_log: road.boot_log.clone(),
        ima: road.ima.clone(),
        watched: road.posture.clone(),
        agents: road.agents.clone(),
        audit: audit.clone(),
        clock: clock.clone(),
        desk,
        handle: view.handle.clone(),
        vault: view.vault.clone(),
        issuer_settled: view.settled.clone(),
        settled: looked,
    };

    let group =
        nix::unistd::Group::from_name(&config.admin.group).ok().flatten().map(|group| group.gid.as_raw());
    let gate = Gate { group, developer: dev.map(|_| nix::unistd::geteuid().as_raw()) };
    let sockets = daemon::open_sockets(&config.paths.run, group)?;
    let crowd =
        Crowd::new(limits.connections.min(daemon::connections_that_fit()), limits.connections_per_uid);
    let status = Status {
        started: clock.now(),
        audit: config.paths.audit.clone(),
        crowd: crowd.clone(),
        tpm: view.facts,
    };
    let admin = Admin {
        road: road.clone(),
        gate,
        status: Arc::new(status),
        keys: orders,
        posture: PostureDesk { orders: looks, compared: config.posture.pcrs.clone() },
        bodies: Room::default(),
    };
    let admin = Api::Admin(Arc::new(admin));
    let for_lanes = Road { audit: audit.for_lanes(), ..road.clone() };
    let workload = Workload::new(for_lanes.clone())?;
    let agent = Api::Agent(Arc::new(AgentApi { road: for_lanes, bodies: Room::default() }));

    let stop = CancellationToken::new();
    let lanes_end = CancellationToken::new();
    let lanes = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, LANES_MOST);
    let lanes = Arc::new(Lanes::start(lanes, &lanes_end)?);
    tokio::spawn(workload.clone().tell_health());
    let workload = Api::Workload(workload);
    let workload = Server::new(sockets.workload, workload, crowd.clone(), Some(lanes.clone()), stop.clone())?;
    let agent = Server::new(sockets.agent, agent, crowd, Some(lanes.clone()), stop.clone())?;
    // Seats and a thread of its own, so that nothing at the other door ever keeps the administrator out.
    let admin = Server::new(sockets.admin, admin, Crowd::new(64, 32), None, stop.clone())?;
    let admin = tokio::spawn(admin.run());
    tokio::spawn(keeper.keep(rotator, rsa_keeper));
    tokio::spawn(watcher.watch());
    tokio::spawn(certifier.keep());
    tokio::spawn(Pulse { audit: audit.clone(), lanes }.beat());

    let mut settled = view.settled;
    let settled = async {
        let _ = settled.wait_for(|settled| *settled).await;
        let _ = settled_posture.wait_for(|settled| *settled).await;
        let _ = settled_authority.wait_for(|settled| *settled).await;
    };
    let _ = tokio::time::timeout(SETTLE, settled).await;
    // Callers who come during a restart wait in the socket's queue and then get what they came for.
    let servers = [admin, tokio::spawn(agent.run()), tokio::spawn(workload.run())];
    let version = env!("CARGO_PKG_VERSION");
    // A log that cannot be written is told by status and by each refusal; it is no reason not to start.
    let _ = audit
        .event(Event::DaemonStarted, &format!("hostbadged {version} serves {}", config.paths.run.display()))
        .await;
    daemon::ready(&summary(&road));
    if let Some(dir) = dev {
        introduce(dir, config, &road);
    }
    daemon::release_start();

    until_told_to_stop(signals, &road, software).await?;

    daemon::stopping();
    let _ = audit.event(Event::DaemonStopping, "hostbadged ends").await;
    stop.cancel();
    for server in servers {
        let _ = server.await;
    }
    lanes_end.cancel();
    let (authority, state, now) = (road.authority.clone(), config.paths.state.clone(), clock.now());
    let written = tokio::task::spawn_blocking(move || authority.write_leaves(&state, now)).await?;
    if let Err(e) = written {
        tracing::warn!("which certificates have not expired could not be written: {e}");
    }
    let handle = view.handle.borrow().clone();
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
async fn until_told_to_stop(
    mut signals: Signals,
    road: &Road,
    mut software: Option<SoftwareTpm>,
) -> io::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = signals.hangup.recv() => {
                // Beside this loop: files on a dead network mount must not keep the daemon from ending.
                tokio::spawn(reload(road.clone()));
            }
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = tick.tick() => {
                daemon::tell(&summary(road));
                software = revive(software).await?;
            }
        }
    }
    if let Some(software) = software {
        tokio::task::spawn_blocking(move || software.stop()).await??;
    }
    Ok(())
}

async fn reload(road: Road) {
    daemon::reloading();
    if road.reload("SIGHUP").await.is_err() {
        tracing::error!("the reload could not be written down");
    }
    daemon::ready(&summary(&road));
}

async fn revive(software: Option<SoftwareTpm>) -> io::Result<Option<SoftwareTpm>> {
    let Some(mut software) = software else { return Ok(None) };
    let (software, outcome) = tokio::task::spawn_blocking(move || {
        let outcome = software.ensure_running();
        (software, outcome)
    })
    .await?;
    if let Err(e) = outcome {
        tracing::error!("the software TPM cannot be started again: {e}");
    }
    Ok(Some(software))
}

/// One line for `systemctl status`.
fn summary(road: &Road) -> String {
    let loaded = road.agents.loaded();
    let agents = match loaded.faults.len() {
        0 => format!("{} agents", loaded.agents),
        n => format!("{} agents, {n} faults in agents.d", loaded.agents),
    };
    match road.issuer.standing() {
        Some(standing) => format!("host {}; {agents}; TPM {}", standing.host().id, road.tpm.borrow().kind),
        None => format!("no tokens are issued: {}; {agents}", road.why_not_standing()),
    }
}

/// What a developer wants to see first.
fn introduce(dir: &Path, config: &Config, road: &Road) {
    let socket = config.paths.run.join("agent.sock");
    let socket = socket.display();
    println!("hostbadged: a development host in {}", dir.display());
    println!("  {}", summary(road));
    println!("  curl --unix-socket {socket} -d audience=https://api.example.com http://localhost/v1/token");
    println!("  HOSTBADGE_SOCKET={socket} hostbadge whoami");
}
