//! Writes the manual pages of the commands, and the shells' completions: `cargo run --example manual -- DIR`.
//!
//! They come from the same definitions as the help texts, so that they cannot go stale. The pages of the
//! files are written by hand, in `packaging/man`.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use hostbadge::{cli, daemon};

fn main() -> io::Result<()> {
    let dir = std::env::args_os().nth(1).expect("usage: manual DIR");
    let (man, completions) = (Path::new(&dir).join("man"), Path::new(&dir).join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;

    let mut command = cli::Cli::command();
    let mut daemon = daemon::Arguments::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "hostbadge", &completions)?;
        clap_complete::generate_to(shell, &mut daemon, "hostbadged", &completions)?;
    }
    complete_agent_names(&completions)?;
    command.build();
    pages_of_command(&man, command, &[], "")?;
    page(&man, daemon, "hostbadged", "8", "", DAEMON)
}

/// Adds the completion of agents' names to the scripts of clap_complete, which knows only what is in the
/// definitions.
fn complete_agent_names(dir: &Path) -> io::Result<()> {
    for (file, more) in [
        ("hostbadge.bash", include_str!("completions/agents.bash")),
        ("hostbadge.fish", include_str!("completions/agents.fish")),
    ] {
        let script = fs::read_to_string(dir.join(file))?;
        fs::write(dir.join(file), script + more)?;
    }
    let file = dir.join("_hostbadge");
    let mut script = fs::read_to_string(&file)?;
    // Zsh's completions of a value stand in the description of its option.
    for (value, by) in [
        (
            "if this process matches several]:NAME:_default",
            "if this process matches several]:NAME:_hostbadge_agent_names",
        ),
        (":name -- Name of the agent:_default", ":name -- Name of the agent:_hostbadge_agent_names"),
        ("if [ \"$funcstack[1]\"", concat!(include_str!("completions/agents.zsh"), "if [ \"$funcstack[1]\"")),
    ] {
        assert!(script.contains(value), "{}: no {value}", file.display());
        script = script.replace(value, by);
    }
    fs::write(file, script)
}

/// `hostbadge-verify-token.1` for `hostbadge verify token`, and so on.
///
/// `examples` are those of the command above, of which a page has its own.
fn pages_of_command(dir: &Path, command: clap::Command, above: &[String], examples: &str) -> io::Result<()> {
    let names: Vec<String> = above.iter().cloned().chain([command.get_name().to_owned()]).collect();
    let below: Vec<clap::Command> =
        command.get_subcommands().filter(|sub| sub.get_name() != "help").cloned().collect();
    let own = command.get_after_long_help().map(ToString::to_string);
    let own = own.as_deref().and_then(|help| help.strip_prefix("Examples:\n")).unwrap_or(examples);
    let begins_with_name = |line: &&str| line.contains(&names.join(" "));
    let own: String = own.lines().filter(begins_with_name).map(|line| format!("{}\n", line.trim())).collect();
    page(dir, command, &names.join("-"), "1", &own, COMMAND)?;
    below.into_iter().try_for_each(|sub| pages_of_command(dir, sub, &names, &own))
}

fn page(
    dir: &Path,
    command: clap::Command,
    name: &str,
    section: &str,
    examples: &str,
    more: &[(&str, &str)],
) -> io::Result<()> {
    let has_subcommands = command.has_subcommands();
    let command = command.display_name(name.to_owned()).disable_help_subcommand(true);
    let man = Man::new(command).title(name.to_uppercase()).section(section).manual("hostbadge").date("");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    if !examples.is_empty() {
        let mut roff = Roff::new();
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []).to_writer(&mut text)?;
    }
    for (heading, words) in more {
        let mut roff = Roff::new();
        roff.control("SH", [*heading]);
        for paragraph in words.split("\n\n") {
            match paragraph.split_once('\t') {
                Some((term, meaning)) => {
                    roff.control("TP", []);
                    roff.text([roman(term)]);
                    roff.text([roman(meaning)])
                }
                None => roff.text([roman(paragraph)]),
            };
        }
        roff.to_writer(&mut text)?;
    }
    fs::write(dir.join(format!("{name}.{section}")), text)
}

