//! The servers of the sockets, and the workers that serve agents' connections.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::harden::max_connections_for_rlimit;
use super::memory::release_unused_memory;
use super::sockets::Sockets;
use crate::api::{AdminApi, AgentApi, Api, Closer, ConnectionLimits, Pace, Server, WorkerPool, WorkloadApi};
use crate::config::LimitsSection;
use crate::critical::critical_task;
use crate::service::IdentityService;

/// Most workers. One processor signs more than 30 000 tokens a second; more than eight workers would only use
/// memory.
const MAX_WORKERS: usize = 8;
/// Connections to the admin socket: in total, and of one UID.
const ADMIN_CONNECTIONS: (usize, usize) = (64, 32);
/// Connections to the metrics socket: in total, and of one UID. They take none from administrators.
const METRICS_CONNECTIONS: (usize, usize) = (16, 8);

/// The servers: those for administrators and metrics run, the others from [`ServersHandle::accept_agents`] on.
pub(super) struct ServersHandle {
    /// Worker threads; their heartbeats feed the watchdog.
    pub workers: Arc<WorkerPool>,
    agent_servers: Vec<Server>,
    running: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    stop_workers: CancellationToken,
}

/// Starts the workers, the admin server and that of metrics on the current runtime. Both have connection limits of
/// their own and use no worker, so that agents cannot keep the administrator out.
///
/// # Errors
/// A thread or a runtime cannot be started, the embedded gRPC descriptors are invalid, or a listener cannot
/// be registered with the runtime.
pub(super) fn spawn(
    sockets: Sockets,
    service: &IdentityService,
    limits: &LimitsSection,
) -> Result<ServersHandle, Error> {
    let connection_limits = ConnectionLimits::new(
        limits.connections.min(max_connections_for_rlimit()),
        limits.connections_per_uid,
    );
    let for_workers = service.with_inline_audit();
    let workload = WorkloadApi::new(for_workers.clone())?;
    let agent = Arc::new(AgentApi::new(for_workers.clone()));
    let admin = Arc::new(AdminApi::new(service.clone(), connection_limits.clone()));

    let (stop, stop_workers) = (CancellationToken::new(), CancellationToken::new());
    let worker_count = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MAX_WORKERS);
    let workers = Arc::new(WorkerPool::start(worker_count, &stop_workers, service.worker_health().clone())?);
    let closer = Closer::start()?;
    let new_pace = || Arc::new(Pace::new(limits.public_rate, limits.public_burst));
    let pace = new_pace();
    let on_workers = |listener, api| {
        let (connection_limits, pace) = (connection_limits.clone(), pace.clone());
        Server::new(
            listener,
            api,
            connection_limits,
            pace,
            Some(workers.clone()),
            closer.clone(),
            stop.clone(),
        )
    };
    let mut agent_servers = vec![
        on_workers(sockets.agent, Api::Agent(agent))?,
        on_workers(sockets.workload, Api::Workload(workload.clone()))?,
    ];
    if let Some(listener) = sockets.credentials {
        agent_servers.push(on_workers(listener, Api::Credentials(for_workers))?);
    }
    let for_admins = |listener, (total, per_uid)| {
        let (api, limits) = (Api::Admin(admin.clone()), ConnectionLimits::new(total, per_uid));
        Server::new(listener, api, limits, new_pace(), None, closer.clone(), stop.clone())
    };
    let mut running = vec![spawn_server(for_admins(sockets.admin, ADMIN_CONNECTIONS)?)];
    if let Some(listener) = sockets.metrics {
        running.push(spawn_server(for_admins(listener, METRICS_CONNECTIONS)?));
    }
    tokio::spawn(critical_task("the health report", workload.report_health()));
    tokio::spawn(critical_task("the release of memory", release_unused_memory(connection_limits)));
    Ok(ServersHandle { workers, agent_servers, running, stop, stop_workers })
}

fn spawn_server(server: Server) -> JoinHandle<()> {
    tokio::spawn(critical_task("a server", server.run()))
}

impl ServersHandle {
    /// Starts to accept connections to the sockets but the admin socket. Connections that were made before,
    /// such as during a restart, have been waiting in the sockets' backlogs.
    pub fn accept_agents(&mut self) {
        self.running.extend(self.agent_servers.drain(..).map(spawn_server));
    }

    /// Stops accepting, serves the requests in progress to their end, then stops the workers.
    pub async fn drain(self) {
        self.stop.cancel();
        for server in self.running {
            let _ = server.await;
        }
        self.stop_workers.cancel();
    }
}
