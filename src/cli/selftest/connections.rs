//! A connection comes into the hands of another process: its opener exits, executes another program, changes its user,
//! or passes the connection on.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use serde_json::json;

use super::attempts::Attempts;
use super::context::{Context, peer};
use super::exchange::{Answer, IO_TIMEOUT, connect, read_answer, request};
use super::probe::{copy_own_program, own_command, receive_connection, reports, send_descriptor};
use super::step::{Report, Step};

const WHOAMI: &str = "/v1/whoami";
/// The name of the copy of this program.
const COPY: &str = "selftest-other-program";

/// A process connects and exits; a process of another user goes on with the connection.
pub(super) fn stale_pid(context: &Context, attempts: &mut Attempts) {
    let steps = |request: Step| {
        let opened = [Step::Connect(context.agent_socket.clone()), Step::get(WHOAMI)];
        [&opened[..], &[Step::LeaveTo(context.stranger), request]].concat()
    };
    let requests = [
        ("whoami after its opener has exited", Step::get(WHOAMI)),
        (
            "token after its opener has exited",
            Step::post("/v1/token", json!({ "audience": context.audience })),
        ),
    ];
    for (attempt, request) in requests {
        if !attempts.has_time(attempt) {
            continue;
        }
        match two_answers(None, &steps(request)) {
            Err(why) => attempts.skipped(attempt, why),
            Ok((_, after)) => {
                let is_refused = after.status == 401 && peer(&after).is_none();
                attempts.judge(attempt, is_refused, describe(&after));
            }
        }
    }
}

/// A process executes another program, or changes its user, between two requests, and in the middle of one.
pub(super) fn exec_race(context: &Context, attempts: &mut Attempts) {
    let socket = || Step::Connect(context.agent_socket.clone());
    let attempt = "another user between two requests";
    if attempts.has_time(attempt) {
        let steps = [socket(), Step::get(WHOAMI), Step::BecomeUser(context.stranger), Step::get(WHOAMI)];
        match two_answers(None, &steps) {
            Err(why) => attempts.skipped(attempt, why),
            Ok((_, after)) => {
                attempts.judge(attempt, after.status == 401 && peer(&after).is_none(), describe(&after));
            }
        }
    }
    let names = ["another program between two requests", "another program in the middle of a request"];
    let copy = context.workdir.path().join(COPY);
    if let Err(e) = copy_own_program(&copy) {
        for attempt in names {
            attempts.skipped(attempt, format!("{}: {e}", copy.display()));
        }
        return;
    }
    let (head, tail) = ("GET /v1/whoami HTTP/1.1\r\nHost: local", "host\r\n\r\n");
    let between = [Step::Execute(copy.clone()), Step::TakeConnection, Step::get(WHOAMI)].to_vec();
    let within = [
        Step::Write(head.to_owned()),
        Step::Execute(copy),
        Step::TakeConnection,
        Step::Write(tail.to_owned()),
        Step::Read,
    ];
    for (attempt, steps) in names.into_iter().zip([between, within.to_vec()]) {
        if !attempts.has_time(attempt) {
            continue;
        }
        let steps = [vec![socket(), Step::get(WHOAMI)], steps].concat();
        match two_answers(None, &steps) {
            Err(why) => attempts.skipped(attempt, why),
            Ok((before, after)) => judge_program(attempts, attempt, &before, &after),
        }
    }
}

fn judge_program(attempts: &mut Attempts, attempt: &str, before: &Answer, after: &Answer) {
    let program =
        |answer: &Answer| peer(answer).and_then(|peer| peer["exe"].as_str()).unwrap_or_default().to_owned();
    let (before, seen) = (program(before), program(after));
    if before.is_empty() {
        let why = "the daemon reads no executables of other users, so that no agent is known by one \
                   (/usr/share/hostbadge/executables.conf)";
        return attempts.skipped(attempt, why);
    }
    attempts.judge(attempt, seen.ends_with(COPY), format!("the daemon sees {seen}"));
}

