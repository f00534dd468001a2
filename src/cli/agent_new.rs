//! `hostbadge agent new`: writes the file of an agent.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::json;

use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::{print_bytes, print_line};
use crate::agents::{AgentName, AgentSet, AgentSource, check_text};
use crate::config::{Config, escape_unprintable};

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("identity").required(true).multiple(true).args(["user", "group", "unit"]))]
pub(super) struct NewArgs {
    /// Name of the agent, such as researcher
    name: String,
    /// Contact for the agent, such as a mail address
    #[arg(long, value_name = "CONTACT")]
    owner: Option<String>,
    /// Tenant of the agent
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// A role that the agent has; once for each
    #[arg(long)]
    role: Vec<String>,
    /// User of the agent's processes, by name or number
    #[arg(long)]
    user: Option<String>,
    /// Group of the agent's processes, by name or number
    #[arg(long)]
    group: Option<String>,
    /// System unit of the agent's processes, such as researcher.service
    #[arg(long)]
    unit: Option<String>,
    /// Path of the executable of the agent's processes
    #[arg(long, value_name = "PATH")]
    exe: Option<String>,
    /// SHA-256 digest of the executable, 64 hexadecimal digits
    #[arg(long, value_name = "DIGEST")]
    exe_sha256: Option<String>,
    /// A relying party that the agent may request tokens for; may be repeated
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// A scope of each audience; may be repeated
    #[arg(long, value_name = "SCOPE", requires = "audience")]
    scope: Vec<String>,
    /// Longest lifetime of a token, like "60s" or "5m", from 1s to 1h [default: 5m]
    #[arg(long, value_name = "DURATION", requires = "audience")]
    ttl: Option<String>,
    /// Directory of the agents' files [default: the directory of the configuration]
    #[arg(long, value_name = "DIR", conflicts_with = "print")]
    dir: Option<PathBuf>,
    /// Print the file instead of writing it
    #[arg(long)]
    print: bool,
}

pub(super) fn run(common: &CommonArgs, arguments: &NewArgs) -> Result<ExitCode, CliError> {
    let name = AgentName::parse(&arguments.name).map_err(CliError::local)?;
    let config = Config::load(None);
    let trust_domain_length = config.as_ref().unwrap_or(&Config::default()).trust_domain_length();
    let text = file_text(arguments);
    let file_name = format!("{name}.toml");
    check_text(Path::new(&file_name), &text, trust_domain_length)
        .map_err(|faults| CliError::invalid_files(&faults))?;
    if arguments.print {
        print_bytes(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let source = match &arguments.dir {
        Some(dir) => AgentSource::beside(dir, trust_domain_length),
        None => AgentSource::from(&config.map_err(|faults| CliError::invalid_files(&faults))?),
    };
    let agents = AgentSet::read_from(&source).map_err(|faults| CliError::invalid_files(&faults))?;
    let unknown = |role: &&String| !agents.roles().iter().any(|known| known.name() == *role);
    if let Some(role) = arguments.role.iter().find(unknown) {
        let dir = source.roles.display();
        return Err(CliError::Local(format!("there is no role \"{role}\" in {dir}; add its file first")));
    }
    let dir = source.agents;
    if agents.get(name.as_str()).is_some() {
        return Err(CliError::Local(format!("there is an agent \"{name}\" in {} already", dir.display())));
    }
    let path = dir.join(file_name);
    create(&path, &text).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => CliError::Local(format!("{} exists; it stays", path.display())),
        _ => CliError::Local(format!("{}: {e}", path.display())),
    })?;
    if common.json {
        return print_json(&json!({ "file": path }));
    }
    let path = escape_unprintable(&path.to_string_lossy()).into_owned();
    print_line(format_args!("{path}: written; hostbadge agent reload makes it active"))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that does not exist yet. Until it is complete its name begins with a dot, so that no reload
/// reads a part of it.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // One that a killed command left has the same name only if its pid is used again.
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o644).open(&hidden)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // Unlike rename(2), link(2) fails if the file exists.
    let linked = fs::hard_link(&hidden, path);
    fs::remove_file(&hidden)?;
    linked
}

/// The text of the file: the keys that were given, and the others as comments.
fn file_text(arguments: &NewArgs) -> String {
    let text = |value: &Option<String>| value.as_deref().map(quote);
    let id = |value: &Option<String>| value.as_deref().map(number_or_name);
    let mut file = FileText::default();
    file.line("# An agent of this host; hostbadge-agents(5) describes every key.");
    file.line("# After a change: hostbadge agent check, then hostbadge agent reload.");
    file.line(&format!("name = {}", quote(&arguments.name)));
    file.key("owner", text(&arguments.owner), "\"team@example.com\"", "contact for this agent");
    file.key("tenant", text(&arguments.tenant), "\"acme\"", "becomes a part of the SPIFFE ID");
    let roles: Vec<String> = arguments.role.iter().map(|role| quote(role)).collect();
    let roles = (!roles.is_empty()).then(|| format!("[{}]", roles.join(", ")));
    file.key("roles", roles, "[\"reader\"]", "grants that agents share, from roles.d");
    file.line("\n# A process is this agent if all of these hold.\n[match]");
    file.key("user", id(&arguments.user), "\"researcher\"", "name in quotes, or number");
    file.key("group", id(&arguments.group), "\"agents\"", "any of the process's groups");
    file.key("unit", text(&arguments.unit), "\"researcher.service\"", "systemd system unit");
    let exe = "as the kernel reports it; of a script, the interpreter";
    file.key("exe", text(&arguments.exe), "\"/usr/bin/researcher\"", exe);
    file.key("exe_sha256", text(&arguments.exe_sha256), "\"...\"", "digest of the executable");
    for audience in &arguments.audience {
        let scopes: Vec<String> = arguments.scope.iter().map(|scope| quote(scope)).collect();
        file.line("\n# The agent may request tokens for this relying party.\n[[grant]]");
        file.line(&format!("audience = {}", quote(audience)));
        file.line(&format!("scopes = [{}]", scopes.join(", ")));
        file.key("ttl", text(&arguments.ttl), "\"5m\"", "longest lifetime of a token, at most 1h");
    }
    if arguments.audience.is_empty() {
        file.line("\n# Without a grant, the agent gets certificates and no tokens.\n# [[grant]]");
        file.line("# audience = \"https://api.example.com\"\n# scopes = [\"docs.read\"]\n# ttl = \"5m\"");
    }
    file.0
}

#[derive(Default)]
struct FileText(String);

impl FileText {
    fn line(&mut self, line: &str) {
        self.0 += line;
        self.0.push('\n');
    }

    /// A key with its value, or as a comment with an example.
    fn key(&mut self, key: &str, value: Option<String>, example: &str, comment: &str) {
        match value {
            Some(value) => self.line(&format!("{key} = {value}  # {comment}")),
            None => self.line(&format!("# {key} = {example}  # {comment}")),
        }
    }
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn number_or_name(text: &str) -> String {
    text.parse::<u32>().map_or_else(|_| quote(text), |number| number.to_string())
}