/// Sections of every page of the command.
const COMMAND: &[(&str, &str)] = &[
    (
        "EXIT STATUS",
        "0\tSuccess.\n\n1\tThe daemon refused the request, or a verification failed.\n\n2\tUsage error.\n\n\
         3\tNo daemon listens on the socket.\n\n4\tThe service is unavailable now; the message names the state of the TPM or of the disk.",
    ),
    (
        "ENVIRONMENT",
        "HOSTBADGE_SOCKET\tThe agent socket.\n\nHOSTBADGE_ADMIN_SOCKET\tThe admin socket.\n\n\
         SPIFFE_ENDPOINT_SOCKET\tFor SPIFFE clients, not used by this command: unix:///run/hostbadge/workload.sock.",
    ),
    ("SEE ALSO", "hostbadge(1), hostbadged(8), hostbadge-agents(5), hostbadged.toml(5)"),
];

const DAEMON: &[(&str, &str)] = &[
    (
        "SIGNALS",
        "SIGHUP\tReloads agents.d and federation, each completely or not at all; hostbadge agent reload does the same and prints the faults.\n\n\
         SIGTERM, SIGINT\tAnswers the requests in progress, for at most five seconds, and exits.",
    ),
    (
        "EXIT STATUS",
        "0\tEnded by a signal.\n\n1\tThe daemon could not start or continue; systemd restarts it.\n\n\
         2\tThe configuration or the command line has a fault; systemd does not restart the daemon.",
    ),
    (
        "FILES",
        "/etc/hostbadge/hostbadged.toml\tConfiguration, hostbadged.toml(5). The daemon also starts without it.\n\n\
         /etc/hostbadge/agents.d/*.toml\tRegistered agents, hostbadge-agents(5).\n\n\
         /etc/hostbadge/policies/*.cedar\tPolicies; hostbadge policy schema prints what they decide by.\n\n\
         /etc/hostbadge/federation/*.json\tBundles of other trust domains; each file is named after its domain.\n\n\
         /var/lib/hostbadge\tKeys, which only the TPM of this host can open.\n\n\
         /var/log/hostbadge/audit\tAudit log: one JSON line for each decision, chained by digests.\n\n\
         /run/hostbadge/agent.sock\tFor agents; open to all local users, because the daemon identifies and authorizes each caller.\n\n\
         /run/hostbadge/workload.sock\tSPIFFE Workload API, for clients with \
         SPIFFE_ENDPOINT_SOCKET=unix:///run/hostbadge/workload.sock; open to all local users.\n\n\
         /run/hostbadge/credentials.sock\tFor service managers: LoadCredential= in units, see hostbadge-agents(5); open to all \
         local users.\n\n\
         /run/hostbadge/admin.sock\tFor root and members of the group hostbadge-admin.\n\n\
         /run/hostbadge/metrics.sock\tFor members of the group hostbadge-metrics, who may read metrics, and administrators.\n\n\
         /run/hostbadge/reader.sock\tFor the daemon alone: starts a process that reads one executable, see hostbadge-agents(5).\n\n\
         /run/hostbadge/alert.sock\tWhere the daemon sends each alert of a rule of [anomaly] as one line of JSON, if \
         hostbadge-alert.socket is enabled: systemd starts /usr/local/libexec/hostbadge-alert with it as standard input.",
    ),
    (
        "JOURNAL",
        "Each decision is one entry with the fields HOSTBADGE_EVENT, HOSTBADGE_AGENT, HOSTBADGE_AUDIENCE, HOSTBADGE_JTI, \
         HOSTBADGE_REASON, HOSTBADGE_CORRELATION_ID, HOSTBADGE_PEER_PID, HOSTBADGE_PEER_UID and HOSTBADGE_PEER_UNIT where \
         they apply. \
         journalctl -t hostbadged HOSTBADGE_AGENT=researcher shows the history of an agent, and journalctl -x explains each kind \
         of entry.",
    ),
    ("SEE ALSO", "hostbadge(1), hostbadged.toml(5), hostbadge-agents(5), journalctl(1), systemd.socket(5)"),
];
