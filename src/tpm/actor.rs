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
use super::endorsement;
use super::endorsement::Endorsement;
use super::error::Error;
use super::error::Fault;
use super::facts;
use super::facts::Facts;
use super::objects::Objects;
use super::probe::Permanent;
use super::progress::End;
use super::progress::Progress;
use super::state::State;
use super::state::StateKind;
use super::verdict;

/// The thread turns at least this often, so that its heartbeat is seen and a shutdown is heard.
const TURN: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to reach a TPM.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// How often a call is done again that the TPM had no room or no time for. libtss2 itself sends a command up to five
/// times, without a pause, where the TPM says so (TPM_RC_RETRY, TPM_RC_YIELDED, TPM_RC_TESTING).
const CROWDED_REPEATS: u32 = 4;

/// The pause before the first of these; each is twice the one before, 750 ms together.
const CROWDED_PAUSE: Duration = Duration::from_millis(50);

/// The thread's own state.
pub(super) struct Actor {
    config: TpmConfig,
    progress: Arc<Progress>,
    live: Option<Live>,
    objects: Option<Objects>,
    /// What the TPM's maker says, as it was read last: the same for as long as the EK is.
    endorsement: Option<Endorsement>,
    /// The Names to compare with: the stored ones, or else those of the first connection.
    pins: Option<(Vec<u8>, Vec<u8>)>,
    last_attempt: Option<Instant>,
    /// Attempts to connect that failed since the last that did not.
    failures: u32,
    /// The TPM had no room or no time for a call, and has not yet been seen to have some again.
    crowded: Option<String>,
    /// The TPM that answered last is another than the pinned one.
    foreign: bool,
    last_probe: Instant,
}

impl Actor {
    pub(super) fn new(config: TpmConfig, progress: Arc<Progress>, objects: Option<Objects>) -> Self {
        let pins = objects.as_ref().map(|stored| (stored.srk_name.clone(), stored.ek_name.clone()));
        Actor {
            config,
            progress,
            live: None,
            objects,
            endorsement: None,
            pins,
            last_attempt: None,
            failures: 0,
            crowded: None,
            foreign: false,
            last_probe: Instant::now(),
        }
    }

