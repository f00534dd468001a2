//! `[audit] sync = "always"`: a record is on the disk before the reply, as the kernel sees it.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::{API, Host, until_true};
use serde_json::json;

/// strace, attached to all threads of the daemon; it writes its system calls to a file.
struct Trace {
    strace: Child,
    file: std::path::PathBuf,
}

impl Trace {
    fn attach(host: &Host) -> Trace {
        let file = host.path("trace");
        let strace = Command::new("strace")
            .args(["-f", "-y", "-s", "4096", "-e", "trace=write,sendto,sendmsg,writev,fdatasync", "-o"])
            .arg(&file)
            .args(["-p", &host.pid().to_string()])
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed");
        let trace = Trace { strace, file };
        // A request of each round trip is seen once strace is attached to the thread that serves it.
        until_true("strace sees replies", || {
            host.get("/v1/health");
            trace.calls().iter().any(|call| call.contains("HTTP/1.1 200"))
        });
        trace
    }

    /// The system calls, in the order in which they began. A call that another one interrupted stands in two lines,
    /// of which the second has its result.
    fn calls(&self) -> Vec<String> {
        fs::read_to_string(&self.file).unwrap_or_default().lines().map(String::from).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // A strace that ends by itself detaches from one thread after the other, and waits for ever where one of them
        // forks at that moment. The kernel detaches a strace that is killed.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

#[test]
fn a_record_is_on_the_disk_before_the_reply_is_sent() {
    let mut host = Host::new();
    host.configure("[audit]\nsync = \"always\"\n");
    host.agent("r", "user = 0");
    host.start();
    let trace = Trace::attach(&host);
    let issued = host.post("/v1/token", json!({ "audience": API }));
    assert_eq!(issued.status, 200, "{}", issued.text());
    let reply = |call: &String| call.contains("access_token") && call.contains("HTTP/1.1 200");
    until_true("strace has written the reply", || trace.calls().iter().any(reply));
    let calls = trace.calls();
    let written = calls.iter().position(|call| call.contains("token-issued")).expect("a record");
    let replied = calls.iter().position(reply).expect("a reply");
    let is_sync = |call: &String| call.contains("fdatasync") && call.contains(".jsonl");
    let between = calls.get(written..replied).unwrap_or_else(|| panic!("the reply came first: {calls:#?}"));
    let began = between.iter().position(is_sync).unwrap_or_else(|| panic!("no sync: {between:#?}"));
    let ended =
        between[began..].iter().any(|call| call.contains("fdatasync") && call.trim_end().ends_with("= 0"));
    assert!(ended, "the sync had not ended: {between:#?}");
}

#[test]
fn replies_that_wait_at_the_same_time_each_have_their_record() {
    let mut host = Host::new();
    host.configure("[audit]\nsync = \"always\"\n[limits]\nrate = 100000\nburst = 100000\n");
    host.agent("r", "user = 0");
    host.start();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let issued = host.post("/v1/token", json!({ "audience": API }));
                    assert_eq!(issued.status, 200, "{}", issued.text());
                }
            });
        }
    });
    let issued = host.audit().iter().filter(|record| record["event"] == "token-issued").count();
    assert_eq!(issued, 400);
}
