//! The thread that owns the TPM: takes calls one by one, notices what goes wrong, and mends what can be mended.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::oneshot;

use super::config::TpmConfig;
use super::connection::Connection;
use super::connection::Identity;
use super::error::Error;
use super::error::Fault;
use super::facts;
use super::facts::Facts;
use super::objects::Objects;
use super::progress::End;
use super::progress::Progress;
use super::state::State;
use super::state::StateKind;

/// The thread turns at least this often, so that its heartbeat is seen and a shutdown is heard.
const TURN: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to reach a TPM.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// TPM 2.0 Part 2, section 6.13: TPM_PT_PERMANENT, and its bit inLockout (section 8.6).
const PT_PERMANENT: u32 = 0x200;
const IN_LOCKOUT: u32 = 1 << 9;

/// The thread's own state.
pub(super) struct Actor {
    config: TpmConfig,
    progress: Arc<Progress>,
    live: Option<Live>,
    objects: Option<Objects>,
    /// The Names to compare with: the stored ones, or else those of the first connection.
    pins: Option<(Vec<u8>, Vec<u8>)>,
    last_attempt: Option<Instant>,
    pause: Duration,
    last_answer: Instant,
    last_probe: Instant,
}

impl Actor {
    pub(super) fn new(config: TpmConfig, progress: Arc<Progress>, objects: Option<Objects>) -> Self {
        let pins = objects.as_ref().map(|stored| (stored.srk_name.clone(), stored.ek_name.clone()));
        let pause = config.retry_every;
        let now = Instant::now();
        Actor {
            config,
            progress,
            live: None,
            objects,
            pins,
            last_attempt: None,
            pause,
            last_answer: now,
            last_probe: now,
        }
    }

