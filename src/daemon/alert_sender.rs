//! Sends alerts to `alert.sock`, behind which systemd starts the administrator's program: the daemon's user may start
//! no units. Nobody has to listen there, and nothing waits for it.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::anomaly::StoredAlert;

/// Name of the socket, beside the daemon's own.
pub(super) const ALERT_SOCKET: &str = "alert.sock";
/// Alerts that wait. Further ones are not sent.
const MAX_WAITING: usize = 64;
/// How long one alert may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a failure is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// One alert, as the program reads it from its standard input: one line of JSON.
#[derive(Serialize)]
struct AlertEvent<'a> {
    event: &'static str,
    #[serde(flatten)]
    alert: &'a StoredAlert,
    /// The command that ends the suspension.
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

/// Takes alerts, and sends them one after the other.
pub(super) struct AlertSender {
    socket: PathBuf,
    waiting: mpsc::Receiver<StoredAlert>,
}

impl AlertSender {
    /// A sender to this socket, and where it gets alerts.
    pub fn new(socket: PathBuf) -> (AlertSender, mpsc::Sender<StoredAlert>) {
        let (sender, waiting) = mpsc::channel(MAX_WAITING);
        (AlertSender { socket, waiting }, sender)
    }

    /// Sends until all senders are gone.
    pub async fn run(mut self) {
        let mut logged: Option<Instant> = None;
        while let Some(alert) = self.waiting.recv().await {
            let sent = tokio::time::timeout(SEND_TIMEOUT, self.send(&alert)).await;
            let error = match sent {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the program's unit was not started within 2 s".to_owned(),
            };
            if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
                logged = Some(Instant::now());
                tracing::warn!("an alert was not sent to {}: {error}", self.socket.display());
            }
        }
    }

    async fn send(&self, alert: &StoredAlert) -> io::Result<()> {
        let mut stream = match UnixStream::connect(&self.socket).await {
            Ok(stream) => stream,
            // Nobody listens, which is the default.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let resume = alert.suspended.then(|| format!("hostbadge anomaly resume {}", alert.agent));
        let mut line = serde_json::to_vec(&AlertEvent { event: "anomaly-detected", alert, resume })?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    use super::*;
    use crate::clock::Timestamp;

    fn alert(agent: &str) -> StoredAlert {
        StoredAlert {
            time: Timestamp::from_secs(1_800_000_000),
            rule: "canary".into(),
            agent: agent.into(),
            detail: "it got the canary credential x".into(),
            suspended: true,
            repeats: 0,
        }
    }

    #[tokio::test]
    async fn alerts_are_lines_of_json_and_a_listener_that_hangs_delays_only_the_sender() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ALERT_SOCKET);
        let (sender, alerts) = AlertSender::new(path.clone());
        let running = tokio::spawn(sender.run());
        alerts.try_send(alert("nobody-listens")).unwrap();
        while alerts.capacity() < MAX_WAITING {
            tokio::task::yield_now().await;
        }
        let listener = UnixListener::bind(&path).unwrap();
        alerts.try_send(alert("a")).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let event: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((event["agent"].as_str(), event["rule"].as_str()), (Some("a"), Some("canary")));
        assert_eq!(event["resume"], "hostbadge anomaly resume a");
        assert!(text.ends_with('\n'));
        // Nobody accepts any more: alerts are bounded, and whoever has one does not wait.
        let sent = (0..1000).filter(|_| alerts.try_send(alert("b")).is_ok()).count();
        assert!(sent <= MAX_WAITING + 1, "{sent}");
        drop(alerts);
        running.abort();
    }
}
