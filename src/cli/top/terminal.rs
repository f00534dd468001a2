//! The terminal: its modes while the view is shown, its size, and its keys.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nix::unistd::read;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The size where the terminal does not tell.
const DEFAULT_SIZE: (usize, usize) = (80, 24);
/// A terminal of fewer columns or lines gets lines for so many, which it wraps or scrolls.
const MIN_SIZE: (usize, usize) = (20, 5);
/// Another screen, so that what was on the terminal is there again afterwards; and no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// The first screen and the cursor again.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first line.
const HOME: &str = "\x1b[H";
/// Clears the rest of the line. It comes before the text: after a text of the whole width, it would clear the last
/// column.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears the rest of the screen.
const CLEAR_BELOW: &str = "\x1b[J";
/// `_POSIX_VDISABLE` of Linux: no key.
const NO_KEY: u8 = 0;

/// What the terminal can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    /// It moves its cursor by the sequences of ECMA-48.
    Addressable,
    /// It prints lines one after the other.
    Plain,
}

/// How the terminal was before, until it is restored.
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);

struct Saved {
    /// The modes, and the input that has them; `None` if the input is no terminal.
    modes: Option<(OwnedFd, Termios)>,
    screen: Screen,
    output: File,
}

/// The terminal in the modes of the view. It is restored when this is dropped, and before the report of a panic.
pub(super) struct Terminal {
    screen: Screen,
    /// `None` where standard input is no terminal.
    keys: Option<AsyncFd<OwnedFd>>,
    output: OwnedFd,
}

impl Screen {
    /// By `TERM`.
    pub(super) fn from_env() -> Screen {
        match std::env::var("TERM") {
            Ok(name) if !name.is_empty() && name != "dumb" => Screen::Addressable,
            _ => Screen::Plain,
        }
    }

    fn frame(self, lines: &[String]) -> String {
        match self {
            // An empty line between one view and the next.
            Screen::Plain => format!("{}\n\n", lines.join("\n")),
            Screen::Addressable => {
                let lines: Vec<String> = lines.iter().map(|line| format!("{CLEAR_LINE}{line}")).collect();
                // Without a line feed after the last one, which would scroll.
                format!("{HOME}{}{CLEAR_BELOW}", lines.join("\r\n"))
            }
        }
    }
}

impl Terminal {
    /// Shows an empty screen on standard output. Keys of standard input are read one by one and not displayed.
    pub(super) fn enter(screen: Screen) -> io::Result<Terminal> {
        let input = io::stdin();
        let input = input.is_terminal().then(|| input.as_fd().try_clone_to_owned()).transpose()?;
        restore_before_panic_reports();
        Terminal::enter_on(screen, input, io::stdout().as_fd().try_clone_to_owned()?)
    }

