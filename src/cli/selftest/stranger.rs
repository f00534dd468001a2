//! A process that is no agent asks every socket for everything.

use serde_json::json;

use super::attempts::{Attempts, Outcome};
use super::context::Context;
use super::exchange::Answer;
use super::probe::{own_command, reports};
use super::step::{Loaded, Report, Step};
use super::target::{self, Target};

/// A gRPC status: PERMISSION_DENIED, with which a caller without an identity is refused (SPIFFE Workload API, section
/// 6.1).
const PERMISSION_DENIED: u16 = 7;
/// gRPC statuses by which nothing was decided: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED (the rate of the caller),
/// UNIMPLEMENTED, INTERNAL and UNAVAILABLE.
const UNDECIDED: [u16; 6] = [2, 4, 8, 12, 13, 14];

/// Whom the mode of a socket lets connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Every user, so that the daemon has to refuse a stranger.
    Open,
    /// Root and a group, so that a stranger does not even connect.
    Closed,
}

pub(super) fn run(context: &Context, attempts: &mut Attempts) {
    let audience = context.audience.as_str();
    let socket = || Step::Connect(context.agent_socket.clone());
    let post = |path: &str, body| vec![socket(), Step::post(path, body)];
    let requests = [
        ("token", post("/v1/token", json!({ "audience": audience }))),
        ("certificate", post("/v1/certificate", json!({}))),
        ("evidence", post("/v1/attest", json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAA" }))),
        ("nonce", post("/v1/nonce", json!({}))),
        ("introspection", post("/v1/introspect", json!({ "token": "selftest" }))),
    ];
    for (what, steps) in requests {
        judge(context, attempts, &format!("{what} over the agent socket"), Mode::Open, &steps);
    }
    if context.workload_socket.exists() {
        let jwt = field(1, audience);
        let calls =
            [("FetchX509SVID", String::new()), ("FetchJWTSVID", jwt), ("FetchWITSVID", String::new())];
        for (method, message) in calls {
            let socket = context.workload_socket.clone();
            let steps = [Step::Call { socket, method: method.to_owned(), message }];
            judge(context, attempts, &format!("{method} over the workload socket"), Mode::Open, &steps);
        }
    } else {
        no_socket(attempts, "SVIDs over the workload socket", &context.workload_socket);
    }
    credentials(context, attempts);
    let steps = [Step::Connect(context.admin_socket.clone()), Step::get("/v1/status")];
    judge(context, attempts, "status over the admin socket", Mode::Closed, &steps);
    // Another release of the daemon has none.
    let metrics = context.agent_socket.with_file_name("metrics.sock");
    if metrics.exists() {
        let steps = [Step::Connect(metrics), Step::get("/v1/metrics")];
        judge(context, attempts, "metrics over the metrics socket", Mode::Closed, &steps);
    }
}

/// Asks for a credential that is stored: a stranger gets no other one, whatever the daemon decides.
fn credentials(context: &Context, attempts: &mut Attempts) {
    let names = ["credential over the agent socket", "credential over the credentials socket"];
    let Target { credential, unit } = match target::find(context) {
        Ok(target) => target,
        Err(why) => return names.into_iter().for_each(|attempt| attempts.skipped(attempt, &*why)),
    };
    let request = Step::post("/v1/credential", json!({ "name": credential }));
    judge(context, attempts, names[0], Mode::Open, &[Step::Connect(context.agent_socket.clone()), request]);
    if !context.credentials_socket.exists() {
        return no_socket(attempts, names[1], &context.credentials_socket);
    }
    match unit {
        Err(why) => attempts.skipped(names[1], why),
        Ok(unit) => {
            let socket = context.credentials_socket.clone();
            let steps = [Step::LoadCredential { socket, unit, name: credential }];
            judge(context, attempts, names[1], Mode::Open, &steps);
        }
    }
}

fn no_socket(attempts: &mut Attempts, attempt: &str, socket: &std::path::Path) {
    attempts.skipped(attempt, format!("there is no {}", socket.display()));
}

fn judge(context: &Context, attempts: &mut Attempts, attempt: &str, mode: Mode, steps: &[Step]) {
    if !attempts.has_time(attempt) {
        return;
    }
    let reported = own_command(Some(context.stranger), steps).map_err(|e| e.to_string()).and_then(reports);
    let (outcome, detail) = match reported {
        Err(e) => (Outcome::Skipped, e),
        Ok(reports) => match reports.last() {
            Some(report) => judge_report(report, mode),
            None => (Outcome::Skipped, format!("a process of uid {} does not report", context.stranger)),
        },
    };
    attempts.add(attempt, outcome, detail);
}

fn judge_report(report: &Report, mode: Mode) -> (Outcome, String) {
    match report {
        Report::Answer(answer) => judge_answer(answer),
        Report::GrpcStatus(Some(PERMISSION_DENIED)) => (Outcome::Held, "PERMISSION_DENIED".to_owned()),
        Report::GrpcStatus(None) => (Outcome::Skipped, "the call has no status".to_owned()),
        Report::GrpcStatus(Some(status)) => {
            let outcome = if UNDECIDED.contains(status) { Outcome::Skipped } else { Outcome::Hole };
            (outcome, format!("gRPC status {status}"))
        }
        Report::Credential(Loaded::Nothing) => (Outcome::Held, "nothing".to_owned()),
        Report::Credential(Loaded::Failure) => {
            (Outcome::Skipped, "the daemon sent a failure, as to a service manager".to_owned())
        }
        Report::Credential(Loaded::Value(count)) => (Outcome::Hole, format!("{count} bytes of a credential")),
        Report::Failed { denied: true, .. } if mode == Mode::Closed => {
            (Outcome::Held, "the socket does not let it connect".to_owned())
        }
        Report::Failed { why, .. } => (Outcome::Skipped, why.clone()),
    }
}

/// A stranger is told that it is no agent, before anything else of its request is looked at.
fn judge_answer(answer: &Answer) -> (Outcome, String) {
    if let Some(why) = answer.says_nothing() {
        return (Outcome::Skipped, why);
    }
    let is_refused = answer.status == 401 && answer.error() == "invalid_client";
    let mut detail = answer.summary();
    if !is_refused && let Some(agent) = answer.body["agent"].as_str() {
        detail = format!("{detail}, as the agent {agent}");
    }
    (if is_refused { Outcome::Held } else { Outcome::Hole }, detail)
}

/// A string field of a protobuf message, in hexadecimal. The text has less than 128 bytes.
fn field(number: u8, text: &str) -> String {
    let text = text.get(..127).unwrap_or(text);
    let bytes = [&[number << 3 | 2, text.len() as u8], text.as_bytes()].concat();
    data_encoding::HEXLOWER.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, error: &str) -> Answer {
        Answer { status, body: json!({ "error": error }) }
    }

    #[test]
    fn whatever_a_stranger_gets_but_a_refusal_is_a_hole() {
        let outcome = |report: Report| judge_report(&report, Mode::Open).0;
        assert_eq!(outcome(Report::Answer(answer(401, "invalid_client"))), Outcome::Held);
        for (status, error) in [(200, ""), (400, "invalid_request"), (401, "other"), (403, "access_denied")] {
            assert_eq!(outcome(Report::Answer(answer(status, error))), Outcome::Hole, "{status} {error}");
        }
        assert_eq!(outcome(Report::GrpcStatus(Some(7))), Outcome::Held);
        assert_eq!(outcome(Report::GrpcStatus(Some(0))), Outcome::Hole);
        assert_eq!(outcome(Report::GrpcStatus(Some(5))), Outcome::Hole);
        assert_eq!(outcome(Report::Credential(Loaded::Nothing)), Outcome::Held);
        assert_eq!(outcome(Report::Credential(Loaded::Value(9))), Outcome::Hole);
    }

    #[test]
    fn where_nothing_was_decided_nothing_is_known() {
        for status in [429, 500, 503] {
            assert_eq!(judge_report(&Report::Answer(answer(status, "x")), Mode::Open).0, Outcome::Skipped);
        }
        let undecided = UNDECIDED.map(Some).into_iter().chain([None]).map(Report::GrpcStatus);
        for report in undecided.chain([Report::Credential(Loaded::Failure)]) {
            assert_eq!(judge_report(&report, Mode::Open).0, Outcome::Skipped, "{report:?}");
        }
        let failed = |denied, mode| judge_report(&Report::Failed { why: "no".into(), denied }, mode).0;
        assert_eq!(failed(true, Mode::Closed), Outcome::Held);
        assert_eq!(failed(false, Mode::Closed), Outcome::Skipped);
        assert_eq!(failed(true, Mode::Open), Outcome::Skipped, "the daemon was not asked");
    }
}
