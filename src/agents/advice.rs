//! What makes agents weaker than they can be, by their files alone.
//!
//! Unlike a warning, advice is about what an administrator may want as it is: a reload counts it in one line.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::Diagnostic;
use crate::names::{NameTable, Resolution};

use super::credential::{CredentialGrant, CredentialUse};
use super::entry::{AgentEntry, Origin};
use super::grant::Grant;
use super::lint_name::Lint;
use super::overlap::list;
use super::selectors::{IdOrName, Selectors};

/// Names of interpreters without the version at their end.
const INTERPRETERS: &[&str] = &[
    "ash", "bash", "bun", "busybox", "dash", "deno", "dotnet", "fish", "guile", "java", "julia", "ksh",
    "lua", "luajit", "mksh", "mono", "node", "nodejs", "perl", "php", "pwsh", "pypy", "python", "rscript",
    "ruby", "sh", "tclsh", "zsh",
];

/// Audiences that several relying parties may take for themselves.
const VAGUE_AUDIENCES: &[&str] =
    &["all", "any", "anyone", "api", "audience", "default", "everyone", "internal", "localhost", "public"];

/// Advice about the agents: at most `max`. The time is proportional to the number of agents.
pub(super) fn advice<'a>(
    agents: impl Iterator<Item = (&'a AgentEntry, &'a Origin)>,
    names: &NameTable,
    max: usize,
) -> Vec<Diagnostic> {
    let agents: Vec<_> = agents.collect();
    let mut agents_by_user: BTreeMap<String, Vec<&AgentEntry>> = BTreeMap::new();
    for (entry, _) in &agents {
        if let Some(user) = user_of(&entry.selectors, names) {
            agents_by_user.entry(user).or_default().push(entry);
        }
    }
    let mut advice = Vec::new();
    for (entry, origin) in &agents {
        let same_user = user_of(&entry.selectors, names).and_then(|user| agents_by_user.get(&user));
        let is_first = |same: &&Vec<&AgentEntry>| same.first().is_some_and(|first| first.name == entry.name);
        // Once for all of them.
        let shared = same_user.filter(|same| same.len() > 1).filter(is_first);
        let texts = about_agent(entry, names).into_iter().chain(shared.map(|same| shared_uid(same)));
        advice.extend(texts.map(|text| origin.diagnostic(text)));
        if advice.len() >= max {
            break;
        }
    }
    advice.truncate(max);
    advice
}

/// The user as a text, by its number where that is known.
fn user_of(selectors: &Selectors, names: &NameTable) -> Option<String> {
    let user = selectors.user.as_ref()?;
    Some(match (selectors.uid(names), user) {
        (Some(Resolution::Number(uid)), _) => uid.to_string(),
        (_, IdOrName::Id(uid)) => uid.to_string(),
        (_, IdOrName::Name(name)) => format!("{name:?}"),
    })
}

fn about_agent(entry: &AgentEntry, names: &NameTable) -> Vec<String> {
    let mut found = Vec::new();
    if entry.owner.is_none() {
        found.push(Lint::NoOwner.about(
            "there is no owner to ask about this agent; add a line such as owner = \"team@example.com\" above \
             the first table",
        ));
    }
    found.extend(weak_conditions(&entry.selectors));
    if user_of(&entry.selectors, names).as_deref() == Some("0") {
        found.push(Lint::RootUser.about(
            "processes of root can read the memory and the tokens of every other agent; give this one a user of \
             its own, such as by DynamicUser=yes in its unit",
        ));
    }
    found.extend(entry.grants().filter_map(|granted| vague_audience(granted.item)));
    found.extend(entry.credentials().filter_map(|granted| unusable_credential(granted.item)));
    found
}

/// Conditions that hold for more programs than the agent's own.
fn weak_conditions(selectors: &Selectors) -> Option<String> {
    let has_other = selectors.container.is_some() || selectors.user_unit.is_some() || selectors.session;
    // The others have warnings of their own.
    if selectors.unit.is_some() || has_other {
        return None;
    }
    let interpreter = selectors.exe.as_deref().filter(|exe| is_interpreter(exe));
    if let Some(exe) = interpreter {
        return Some(Lint::InterpreterAlone.about(format_args!(
            "{} is an interpreter: whatever script its user runs with it is this agent; add the agent's systemd \
             unit, such as unit = \"researcher.service\"",
            exe.display()
        )));
    }
    let admitted = match selectors.exe.is_some() || selectors.exe_sha256.is_some() {
        // With a library of LD_PRELOAD, or as a child that a debugger controls.
        true => "its user can run the executable in any way, also under a debugger",
        false => "every program that its user runs is this agent, also in cron and at a terminal",
    };
    Some(Lint::NoUnit.about(format_args!(
        "without unit, {admitted}; add the agent's systemd unit, such as unit = \"researcher.service\""
    )))
}

/// Whether a path names an interpreter, with or without a version: `/usr/bin/python3.11`.
fn is_interpreter(exe: &Path) -> bool {
    let name = exe.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    INTERPRETERS.contains(&name)
}

