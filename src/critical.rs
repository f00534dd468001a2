//! Panics: which of them end the daemon, and how they are reported.
//!
//! A panic of one connection or call ends that connection or call: tokio catches it, and dropping what it had
//! gives its permits back. A panic of a thread or task that all callers depend on aborts the process, because
//! without it the daemon would hang; systemd starts it again.

use std::any::Any;
use std::io::{self, Write};
use std::panic::{self, Location};
use std::thread::{self, Builder};

/// Aborts the process if a panic unwinds through the scope that holds it.
struct AbortOnPanic(&'static str);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            // If standard error is closed, there is no other place to report that.
            let _ = writeln!(
                io::stderr(),
                "hostbadged: {} panicked; the daemon cannot work without it and aborts",
                self.0
            );
            std::process::abort();
        }
    }
}

/// Runs `work` in this thread; a panic of it aborts the process. `name` is for the message.
pub fn run_critical<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    let _guard = AbortOnPanic(name);
    work()
}

/// Runs `work`; a panic in it aborts the process.
pub async fn critical_task<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    let _guard = AbortOnPanic(name);
    work.await
}

/// Starts a thread whose panic aborts the process.
///
/// # Errors
/// The kernel starts no thread.
pub fn spawn_critical(
    builder: Builder,
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    builder.name(name.into()).spawn(move || run_critical(name, work)).map(drop)
}

/// Reports each panic from now on as one line on standard error, which systemd passes to the journal: the
/// thread, the place in the source, and the message only if it is a constant. A message that was formatted
/// can contain what a caller sent, or a secret.
pub fn report_panics() {
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let line = panic_line(thread.name().unwrap_or("unnamed"), info.location(), info.payload());
        // If standard error is closed, there is no other place to report that.
        let _ = writeln!(io::stderr(), "{line}");
    }));
}

fn panic_line(thread: &str, location: Option<&Location<'_>>, payload: &(dyn Any + Send)) -> String {
    let place = location.map(|location| format!(" at {}:{}", location.file(), location.line()));
    let constant = payload.downcast_ref::<&'static str>().map(|message| format!(": {message}"));
    format!(
        "hostbadged: thread {thread} panicked{}{}",
        place.unwrap_or_default(),
        constant.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_constant_messages_are_reported() {
        let here = Location::caller();
        let constant: Box<dyn Any + Send> = Box::new("no slot");
        let line = panic_line("worker-0", Some(here), constant.as_ref());
        assert!(line.starts_with("hostbadged: thread worker-0 panicked at src/critical.rs:"), "{line}");
        assert!(line.ends_with(": no slot"), "{line}");
        let formatted: Box<dyn Any + Send> = Box::new(String::from("token abc"));
        assert_eq!(panic_line("x", None, formatted.as_ref()), "hostbadged: thread x panicked");
    }

    /// Runs the ignored test `name` of this file in a process of its own; true where that aborted.
    fn aborts(name: &str) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "--test-threads=1"]).arg(format!("critical::tests::{name}"));
        command.output().unwrap().status.signal() == Some(libc::SIGABRT)
    }

    #[test]
    fn a_panic_of_a_critical_thread_or_task_aborts_the_process() {
        assert!(aborts("critical_thread_panics"));
        assert!(aborts("critical_task_panics"));
        assert!(!aborts("critical_task_is_dropped"));
    }

    #[test]
    #[ignore = "run by the test above in a process of its own"]
    fn critical_thread_panics() {
        spawn_critical(Builder::new(), "x", || panic!("on purpose")).unwrap();
        thread::park_timeout(std::time::Duration::from_secs(20));
    }

    #[tokio::test]
    #[ignore = "run by the test above in a process of its own"]
    async fn critical_task_panics() {
        let task = critical_task("x", async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        let _ = tokio::spawn(task).await;
    }

    #[tokio::test]
    #[ignore = "run by the test above in a process of its own"]
    async fn critical_task_is_dropped() {
        tokio::spawn(critical_task("x", std::future::pending::<()>())).abort();
    }
}