/// A connection is passed to another process by SCM_RIGHTS.
pub(super) fn fd_passing(context: &Context, attempts: &mut Attempts) {
    let attempt = "a stranger's connection, used by this process";
    if attempts.has_time(attempt) {
        match used_for_stranger(context) {
            Err(e) => attempts.skipped(attempt, e.to_string()),
            Ok((pid, answer)) => judge_opener(attempts, attempt, pid, context.stranger, &answer),
        }
    }
    let attempt = "this process's connection, used by a stranger";
    if attempts.has_time(attempt) {
        match used_by_stranger(context) {
            Err(e) => attempts.skipped(attempt, e),
            Ok(answer) => judge_opener(attempts, attempt, std::process::id(), 0, &answer),
        }
    }
    let attempt = "a descriptor that is sent to the daemon";
    if attempts.has_time(attempt) {
        match with_descriptor(context) {
            Err(e) => attempts.skipped(attempt, e.to_string()),
            Ok((who, health)) => judge_health(attempts, attempt, who, &health),
        }
    }
}

fn judge_health(attempts: &mut Attempts, attempt: &str, who: &str, health: &Answer) {
    match health.says_nothing() {
        Some(why) => attempts.skipped(attempt, why),
        None => {
            let detail = format!("{who}; health afterwards: {}", health.status);
            attempts.judge(attempt, health.status == 200, detail);
        }
    }
}

/// Requests are those of the process that opened the connection, whoever sends them.
fn judge_opener(attempts: &mut Attempts, attempt: &str, pid: u32, uid: u32, answer: &Answer) {
    if let Some(why) = answer.says_nothing() {
        return attempts.skipped(attempt, why);
    }
    let is_opener = peer(answer).is_some_and(|peer| peer["pid"] == pid && peer["uid"] == uid);
    attempts.judge(attempt, is_opener, format!("opened by pid {pid} of uid {uid}; {}", describe(answer)));
}

fn used_for_stranger(context: &Context) -> io::Result<(u32, Answer)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(IO_TIMEOUT))?;
    let steps = [Step::Connect(context.agent_socket.clone()), Step::SendConnection, Step::AwaitEnd];
    let mut command = own_command(Some(context.stranger), &steps)?;
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn()?;
    // The command has a copy of the other end, by which the stranger's end would not be noticed.
    drop(command);
    let stranger = Waiting { child, ours: Some(ours) };
    let mut connection = receive_connection(stranger.socket()?)?;
    let answer = request(&mut connection, "GET", WHOAMI, None)?;
    Ok((stranger.child.id(), answer))
}

fn used_by_stranger(context: &Context) -> Result<Answer, String> {
    let text = |e: io::Error| e.to_string();
    let (ours, theirs) = UnixStream::pair().map_err(text)?;
    let connection = connect(&context.agent_socket).map_err(text)?;
    send_descriptor(&ours, connection.as_raw_fd(), b"c").map_err(text)?;
    let steps = [Step::ReceiveConnection, Step::get(WHOAMI)];
    let mut command = own_command(Some(context.stranger), &steps).map_err(text)?;
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    one_answer(reports(command)?)
}

/// A request with a descriptor attached, and then a request of a new connection. Returns who deals with the descriptor.
fn with_descriptor(context: &Context) -> io::Result<(&'static str, Answer)> {
    let mut connection = connect(&context.agent_socket)?;
    let bytes = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let who = match send_descriptor(&connection, connection.as_raw_fd(), bytes) {
        Ok(()) => {
            // The daemon may answer or close the connection.
            let _ = read_answer(&mut connection);
            "the daemon gets it"
        }
        // Since Linux 6.16 the daemon has the kernel refuse descriptors. A filter of system calls fails so too, also
        // where no daemon is at the other end.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let (ours, _theirs) = UnixStream::pair()?;
            send_descriptor(&ours, connection.as_raw_fd(), b"c")?;
            "the kernel refuses it for the daemon"
        }
        Err(e) => return Err(e),
    };
    Ok((who, context.ask("GET", "/v1/health", None)?))
}