    /// Runs until it is told to stop or nobody can call any more.
    pub(super) fn run(mut self, jobs: Receiver<Box<dyn Job>>) {
        let progress = self.progress.clone();
        let _end = End(&progress);
        while !progress.is_stopping() {
            progress.beat();
            if self.may_attempt(self.pause()) {
                self.connect();
            }
            match jobs.recv_timeout(self.patience()) {
                Ok(job) => self.serve(job),
                Err(RecvTimeoutError::Timeout) => self.rest(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Also while calls keep coming: they do not show a lockout or a password.
            if self.last_probe.elapsed() >= self.config.probe_every {
                self.probe();
            }
        }
        if let Some(live) = self.live.take() {
            let _inside = progress.enter();
            live.connection.close();
        }
    }

    /// Does one call. What failed for the TPM's sake and not for its own is mended, and the call done again: once, and
    /// where the TPM has no room or no time a few times more, with pauses.
    fn serve(&mut self, mut job: Box<dyn Job>) {
        if self.progress.is_stopping() || job.is_given_up() {
            return;
        }
        // Somebody wants the TPM: no need to sit out the rest of a long pause.
        if self.may_attempt(self.config.retry_every) {
            self.connect();
        }
        let mut repeats = 0;
        loop {
            let outcome = self.attempt(job.as_mut());
            let fault = outcome.as_ref().map_or_else(Error::fault, |()| Fault::Call);
            if let Err(error) = &outcome {
                self.mend(error);
            }
            // Behind no resource manager what fills the TPM may be ours, from answers that never arrived.
            let ours =
                fault == Fault::Crowded && repeats == 0 && self.crowded.is_none() && self.is_emulator();
            if ours || self.live.as_ref().is_some_and(|live| live.connection.is_soiled()) {
                self.reconnect();
            }
            let Err(error) = outcome else { return };
            if repeats >= if fault.is_passing() { CROWDED_REPEATS } else { 1 } || job.is_given_up() {
                if fault.is_passing() {
                    self.settle_crowded(&error);
                }
                return job.refuse(error);
            }
            if fault.is_passing() {
                pause(CROWDED_PAUSE * (1 << repeats));
            }
            repeats += 1;
        }
    }

    /// A fault of the TPM is returned and the caller not answered.
    fn attempt(&mut self, job: &mut dyn Job) -> Result<(), Error> {
        let kind = self.progress.settled();
        let Some(live) = self.live.as_mut() else {
            job.refuse(Error::State(kind));
            return Ok(());
        };
        let _inside = self.progress.enter();
        let outcome = job.attempt(live);
        if self.objects.is_none() {
            self.objects = live.objects.clone();
        }
        if self.endorsement.is_none() {
            self.endorsement = live.endorsement.clone();
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
            self.mend(&error);
        }
    }

    /// After a failure that says something about the TPM and not about the call.
    fn mend(&mut self, error: &Error) {
        match error.fault() {
            Fault::Call | Fault::Authorization | Fault::Crowded | Fault::Later => {}
            Fault::Lockout => self.settle(State::new(StateKind::Lockout, error.to_string())),
            Fault::Reset => {
                self.settle(State::new(StateKind::Reset, error.to_string()));
                self.reconnect();
            }
            Fault::Link => {
                tracing::warn!(event = "tpm-link", %error, "lost the TPM; reconnecting");
                self.reconnect();
            }
        }
    }

    fn settle_crowded(&mut self, error: &Error) {
        self.crowded = Some(error.to_string());
        self.settle(State::new(StateKind::Busy, error.to_string()));
    }

    /// Is the TPM still there, still the same, and well? After it had no room, also whether it has some now.
    fn probe(&mut self) {
        self.last_probe = Instant::now();
        let Some(live) = self.live.as_mut() else { return };
        let inside = self.progress.enter();
        let outcome = live.connection.probe().and_then(|permanent| match self.crowded {
            Some(_) => live.has_room().map(|()| permanent),
            None => Ok(permanent),
        });
        drop(inside);
        self.last_probe = Instant::now();
        match outcome {
            Ok(permanent) => {
                self.crowded = None;
                self.show(permanent);
            }
            Err(error) if error.fault().is_passing() => self.settle_crowded(&error),
            // Nothing that we ask here is refused by the TPM that we connected with.
            Err(error) if matches!(error.fault(), Fault::Call | Fault::Authorization) => {
                tracing::warn!(event = "tpm-link", %error, "the TPM is not as it was; reconnecting");
                self.reconnect();
            }
            Err(error) => self.mend(&error),
        }
    }

    /// The state of a TPM that answers.
    fn show(&self, permanent: Permanent) {
        let Some(live) = &self.live else { return };
        match live.verdict.kind {
            // A connection alone does not show that there is room again.
            StateKind::Ready if self.crowded.is_some() => {}
            StateKind::Ready => self.settle(verdict::refined(permanent)),
            _ => self.settle(live.verdict.clone()),
        }
    }

    fn reconnect(&mut self) {
        {
            let _inside = self.progress.enter();
            if let Some(live) = self.live.take() {
                live.connection.abandon();
            }
        }
        self.connect();
    }

    fn connect(&mut self) {
        self.last_attempt = Some(Instant::now());
        let outcome = {
            let _inside = self.progress.enter();
            Connection::open(&self.config.tcti).and_then(|mut connection| {
                let permanent = connection.probe()?;
                Ok((connection, permanent))
            })
        };
        self.last_probe = Instant::now();
        match outcome {
            Ok((connection, permanent)) => {
                self.adopt(connection);
                self.show(permanent);
            }
            Err(error) => self.cannot_connect(error),
        }
    }

    /// Compares the TPM with the pins and says which it is.
    fn adopt(&mut self, connection: Connection) {
        self.failures = 0;
        let Identity { srk_name, ek_name, .. } = connection.identity();
        let (pinned_srk, pinned_ek) = self.pins.get_or_insert_with(|| (srk_name.clone(), ek_name.clone()));
        let verdict = verdict::of((srk_name, ek_name), (pinned_srk, pinned_ek));
        let trusted = verdict.kind == StateKind::Ready;
        self.foreign = verdict.kind == StateKind::Replaced;
        let objects = self.objects.clone().filter(|_| trusted);
        let ek = &connection.identity().ek_public;
        self.endorsement = self.endorsement.take().filter(|known| known.p256.public == *ek);
        let endorsement = self.endorsement.clone();
        self.live = Some(Live { connection, verdict: verdict.clone(), objects, facts: None, endorsement });
        match &self.crowded {
            Some(why) if trusted => self.settle(State::new(StateKind::Busy, why)),
            _ => self.settle(verdict),
        }
    }

    fn cannot_connect(&mut self, error: Error) {
        let kind = match error.fault() {
            _ if matches!(error, Error::Silent) => StateKind::Busy,
            Fault::Authorization => StateKind::OwnerAuth,
            Fault::Crowded | Fault::Later => StateKind::Busy,
            Fault::Lockout => StateKind::Lockout,
            Fault::Reset => StateKind::Reset,
            Fault::Call | Fault::Link => StateKind::Absent,
        };
        self.failures = self.failures.saturating_add(1);
        self.settle(State::new(kind, error.to_string()));
    }

    /// How long to wait between two attempts to connect.
    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(10);
        (self.config.retry_every * (1 << doublings)).min(LONGEST_RETRY.max(self.config.retry_every))
    }

    fn settle(&self, state: State) {
        self.progress.settle(State { foreign: self.foreign, ..state });
    }

    fn is_emulator(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.connection.is_emulator())
    }

