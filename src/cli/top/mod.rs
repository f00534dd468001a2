//! `hostbadge top`: what the daemon does now, in a terminal.
//!
//! Terminal modes and escape sequences are few here, so they are written by this module and not by a library for
//! user interfaces: one screen of text is drawn again each second.

mod measurement;
mod quantile;
mod render;
mod rows;
mod terminal;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::{print_bytes, print_line};
use measurement::Measurement;
use render::{render, render_problem};
use terminal::{Screen, Terminal};
use view::View;

/// How often the view is made again.
const INTERVAL: Duration = Duration::from_secs(1);
/// Exit status after Ctrl-C, as of a process that SIGINT ends.
const EXIT_INTERRUPTED: u8 = 130;

#[derive(Args, Debug)]
pub(super) struct TopArgs {
    /// Print one snapshot and exit, as where standard output is no terminal
    ///
    /// Its rates are averages since the start of the daemon.
    #[arg(long)]
    once: bool,
}

/// Why the view ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Quit,
    Interrupted,
}

/// The signals that concern the view.
struct Signals {
    resized: Signal,
    interrupted: Signal,
    terminated: Signal,
    hung_up: Signal,
}

pub(super) async fn run(common: &CommonArgs, args: &TopArgs) -> Result<ExitCode, CliError> {
    let first = Measurement::take(common, None).await?;
    let view = View::new(&first, None);
    if common.json {
        return print_json(&view);
    }
    if args.once || !std::io::stdout().is_terminal() {
        // As wide as needed: whoever reads it can search and cut lines.
        return print_snapshot(&view, usize::MAX);
    }
    match watch(common, first, view).await? {
        End::Quit => Ok(ExitCode::SUCCESS),
        End::Interrupted => Ok(ExitCode::from(EXIT_INTERRUPTED)),
    }
}

fn print_snapshot(view: &View, width: usize) -> Result<ExitCode, CliError> {
    render(view, width, None).iter().try_for_each(print_line)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows the view until the user ends it.
async fn watch(common: &CommonArgs, mut last: Measurement, view: View) -> Result<End, CliError> {
    let mut signals = Signals::listen().map_err(CliError::local)?;
    let terminal = Terminal::enter(Screen::from_env()).map_err(CliError::local)?;
    let mut shown = Ok(view);
    loop {
        draw(&terminal, &shown)?;
        let draw_again = || draw(&terminal, &shown);
        let due = sleep_until(Instant::now() + INTERVAL);
        if let Err(end) = until_done(due, &terminal, &mut signals, draw_again).await? {
            return Ok(end);
        }
        // A daemon that does not answer does not keep the user in the view.
        let taken = Measurement::take(common, Some(&last));
        let taken = match until_done(taken, &terminal, &mut signals, draw_again).await? {
            Ok(taken) => taken,
            Err(end) => return Ok(end),
        };
        // A daemon that restarts is shown as such, and the view continues.
        shown = match taken {
            Ok(measurement) => {
                let view = View::new(&measurement, Some(&last));
                last = measurement;
                Ok(view)
            }
            Err(error) => Err(error.to_string()),
        };
    }
}

/// Waits for the result of `work`; `Err` says that the user ended the view meanwhile. A change of the terminal's size has
/// the present view drawn again.
async fn until_done<T>(
    work: impl Future<Output = T>,
    terminal: &Terminal,
    signals: &mut Signals,
    draw_again: impl Fn() -> Result<(), CliError>,
) -> Result<Result<T, End>, CliError> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(Ok(done)),
            key = terminal.key() => match key {
                b'q' | b'Q' => return Ok(Err(End::Quit)),
                _ => {}
            },
            _ = signals.resized.recv() => draw_again()?,
            _ = signals.interrupted.recv() => return Ok(Err(End::Interrupted)),
            _ = signals.terminated.recv() => return Ok(Err(End::Interrupted)),
            _ = signals.hung_up.recv() => return Ok(Err(End::Interrupted)),
        }
    }
}

/// Draws the view, or why there is none.
fn draw(terminal: &Terminal, shown: &Result<View, String>) -> Result<(), CliError> {
    let (width, height) = terminal.size();
    let lines = match shown {
        Ok(view) => render(view, width, Some(height)),
        Err(problem) => render_problem(problem, width),
    };
    print_bytes(terminal.frame(&lines).as_bytes())
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            resized: signal(SignalKind::window_change())?,
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
            hung_up: signal(SignalKind::hangup())?,
        })
    }
}