    fn enter_on(screen: Screen, input: Option<OwnedFd>, output: OwnedFd) -> io::Result<Terminal> {
        let modes = match &input {
            Some(input) => Some((input.try_clone()?, tcgetattr(input)?)),
            None => None,
        };
        let shown_modes = modes.as_ref().map(|(_, modes)| modes.clone());
        let mut writer = File::from(output.try_clone()?);
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Saved { modes, screen, output: writer.try_clone()? });
        // From here on, the value restores the terminal, also if a step fails.
        let mut terminal = Terminal { screen, keys: None, output };
        if let (Some(input), Some(modes)) = (input, shown_modes) {
            tcsetattr(&input, SetArg::TCSADRAIN, &modes_of_view(modes))?;
            // SAFETY: the value owns the descriptor, and nothing replaces or closes it before the value is dropped.
            terminal.keys = Some(unsafe { AsyncFd::register_with_interest(input, Interest::READABLE) }?);
        }
        if screen == Screen::Addressable {
            writer.write_all(ENTER.as_bytes())?;
        }
        Ok(terminal)
    }

    /// The number of columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        size_of(&self.output)
    }

    /// What displays these lines.
    pub(super) fn frame(&self, lines: &[String]) -> String {
        self.screen.frame(lines)
    }

    /// The next key. Waits for ever where there are none.
    pub(super) async fn key(&self) -> u8 {
        let Some(keys) = &self.keys else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = keys.readable().await else { return std::future::pending().await };
            let mut byte = [0];
            match read(keys.get_ref(), &mut byte) {
                Ok(1..) => return byte[0],
                Err(Errno::EINTR) => {}
                // No key is left.
                Ok(0) if !ready.ready().is_read_closed() => ready.clear_ready(),
                // The terminal has gone; SIGHUP, or output that fails, ends the view.
                Ok(0) | Err(_) => return std::future::pending().await,
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// The number of columns and lines of a terminal.
fn size_of(terminal: &OwnedFd) -> (usize, usize) {
    let size = terminal_size::terminal_size_of(terminal);
    let size = size.map(|(width, height)| (width.0.into(), height.0.into()));
    let (width, height) = size.filter(|size| *size != (0, 0)).unwrap_or(DEFAULT_SIZE);
    (width.max(MIN_SIZE.0), height.max(MIN_SIZE.1))
}

/// Keys are read one by one, without waiting, and not displayed. Ctrl-C remains; the keys that stop the process or make it dump core do
/// nothing, because the terminal would stay as it is.
fn modes_of_view(mut modes: Termios) -> Termios {
    modes.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
    for (key, value) in [
        (SpecialCharacterIndices::VMIN, 0),
        (SpecialCharacterIndices::VTIME, 0),
        (SpecialCharacterIndices::VSUSP, NO_KEY),
        (SpecialCharacterIndices::VQUIT, NO_KEY),
    ] {
        modes.control_chars[key as usize] = value;
    }
    modes
}

/// Restores the terminal, once.
fn restore() {
    let Some(mut saved) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    if saved.screen == Screen::Addressable {
        // If the terminal has gone, there is nothing to restore.
        let _ = saved.output.write_all(LEAVE.as_bytes());
    }
    if let Some((input, modes)) = saved.modes {
        let _ = tcsetattr(&input, SetArg::TCSADRAIN, &modes);
    }
}

/// The report of a panic would otherwise go to the screen that disappears.
fn restore_before_panic_reports() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use std::io::Read;

    fn same(one: &Termios, other: &Termios) -> bool {
        (one.local_flags, one.control_chars) == (other.local_flags, other.control_chars)
    }

    #[test]
    fn a_panic_restores_the_terminal() {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let clone = || pty.slave.try_clone().unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _inside = runtime.enter();
            let _terminal = Terminal::enter_on(Screen::Addressable, Some(clone()), clone()).unwrap();
            assert!(!same(&tcgetattr(&pty.slave).unwrap(), &before));
            panic!("as a fault in the view would");
        }));
        assert!(panicked.is_err());
        assert!(same(&tcgetattr(&pty.slave).unwrap(), &before));
        drop(pty.slave);
        // Each write can be read on its own. After the last one, the other end is closed (EIO).
        let (mut master, mut written) = (File::from(pty.master), Vec::new());
        let mut part = [0; 256];
        while let Ok(length @ 1..) = master.read(&mut part) {
            written.extend(&part[..length]);
        }
        assert_eq!(String::from_utf8_lossy(&written), format!("{ENTER}{LEAVE}"));
    }

    #[test]
    fn frames_of_plain_terminals_have_no_sequences() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(Screen::Plain.frame(&lines), "a\nb\n\n");
        assert_eq!(Screen::Addressable.frame(&lines), "\x1b[H\x1b[Ka\r\n\x1b[Kb\x1b[J");
    }

    #[test]
    fn a_terminal_that_does_not_tell_its_size_has_the_usual_one() {
        assert_eq!(size_of(&openpty(None, None).unwrap().slave), DEFAULT_SIZE);
    }
}
