//! hostbadged: the daemon. Arguments, hardening, configuration; the rest is [`hostbadge::daemon`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use hostbadge::critical::{report_panics, run_critical};
use hostbadge::daemon::{self, Arguments};
use hostbadge::wiping_allocator::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    if let Some(status) = daemon::run_as_reader() {
        return status;
    }
    let arguments = Arguments::parse();
    report_panics();
    let hardening_warnings = daemon::harden();
    let config = match daemon::read_config(&arguments) {
        Ok(config) => config,
        Err(faults) => return daemon::print_diagnostics(&faults),
    };
    if arguments.check {
        return daemon::check_config(&config);
    }
    match run_critical("the main thread", || daemon::run(&arguments, config, &hardening_warnings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "hostbadged: {e}");
            ExitCode::FAILURE
        }
    }
}
