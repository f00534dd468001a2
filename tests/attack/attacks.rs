//! The attacks, each by a uid that is no agent unless its name says otherwise.

use crate::common::callers::Credentials;
use crate::common::http::request;
use crate::grpc_bytes::{Body, connection};
use crate::load::{Load, STRANGER};
use crate::measure::{NEIGHBOUR, Socket, hold, hold_as};

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const REFLECTION_ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// A ServerReflectionRequest for the file that has the symbol `SpiffeWorkloadAPI`.
const FILE_OF_SYMBOL: &[u8] = b"\x22\x11SpiffeWorkloadAPI";
/// The initial window of RFC 9113.
const WINDOW: u32 = 65_535;

fn get(target: &str) -> Vec<u8> {
    request("GET", target, None, b"")
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn documents() {
    hold("documents", Socket::Agent, &Load::http(&get("/v1/bundle"), 200, 1));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn pipelined_documents() {
    hold("pipelined documents", Socket::Agent, &Load::http(&get("/v1/bundle"), 50, 100));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn unknown_paths() {
    hold("unknown paths", Socket::Agent, &Load::http(&get("/nothing"), 200, 1));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn wrong_methods() {
    let bytes = request("DELETE", "/v1/token", None, b"");
    hold("wrong methods", Socket::Agent, &Load::http(&bytes, 200, 1));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn malformed_requests() {
    hold("malformed requests", Socket::Agent, &Load::http(b"GET / HTTP/9.9\r\n\r\n", 200, 1));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn tokens_of_a_stranger() {
    let bytes = request("POST", "/v1/token", Some("application/json"), br#"{"audience":"x"}"#);
    hold("tokens of a stranger", Socket::Agent, &Load::http(&bytes, 200, 1));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn connections() {
    let load = Load { reconnects: true, ..Load::held(Vec::new(), 0, false) };
    hold("connections", Socket::Agent, &load);
}

/// As long as a head may be before it is refused.
#[test]
#[ignore = "run by make attack, alone on the machine"]
fn unfinished_heads() {
    let head = [b"GET / HTTP/1.1\r\nHost: x\r\nA: ".to_vec(), vec![b'x'; 8_100]].concat();
    hold("unfinished heads", Socket::Agent, &Load::held(head, 1_990, true));
}

/// They arrive with a complete request before them.
#[test]
#[ignore = "run by make attack, alone on the machine"]
fn unfinished_second_heads() {
    let head =
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nA: ".to_vec(), vec![b'x'; 8_100]].concat();
    hold("unfinished second heads", Socket::Agent, &Load::held(head, 1_990, true));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn heads_beyond_the_limit() {
    let head = [b"GET / HTTP/1.1\r\nHost: x\r\nA: ".to_vec(), vec![b'x'; 60_000]].concat();
    hold("heads beyond the limit", Socket::Agent, &Load::held(head, 1_990, true));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn trailers_beyond_the_limit() {
    hold("trailers beyond the limit", Socket::Agent, &Load::held(trailers(15_000), 1_990, true));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn unfinished_trailers() {
    hold("unfinished trailers", Socket::Agent, &Load::held(trailers(8_000), 1_990, true));
}

/// A request with a body, and that many bytes of trailers that do not end.
fn trailers(length: usize) -> Vec<u8> {
    let head = b"POST /v1/introspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                 Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\na: ";
    [&head[..], &vec![b'x'; length]].concat()
}

/// Each client asks once and closes, without a pause.
#[test]
#[ignore = "run by make attack, alone on the machine"]
fn callers_that_are_gone() {
    let bytes = request("POST", "/v1/token", Some("application/json"), br#"{"audience":"x"}"#);
    let load = Load { reconnects: true, ..Load::held(bytes, 0, false) };
    hold("callers that are gone", Socket::Agent, &load);
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn unfinished_bodies() {
    let head = b"POST /v1/introspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                 Content-Length: 60000\r\n\r\n";
    hold("unfinished bodies", Socket::Agent, &Load::held([&head[..], &[b'x'; 5000]].concat(), 2_000, true));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn answers_that_are_not_read() {
    hold(
        "answers that are not read",
        Socket::Agent,
        &Load::held(get("/v1/bundle").repeat(2_000), 500, false),
    );
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn callers_with_65536_groups() {
    let who = (100_000..165_536).fold(Credentials::user(STRANGER), Credentials::group);
    hold_as("65,536 groups", Socket::Agent, &Load::http(&get("/v1/whoami"), 200, 1), &who);
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn reflection_streams() {
    let bytes = connection(REFLECTION, 100, &Body::Open(&[FILE_OF_SYMBOL; 8]), WINDOW, 0);
    hold("reflection streams", Socket::Workload, &Load::held(bytes, 500, true));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn reflection_without_a_window() {
    let bytes = connection(REFLECTION_ALPHA, 100, &Body::Open(&[FILE_OF_SYMBOL; 8]), 0, 0);
    hold("reflection without a window", Socket::Workload, &Load::held(bytes, 500, false));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn health_watches() {
    let bytes = connection(WATCH, 100, &Body::Whole(b""), WINDOW, 0);
    hold("health watches", Socket::Workload, &Load::held(bytes, 500, true));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn unfinished_messages() {
    let bytes = connection("/SpiffeWorkloadAPI/FetchJWTSVID", 100, &Body::Unfinished(16_000), WINDOW, 0);
    hold("unfinished messages", Socket::Workload, &Load::held(bytes, 500, true));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn unfinished_messages_of_an_agent() {
    let bytes = connection("/SpiffeWorkloadAPI/FetchJWTSVID", 100, &Body::Unfinished(16_000), WINDOW, 0);
    let load = Load::held(bytes, 500, true);
    hold_as("an agent's messages", Socket::Workload, &load, &Credentials::user(NEIGHBOUR));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn streams_of_an_agent() {
    let bytes = connection("/SpiffeWorkloadAPI/FetchX509Bundles", 100, &Body::Whole(b""), WINDOW, 0);
    let load = Load::held(bytes, 500, true);
    hold_as("an agent's streams", Socket::Workload, &load, &Credentials::user(NEIGHBOUR));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn large_header_lists() {
    let bytes = connection("/SpiffeWorkloadAPI/FetchJWTSVID", 100, &Body::Unfinished(0), WINDOW, 14_000);
    hold("large header lists", Socket::Workload, &Load::held(bytes, 500, true));
}

#[test]
#[ignore = "run by make attack, alone on the machine"]
fn calls_of_a_stranger() {
    let bytes = connection("/SpiffeWorkloadAPI/FetchX509SVID", 100, &Body::Whole(b""), WINDOW, 0);
    hold("calls of a stranger", Socket::Workload, &Load::held(bytes, 200, true));
}
