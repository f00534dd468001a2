//! `hostbadge top` on a terminal: its size, its keys, and what it leaves behind.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use serde_json::{Value, json};

use crate::common::callers::Credentials;
use crate::common::processes::Running;
use crate::common::{Host, program, until};

const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// The uid of the first of twenty users.
const FIRST_UID: u32 = 40_000;

/// A terminal on which `hostbadge top` runs.
struct Terminal {
    top: Running,
    slave: OwnedFd,
    master: File,
    output: Receiver<Vec<u8>>,
    /// What was displayed so far.
    text: String,
    before: Termios,
}

fn size(width: u16, height: u16) -> Winsize {
    Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    fn start(host: &Host, name: &str, width: u16, height: u16) -> Terminal {
        let pty = openpty(Some(&size(width, height)), None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let mut command = Command::new(program("hostbadge"));
        command.arg("top").env("TERM", name).env("HOSTBADGE_ADMIN_SOCKET", host.admin_socket());
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let top = Running::start(command);
        let master = File::from(pty.master);
        let (sender, output) = channel();
        let mut reader = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(length) = reader.read(&mut buffer) {
                if length == 0 || sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { top, slave: pty.slave, master, output, text: String::new(), before }
    }

    /// Reads until the text after `start` has what is looked for, and returns that text.
    #[track_caller]
    fn until(&mut self, what: &str, start: usize, holds: impl Fn(&str) -> bool) -> String {
        until(what, || {
            while let Ok(more) = self.output.recv_timeout(Duration::from_millis(10)) {
                self.text += &String::from_utf8_lossy(&more);
            }
            holds(&self.text[start..]).then(|| self.text[start..].to_owned())
        })
    }

    /// Waits for the end of the process, and asserts that the terminal is as before.
    #[track_caller]
    fn assert_ended(mut self, code: i32) {
        let status = until("the view ends", || self.top.exited());
        assert_eq!(status.code(), Some(code), "{status:?}: {}", self.text);
        let after = tcgetattr(&self.slave).unwrap();
        assert_eq!(
            (after.local_flags, after.control_chars),
            (self.before.local_flags, self.before.control_chars)
        );
        self.until("the first screen is back", 0, |text| text.ends_with(LEAVE) || !text.contains(ENTER));
    }

    fn modes(&self) -> LocalFlags {
        tcgetattr(&self.slave).unwrap().local_flags
    }
}

/// The last complete frame of an addressable terminal, in lines.
fn last_frame(text: &str) -> Vec<String> {
    let end = text.rfind("\u{1b}[J").expect("a frame");
    let start = text[..end].rfind("\u{1b}[H").expect("a frame");
    lines(&text[start + 3..end])
}

/// The lines of a text, which the terminal ends with a carriage return of its own.
fn lines(text: &str) -> Vec<String> {
    let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    lines.map(|line| line.trim_start_matches("\u{1b}[K").to_owned()).collect()
}

fn frames(text: &str) -> usize {
    text.matches("\u{1b}[J").count()
}

/// A host with twenty agents, whose faults make long alerts.
fn busy_host() -> Host {
    let mut host = Host::new();
    for n in 0..20 {
        host.agent(
            &format!("agent-with-a-long-name-on-a-small-screen-{n}"),
            &format!("user = {}", FIRST_UID + n),
        );
    }
    host.start();
    for n in 0..20 {
        let token = Credentials::user(FIRST_UID + n).token(&host);
        assert_eq!(token.status, 200, "{}", token.text());
    }
    host.agents_file("broken", "name =");
    assert_eq!(host.admin().post("/v1/agents/reload", &json!({})).status, 422);
    host
}

#[track_caller]
fn assert_fits(lines: &[String], width: usize, height: usize) {
    assert!(lines.len() <= height, "{} lines:\n{}", lines.len(), lines.join("\n"));
    for line in lines {
        assert!(line.chars().count() <= width, "{} columns: {line}", line.chars().count());
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn eighty_columns_suffice_and_a_change_of_the_size_is_followed() {
    let host = busy_host();
    let mut terminal = Terminal::start(&host, "xterm-256color", 80, 24);
    let text = terminal.until("there are three frames", 0, |text| frames(text) >= 3);
    assert!(text.starts_with(ENTER), "{text:?}");
    assert!(!terminal.modes().intersects(LocalFlags::ICANON | LocalFlags::ECHO));
    let lines = last_frame(&text);
    assert_fits(&lines, 80, 24);
    let shown = lines.join("\n");
    for part in
        ["hostbadge 0.1.0", "TPM       ready", "access_token", "agent-with-a-long-name-", "ALERTS: ", "! "]
    {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }

    for (width, height) in [(50, 12), (120, 40)] {
        let start = terminal.text.len();
        resize(&terminal.master, width, height);
        kill(terminal.top.pid(), Signal::SIGWINCH).unwrap();
        let text = terminal.until("frames of the new size", start, |text| frames(text) >= 3);
        let lines = last_frame(&text);
        assert_fits(&lines, width.into(), height.into());
    }
    terminal.master.write_all(b"xq").unwrap();
    terminal.assert_ended(0);
}

nix::ioctl_write_ptr_bad!(
    /// Sets the size of a terminal.
    set_size,
    libc::TIOCSWINSZ,
    Winsize
);

fn resize(terminal: &File, width: u16, height: u16) {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open, and the structure is the one of this request.
    unsafe { set_size(terminal.as_raw_fd(), &size(width, height)) }.unwrap();
}

#[test]
fn signals_restore_the_terminal() {
    let host = Host::started();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = Terminal::start(&host, "xterm", 80, 24);
        terminal.until("there is a frame", 0, |text| frames(text) >= 1);
        kill(terminal.top.pid(), signal).unwrap();
        terminal.assert_ended(130);
    }
}

#[test]
fn a_dumb_terminal_gets_lines_without_sequences() {
    let host = Host::started();
    let mut terminal = Terminal::start(&host, "dumb", 80, 24);
    let text = terminal.until("there are two views", 0, |text| text.matches("hostbadge 0.1.0").count() >= 2);
    assert_fits(&lines(&text), 80, usize::MAX);
    terminal.master.write_all(b"q").unwrap();
    terminal.assert_ended(0);
}

#[test]
fn a_daemon_that_restarts_is_waited_for() {
    let mut host = Host::started();
    let mut terminal = Terminal::start(&host, "xterm", 80, 24);
    terminal.until("there is a frame", 0, |text| frames(text) >= 1);
    let start = terminal.text.len();
    assert!(host.stop().success());
    let text = terminal.until("it says so", start, |text| text.contains("no answer; trying again"));
    assert_fits(&last_frame(&text[..text.rfind("\u{1b}[J").unwrap() + 3]), 80, 24);
    let start = terminal.text.len();
    host.start();
    terminal.until("the view is back", start, |text| text.contains("health full"));
    terminal.master.write_all(b"q").unwrap();
    terminal.assert_ended(0);
}

#[test]
fn without_a_terminal_there_is_one_snapshot() {
    let host = busy_host();
    for words in [&["top"][..], &["top", "--once"]] {
        let output = host.hostbadge(words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.lines().filter(|line| line.ends_with(" ago")).count(), 20, "{text}");
        assert!(text.contains("ALERTS: ") && text.contains("agent-with-a-lo"), "{text}");
    }
    let view: Value = serde_json::from_slice(&host.hostbadge(&["top", "--json"]).stdout).unwrap();
    assert_eq!((&view["health"], &view["tpm"]["state"]), (&json!("full"), &json!("ready")));
    assert_eq!((view["registered_agents"].as_u64(), view["live_tokens"].as_u64()), (Some(20), Some(20)));
    let requests = view["requests"].as_array().unwrap();
    assert!(requests.iter().any(|row| row["request"] == "access_token"), "{view}");
    assert_eq!(view["agents"].as_array().unwrap().len(), 20);
    assert!(!view["alerts"].as_array().unwrap().is_empty());

    let nowhere = Command::new(program("hostbadge"))
        .args(["top", "--once", "--admin-socket", "/does/not/exist.sock"])
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(3));
}