    /// Runs until it is told to stop or nobody can call any more.
    pub(super) fn run(mut self, jobs: Receiver<Box<dyn Job>>) {
        let progress = self.progress.clone();
        let _end = End(&progress);
        while !progress.is_stopping() {
            progress.beat();
            if self.may_attempt(self.pause) {
                self.connect();
            }
            match jobs.recv_timeout(self.patience()) {
                Ok(job) => self.serve(job),
                Err(RecvTimeoutError::Timeout) => self.rest(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.is_probe_due() {
                self.probe();
            }
        }
        if let Some(live) = self.live.take() {
            let _inside = progress.enter();
            live.connection.close();
        }
    }

    /// Does one call. A fault of the connection is mended and the call done again, once.
    fn serve(&mut self, mut job: Box<dyn Job>) {
        if self.progress.is_stopping() || job.is_given_up() {
            return;
        }
        // Somebody wants the TPM: no need to sit out the rest of a long pause.
        if self.may_attempt(self.config.retry_every) {
            self.connect();
        }
        let Err(fault) = self.attempt(job.as_mut(), true) else { return };
        self.mend(fault);
        if job.is_given_up() {
            return;
        }
        if let Err(fault) = self.attempt(job.as_mut(), false) {
            self.mend(fault);
        }
    }

    /// A fault that was met is returned, whether the caller has been told of it or the call may be done again.
    fn attempt(&mut self, job: &mut dyn Job, may_repeat: bool) -> Result<(), Error> {
        let kind = self.progress.settled();
        let Some(live) = self.live.as_mut() else {
            job.refuse(Error::State(kind));
            return Ok(());
        };
        let _inside = self.progress.enter();
        let outcome = job.attempt(live, may_repeat);
        self.last_answer = Instant::now();
        if self.objects.is_none() {
            self.objects = live.objects.clone();
        }
        outcome
    }

    /// While nobody calls, nothing is held in the TPM that would have to be flushed at the end of the process.
    fn rest(&mut self) {
        let Some(live) = self.live.as_mut().filter(|live| live.connection.is_tense()) else { return };
        let inside = self.progress.enter();
        let outcome = live.connection.rest();
        drop(inside);
        if let Err(error) = outcome {
            self.mend(error);
        }
    }

    /// After a failure that says something about the TPM and not about the call.
    fn mend(&mut self, error: Error) {
        match error.fault() {
            Fault::Call | Fault::Crowded | Fault::Authorization => {}
            Fault::Lockout => self.progress.settle(State::new(StateKind::Lockout, error.to_string())),
            Fault::Reset => {
                self.progress.settle(State::new(StateKind::Reset, error.to_string()));
                self.reconnect();
            }
            Fault::Link => {
                tracing::warn!(event = "tpm-link", %error, "lost the TPM; reconnecting");
                self.reconnect();
            }
        }
    }

    /// After some idleness, and from time to time in a lockout even though some calls go through.
    fn is_probe_due(&self) -> bool {
        let locked_out = self.progress.settled() == StateKind::Lockout;
        let last = if locked_out { self.last_probe } else { self.last_answer };
        last.elapsed() >= self.config.probe_every
    }

    /// Is the TPM still there, still the same, and still locked?
    fn probe(&mut self) {
        let Some(live) = self.live.as_mut() else { return };
        let inside = self.progress.enter();
        let locked_out = self.progress.settled() == StateKind::Lockout;
        let outcome = live.connection.probe().and_then(|()| match locked_out {
            true => live.connection.properties(PT_PERMANENT, 1),
            false => Ok(Vec::new()),
        });
        drop(inside);
        self.last_answer = Instant::now();
        self.last_probe = self.last_answer;
        match outcome {
            Err(error) => self.mend(error),
            Ok(permanent) if locked_out && !permanent.iter().any(|(_, value)| value & IN_LOCKOUT != 0) => {
                self.reconnect();
            }
            Ok(_) => {}
        }
    }

    fn reconnect(&mut self) {
        {
            let _inside = self.progress.enter();
            self.live = None;
        }
        self.connect();
    }

    fn connect(&mut self) {
        self.last_attempt = Some(Instant::now());
        let outcome = {
            let _inside = self.progress.enter();
            Connection::open(&self.config.tcti)
        };
        self.last_answer = Instant::now();
        match outcome {
            Ok(connection) => self.adopt(connection),
            Err(error) => self.cannot_connect(error),
        }
    }

    /// Compares the TPM with the pins and says which it is.
    fn adopt(&mut self, connection: Connection) {
        self.pause = self.config.retry_every;
        let Identity { srk_name, ek_name, .. } = connection.identity();
        let (pinned_srk, pinned_ek) = self.pins.get_or_insert_with(|| (srk_name.clone(), ek_name.clone()));
        let verdict = match (srk_name == pinned_srk, ek_name == pinned_ek) {
            (true, true) => State::new(StateKind::Ready, ""),
            (false, true) => State::new(StateKind::Cleared, "its SRK is new"),
            // A new EK is a new host id, whatever became of the SRK.
            (_, false) => State::new(StateKind::Replaced, "its EK is another"),
        };
        let trusted = verdict.kind == StateKind::Ready;
        let objects = self.objects.clone();
        self.live = Some(Live {
            connection,
            verdict: verdict.kind,
            objects: objects.filter(|_| trusted),
            facts: None,
        });
        self.progress.settle(verdict);
    }

    fn cannot_connect(&mut self, error: Error) {
        let kind = match error.fault() {
            _ if matches!(error, Error::Silent) => StateKind::Busy,
            Fault::Authorization => StateKind::OwnerAuth,
            Fault::Crowded => StateKind::Busy,
            Fault::Lockout => StateKind::Lockout,
            Fault::Call | Fault::Link | Fault::Reset => StateKind::Absent,
        };
        self.pause = (self.pause * 2).min(LONGEST_RETRY.max(self.config.retry_every));
        self.progress.settle(State::new(kind, error.to_string()));
    }

    fn may_attempt(&self, pause: Duration) -> bool {
        self.live.is_none() && self.last_attempt.is_none_or(|last| last.elapsed() >= pause)
    }

    /// How long to wait for a call before looking around again.
    fn patience(&self) -> Duration {
        let due = match (&self.live, self.last_attempt) {
            (None, Some(last)) => self.pause.saturating_sub(last.elapsed()),
            _ => self.config.probe_every.saturating_sub(self.last_answer.elapsed()),
        };
        // Never zero, so that what is due just now cannot turn the thread into a busy loop.
        due.clamp(Duration::from_millis(1), TURN)
    }
}

/// A connection and what it may be used for.
pub(super) struct Live {
    pub(super) connection: Connection,
    verdict: StateKind,
    objects: Option<Objects>,
    facts: Option<Facts>,
}

impl Live {
    /// The connection with the host's objects, if they are this TPM's.
    pub(super) fn keys(&mut self) -> Result<(&mut Connection, &Objects), Error> {
        if self.verdict != StateKind::Ready {
            return Err(Error::State(self.verdict));
        }
        match &self.objects {
            Some(objects) => Ok((&mut self.connection, objects)),
            None => Err(Error::NotProvisioned),
        }
    }

    /// The connection, if no objects are to be harmed by making new ones.
    pub(super) fn unprovisioned(&mut self) -> Result<&mut Connection, Error> {
        match (self.verdict, &self.objects) {
            (StateKind::Ready, None) => Ok(&mut self.connection),
            (StateKind::Ready, Some(_)) => Err(Error::AlreadyProvisioned),
            (verdict, _) => Err(Error::State(verdict)),
        }
    }

    /// From now on these are the host's objects. The actor sees them here and keeps them for later connections.
    pub(super) fn take_up(&mut self, objects: &Objects) -> Result<(), Error> {
        self.unprovisioned()?;
        self.facts = None;
        self.objects = Some(objects.clone());
        Ok(())
    }

    /// The facts; the TPM is asked once per connection.
    pub(super) fn facts(&mut self) -> Result<Facts, Error> {
        if let Some(facts) = &self.facts {
            return Ok(facts.clone());
        }
        let facts = facts::read(&mut self.connection, self.objects.as_ref())?;
        self.facts = Some(facts.clone());
        Ok(facts)
    }
}

/// A call on its way to the thread.
pub(super) trait Job: Send {
    /// Whether the caller no longer waits.
    fn is_given_up(&self) -> bool;
    /// Does it and answers the caller, except for a fault of the TPM if it may be repeated. Such a fault is returned.
    fn attempt(&mut self, live: &mut Live, may_repeat: bool) -> Result<(), Error>;
    fn refuse(&mut self, error: Error);
}

/// The one kind of call there is: something to do, and somebody who waits for it.
pub(super) struct Call<T, F> {
    what: F,
    reply: Option<oneshot::Sender<Result<T, Error>>>,
    deadline: Instant,
}

impl<T, F> Call<T, F>
where
    T: Send,
    F: FnMut(&mut Live) -> Result<T, Error> + Send,
{
    pub(super) fn new(what: F, reply: oneshot::Sender<Result<T, Error>>, deadline: Instant) -> Self {
        Call { what, reply: Some(reply), deadline }
    }

    fn answer(&mut self, answer: Result<T, Error>) {
        if let Some(reply) = self.reply.take() {
            // A caller that left in the meantime needs no answer.
            let _ = reply.send(answer);
        }
    }
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Live) -> Result<T, Error> + Send,
{
    fn is_given_up(&self) -> bool {
        Instant::now() >= self.deadline || self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn attempt(&mut self, live: &mut Live, may_repeat: bool) -> Result<(), Error> {
        let answer = (self.what)(live);
        let fault = answer.as_ref().err().filter(|error| error.fault() != Fault::Call).cloned();
        if fault.is_none() || !may_repeat {
            self.answer(answer);
        }
        fault.map_or(Ok(()), Err)
    }

    fn refuse(&mut self, error: Error) {
        self.answer(Err(error));
    }
}
