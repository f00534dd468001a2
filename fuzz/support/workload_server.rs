//! The daemon's server of the workload socket, on a host whose TPM has not responded yet, and a client that
//! sends any bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hostbadge::agents::AgentRegistry;
use hostbadge::anomaly::Anomalies;
use hostbadge::api::{Api, Closer, ConnectionLimits, Pace, Server, WorkerPool, WorkloadApi};
use hostbadge::approvals::Approvals;
use hostbadge::audit::{Audit, Journal};
use hostbadge::clock::{Clock, ClockState, Zone};
use hostbadge::config::{AnomalyActions, ApprovalsSection, AuditSection, LogTarget};
use hostbadge::credentials::CredentialStore;
use hostbadge::federation::Federation;
use hostbadge::issue::{Enrollment, EvidenceSlots, FairQueue, Issuer, RotationPolicy, TpmSigner};
use hostbadge::names::Names;
use hostbadge::pki::CertificateIssuer;
use hostbadge::policy::{AdminPolicy, Limiter, Policies, PolicyConfig, Rate};
use hostbadge::posture::{EventLogFile, ImaListFile, PostureMode, PostureState};
use hostbadge::present::ProofKeys;
use hostbadge::revocation::Revocations;
use hostbadge::revocation::status::StatusLists;
use hostbadge::service::{
    Delegations, HostFiles, IdentityService, Invocations, ServiceDeps, ServiceManager,
};
use hostbadge::tpm::TpmState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// The server's socket. One server runs until the process ends.
fn socket() -> &'static Path {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("hostbadge-fuzz-{}", std::process::id()));
        let agents = dir.join("agents.d");
        std::fs::create_dir_all(&agents).unwrap();
        let agent = "name = \"fuzz\"\n[match]\nuser = \"root\"\n[[grant]]\naudience = \"a\"\n";
        std::fs::write(agents.join("fuzz.toml"), agent).unwrap();
        let path = dir.join("workload.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || serve(&dir, listener));
        path
    })
}

fn serve(dir: &Path, listener: UnixListener) {
    let clock = Clock::System;
    let journal = Journal::start(LogTarget::Stderr, clock.clone()).unwrap();
    let audit = Audit::open(dir, AuditSection::default(), journal, clock.clone()).unwrap();
    let unlimited = || Rate { per_second: 1_000_000, burst: 1_000_000 };
    let tpm = watch::channel(None).1;
    let names = Names::start([]).unwrap();
    let agents = AgentRegistry::open(&dir.join("agents.d"), 40, names.clone(), clock.clone());
    let policies = PolicyConfig {
        dir: dir.join("policies"),
        must_exist: false,
        require_permit: false,
        zone: Zone::default(),
    };
    let policies = Policies::new(policies, clock.clone());
    policies.activate(policies.read(false).unwrap(), agents.current());
    let statuses = StatusLists::new(dir, clock.clone(), false, Duration::from_secs(300));
    let delegations = Delegations::open(dir, agents.clone(), clock.now(), clock.boot_time());
    let service = IdentityService::new(ServiceDeps {
        agents,
        policies,
        federation: Federation::open(&dir.join("federation"), false),
        limiter: Limiter::new(unlimited(), unlimited(), unlimited()),
        credentials: CredentialStore::new(dir, clock.clone()),
        revocations: Revocations::new(dir, clock.clone()),
        invocations: Invocations::new(HostFiles::of_host()),
        proof_keys: ProofKeys::new(Duration::from_secs(3600)),
        delegations,
        approvals: Approvals::new(ApprovalsSection::default(), clock.clone()),
        anomalies: Anomalies::new(clock.clone(), Zone::default(), Duration::from_secs(7 * 86_400)),
        anomaly_actions: AnomalyActions::default(),
        signals: Vec::new(),
        status_lists: statuses.clone(),
        service_manager: ServiceManager::default(),
        issuer: Issuer::default(),
        audit,
        audit_dir: dir.into(),
        clock_state: ClockState::new(clock.clone()),
        requires_synchronized_clock: false,
        clock,
        tpm_state: watch::channel(TpmState::starting()).1,
        tpm_description: watch::channel(None).1,
        blocked_reason: watch::channel(None).1,
        tpm: tpm.clone(),
        tpm_signer: TpmSigner {
            statuses,
            queue: FairQueue::default(),
            tpm,
            rsa_blocked_reason: watch::channel(None).1,
        },
        evidence_slots: EvidenceSlots::default(),
        event_log: EventLogFile::in_dir(dir),
        ima_log: ImaListFile::in_dir(dir),
        enrollment: Enrollment::open(dir),
        posture: PostureState::new(PostureMode::Off, Duration::from_secs(60)),
        compared_pcrs: Vec::new(),
        posture_commands: hostbadge::posture::command_channel().0,
        key_admin: hostbadge::issue::key_command_channel().0,
        keystore: watch::channel(None).1,
        rotation_policy: RotationPolicy::new(Duration::from_secs(86_400), Duration::from_secs(3_600)),
        certificate_issuer: CertificateIssuer::new(Duration::from_secs(3600)),
        admin_policy: AdminPolicy {
            admin_group: "none".into(),
            metrics_group: "none".into(),
            names,
            dev_uid: None,
        },
        agent_series: 0,
    });
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let workers = Arc::new(WorkerPool::start(1, &stop, service.worker_health().clone()).unwrap());
        let api = Api::Workload(WorkloadApi::new(service.with_inline_audit()).unwrap());
        let pace = Arc::new(Pace::new(1_000_000, 1_000_000));
        let (limits, closer) = (ConnectionLimits::new(64, 64), Closer::start().unwrap());
        Server::new(listener, api, limits, pace, Some(workers), closer, stop.clone()).unwrap().run().await;
    });
}

/// Sends the pieces until the server closes the connection, then waits for the server to close it.
pub fn send(pieces: &[&[u8]]) {
    let mut stream = UnixStream::connect(socket()).unwrap();
    stream.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(IO_TIMEOUT)).unwrap();
    for piece in pieces {
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
            // libFuzzer's timer signal.
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => panic!("the server does not close the connection: {e}"),
        }
    }
}