/// A process that waits for the end of its standard input, of which this is the other end. On drop it ends by that,
/// since this process may not be allowed to end processes of other users (CAP_KILL).
struct Waiting {
    child: Child,
    ours: Option<UnixStream>,
}

impl Waiting {
    fn socket(&self) -> io::Result<&UnixStream> {
        self.ours.as_ref().ok_or_else(|| io::Error::other("the socket is closed"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Before the wait, which would otherwise last until the process ends by itself.
        self.ours = None;
        let _ = self.child.wait();
    }
}

/// The answers to the first and to the last request of a process. The first has to say whom the daemon sees, or nothing
/// follows from the last.
fn two_answers(uid: Option<u32>, steps: &[Step]) -> Result<(Answer, Answer), String> {
    let command = own_command(uid, steps).map_err(|e| e.to_string())?;
    judged_answers(answers(reports(command)?)?)
}

fn judged_answers(mut answers: Vec<Answer>) -> Result<(Answer, Answer), String> {
    let (before, after) = match (answers.len(), answers.pop()) {
        (2, Some(after)) => (answers.remove(0), after),
        (count, _) => return Err(format!("the process has {count} answers in place of 2")),
    };
    if peer(&before).is_none() {
        return Err(format!("the first request is answered {}, without a process", before.summary()));
    }
    match after.says_nothing() {
        Some(why) => Err(why),
        None => Ok((before, after)),
    }
}

fn one_answer(reports: Vec<Report>) -> Result<Answer, String> {
    answers(reports)?.pop().ok_or_else(|| "the process has no answer".to_owned())
}

fn answers(reports: Vec<Report>) -> Result<Vec<Answer>, String> {
    let answer = |report| match report {
        Report::Answer(answer) => Ok(answer),
        Report::Failed { why, .. } => Err(why),
        Report::GrpcStatus(_) | Report::Credential(_) => Err("an unexpected report".to_owned()),
    };
    reports.into_iter().map(answer).collect()
}

/// An answer with what the daemon sees.
fn describe(answer: &Answer) -> String {
    let agent = answer.body["agent"].as_str().map(|agent| format!(", the agent {agent}")).unwrap_or_default();
    match peer(answer) {
        Some(peer) => format!("{}: pid {} of uid {}{agent}", answer.summary(), peer["pid"], peer["uid"]),
        None => format!("{}{agent}", answer.summary()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn without_the_process_of_the_first_request_nothing_follows_from_the_second() {
        let seen = |status| Answer { status, body: json!({ "peer": { "pid": 1, "uid": 0 } }) };
        let refused = || Answer { status: 401, body: json!({ "error": "invalid_client" }) };
        let busy = || Answer { status: 503, body: json!({ "error": "temporarily_unavailable" }) };
        assert!(judged_answers(vec![seen(200), refused()]).is_ok());
        assert!(judged_answers(vec![seen(401), seen(401)]).is_ok());
        for answers in [
            vec![],
            vec![seen(200)],
            vec![refused(), refused()],
            vec![busy(), refused()],
            vec![seen(200), busy()],
        ] {
            assert!(judged_answers(answers).is_err());
        }
    }

    #[test]
    fn a_waiting_process_ends_by_the_end_of_its_input() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new("cat").stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(Waiting { child, ours: Some(ours) });
            done.send(()).unwrap();
        });
        let ended = is_done.recv_timeout(IO_TIMEOUT);
        let alive = kill(pid, None).is_ok();
        if alive {
            kill(pid, Signal::SIGKILL).unwrap();
        }
        assert!(ended.is_ok() && !alive, "it waits for the end of its input");
    }
}