    fn may_attempt(&self, pause: Duration) -> bool {
        self.live.is_none() && self.last_attempt.is_none_or(|last| last.elapsed() >= pause)
    }

    /// How long to wait for a call before looking around again.
    fn patience(&self) -> Duration {
        let due = match (&self.live, self.last_attempt) {
            (None, Some(last)) => self.pause().saturating_sub(last.elapsed()),
            _ => self.config.probe_every.saturating_sub(self.last_probe.elapsed()),
        };
        // Never zero, so that what is due just now cannot turn the thread into a busy loop.
        due.clamp(Duration::from_millis(1), TURN)
    }
}

/// A connection and what it may be used for.
pub(super) struct Live {
    pub(super) connection: Connection,
    verdict: State,
    objects: Option<Objects>,
    facts: Option<Facts>,
    endorsement: Option<Endorsement>,
}

impl Live {
    /// The connection with the host's objects, if they are this TPM's.
    pub(super) fn keys(&mut self) -> Result<(&mut Connection, &Objects), Error> {
        if self.verdict.kind != StateKind::Ready {
            return Err(Error::State(self.verdict.kind));
        }
        match &self.objects {
            Some(objects) => Ok((&mut self.connection, objects)),
            None => Err(Error::NotProvisioned),
        }
    }

    /// The connection, if no objects are to be harmed by making new ones.
    pub(super) fn unprovisioned(&mut self) -> Result<&mut Connection, Error> {
        match (self.verdict.kind, &self.objects) {
            (StateKind::Ready, None) => Ok(&mut self.connection),
            (StateKind::Ready, Some(_)) => Err(Error::AlreadyProvisioned),
            (verdict, _) => Err(Error::State(verdict)),
        }
    }

    /// Tries what a call takes: a session, and a place for a key.
    fn has_room(&mut self) -> Result<(), Error> {
        match &self.objects {
            Some(objects) => self.connection.with_loaded(&objects.host_key, |_, _| Ok(())),
            None => self.connection.run("TPM2_GetRandom", |context| context.get_random(8)).map(drop),
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

    /// The endorsement keys; the TPM is asked once, or again where one could not be derived.
    pub(super) fn endorsement(&mut self) -> Result<Endorsement, Error> {
        if let Some(endorsement) = &self.endorsement {
            return Ok(endorsement.clone());
        }
        let (endorsement, whole) = endorsement::read(&mut self.connection)?;
        self.endorsement = Some(endorsement.clone()).filter(|_| whole);
        Ok(endorsement)
    }
}

/// A call on its way to the thread.
pub(super) trait Job: Send {
    /// Whether the caller no longer waits.
    fn is_given_up(&self) -> bool;
    /// Does it and answers the caller. A fault of the TPM is returned instead, with the caller still waiting.
    fn attempt(&mut self, live: &mut Live) -> Result<(), Error>;
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

    fn attempt(&mut self, live: &mut Live) -> Result<(), Error> {
        match (self.what)(live) {
            Err(error) if error.fault() != Fault::Call => Err(error),
            answer => {
                self.answer(answer);
                Ok(())
            }
        }
    }

    fn refuse(&mut self, error: Error) {
        self.answer(Err(error));
    }
}

#[expect(clippy::disallowed_methods, reason = "a TPM that has no time now tells nobody when it has some")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