/// An audience that does not name one relying party. Those with an asterisk have a warning already.
fn vague_audience(grant: &Grant) -> Option<String> {
    let audience = grant.audience.to_ascii_lowercase();
    let (scheme, host) = audience.split_once("://").unwrap_or(("", "x"));
    let is_vague = VAGUE_AUDIENCES.contains(&&*audience)
        || !scheme.is_empty() && host.split(['/', ':']).next().is_none_or(str::is_empty);
    is_vague.then(|| {
        Lint::WildcardAudience.about(format_args!(
            "several relying parties may accept the audience {:?}, and each can use a token at the others; name \
             one by its URL",
            grant.audience
        ))
    })
}

fn unusable_credential(credential: &CredentialGrant) -> Option<String> {
    let CredentialUse::Inject = credential.usage else { return None };
    Some(Lint::UnusableCredential.about(format_args!(
        "this version has no egress proxy, so the agent cannot use the credential \"{}\"; use = \"release\" lets \
         it have the value",
        credential.name
    )))
}

fn shared_uid(agents: &[&AgentEntry]) -> String {
    Lint::SharedUid.about(format_args!(
        "agents {} have the same user, whose processes can read each other's memory, files and tokens; give each a \
         user of its own, such as by DynamicUser=yes in its unit",
        list(agents)
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agents::AgentSet;
    use crate::names::Names;

    /// The names of what is found in agents with these files, by `FILE:LINE LINT`.
    fn found(files: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (index, text) in files.iter().enumerate() {
            let text = format!("name = \"a{index}\"\n{text}\n");
            std::fs::write(dir.path().join(format!("{index}.toml")), text).unwrap();
        }
        let agents = AgentSet::read(dir.path(), 35).unwrap();
        let names = Names::start([]).unwrap();
        names.resolve(&agents.user_and_group_names(), Duration::from_secs(30));
        let found = advice(agents.with_origins(), &names.table(), 1000);
        let name = |one: &Diagnostic| {
            let stem = one.file.file_stem().unwrap().to_string_lossy().into_owned();
            format!("{stem}:{} {}", one.line.unwrap(), Lint::of(one).unwrap().0.name())
        };
        found.iter().map(name).collect()
    }

    #[test]
    fn an_agent_with_owner_user_and_unit_has_no_advice() {
        let agent = |user: u32| {
            format!(
                "owner = \"x\"\n[match]\nuser = {user}\nunit = 'a.service'\nexe = '/usr/bin/python3'\n\
                 [[grant]]\naudience = \"https://api.example.com\"\nscopes = [\"r\"]\n\
                 [[credential]]\nname = \"c\"\nuse = \"release\"\n"
            )
        };
        assert_eq!(found(&[&agent(1), &agent(2)]), [""; 0]);
    }

    #[test]
    fn weak_conditions_are_found() {
        let owned = |conditions: &str| format!("owner = \"x\"\n[match]\n{conditions}");
        for (conditions, expected) in [
            ("user = 1", "no-unit"),
            ("user = 1\nexe = '/usr/bin/agent'", "no-unit"),
            ("group = 1", "no-unit"),
            ("user = 1\nexe = '/usr/bin/python3.11'", "interpreter-alone"),
            ("user = 1\nexe = '/opt/node-22/bin/node'", "interpreter-alone"),
            ("user = 1\nexe = '/usr/bin/Rscript'", "interpreter-alone"),
            ("user = 0\nunit = 'a.service'", "root-user"),
            ("user = 'root'\nunit = 'a.service'", "root-user"),
        ] {
            assert_eq!(found(&[&owned(conditions)]), [format!("0:3 {expected}")], "{conditions}");
        }
        assert_eq!(found(&["[match]\nuser = 1\nunit = 'a.service'"]), ["0:2 no-owner"]);
        for name in ["pythonic", "nodejs-exporter", "shell", "ruby-agent"] {
            assert!(!is_interpreter(Path::new("/usr/bin").join(name).as_path()), "{name}");
        }
    }

    #[test]
    fn agents_of_one_user_are_one_finding() {
        let agent = |user: &str, unit: &str| format!("owner = 'x'\n[match]\nuser = {user}\nunit = '{unit}'");
        let (one, two) = (agent("1", "a.service"), agent("'daemon'", "b.service"));
        assert_eq!(found(&[&one, &two, &agent("2", "a.service")]), ["0:3 shared-uid"]);
    }

    #[test]
    fn audiences_and_credentials_are_checked() {
        let agent = |more: &str| format!("owner = 'x'\n[match]\nuser = 1\nunit = 'a.service'\n{more}");
        for audience in ["any", "Default", "https://", "https:///x", "https://:443"] {
            let text = agent(&format!("[[grant]]\naudience = {audience:?}\nscopes = ['r']"));
            assert_eq!(found(&[&text]), ["0:3 wildcard-audience"], "{audience}");
        }
        for audience in ["https://api.example.com", "api.example.com", "urn:example:api", "spiffe://a/b"] {
            let text = agent(&format!("[[grant]]\naudience = {audience:?}\nscopes = ['r']"));
            assert_eq!(found(&[&text]), [""; 0], "{audience}");
        }
        assert_eq!(found(&[&agent("[[credential]]\nname = 'c'")]), ["0:3 unusable-credential"]);
    }
}
