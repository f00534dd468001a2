//! `hostbadge credential import`: the variables of an environment file become credentials.
//!
//! The format is that of systemd's EnvironmentFile= and of most programs: one `NAME=VALUE` a line, with
//! comments, an optional `export`, and values that may be quoted.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::read_file;
use super::output::{note, print_line};
use crate::wire::credentials::{PutCredentialRequest, PutCredentialResponse, StoredCredential};

/// Largest environment file in bytes.
const MAX_ENV_FILE_SIZE: usize = 1024 * 1024;

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// The environment file. OPENAI_API_KEY becomes the credential "openai-api-key". A value stands for itself,
    /// in single quotes, or in double quotes, where a backslash stands before a quote, a backslash, a dollar
    /// sign or a backtick; what programs read differently is refused
    #[arg(long, value_name = "FILE")]
    env_file: PathBuf,
    /// Tenant whose agents may use the credentials
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Import these variables only; may be repeated
    #[arg(long, value_name = "VARIABLE")]
    only: Vec<String>,
    /// Remove the file when all its variables are stored
    #[arg(long, conflicts_with = "only")]
    remove: bool,
}

/// A variable of the file.
struct Variable {
    credential_name: String,
    value: Zeroizing<String>,
}

pub(super) async fn run(common: &CommonArgs, arguments: &ImportArgs) -> Result<ExitCode, CliError> {
    let file = arguments.env_file.display();
    let text = Zeroizing::new(read_file(&arguments.env_file, MAX_ENV_FILE_SIZE)?);
    let text = std::str::from_utf8(&text).map_err(|_| CliError::Local(format!("{file}: not UTF-8")))?;
    // All of the file is checked before the first variable is stored.
    let variables = parse(text, &arguments.only).map_err(|e| CliError::Local(format!("{file}:{e}")))?;
    ensure_new(common, arguments, &variables).await?;
    let mut stored = Vec::new();
    for Variable { credential_name, value } in variables {
        let tenant = arguments.tenant.clone();
        let request = PutCredentialRequest {
            name: credential_name.clone(),
            tenant,
            agent: None,
            value,
            expires_at: None,
            canary: false,
        };
        let path = "/v1/credentials/put";
        let put = client::post::<PutCredentialResponse>(&common.admin_socket, path, &request).await;
        if let Err(error) = put {
            if !stored.is_empty() {
                note(format_args!("stored before the failure: {}", stored.join(", ")));
            }
            note(format_args!("{credential_name} was not stored, and {file} was not removed"));
            return Err(error);
        }
        stored.push(credential_name);
    }
    if arguments.remove {
        fs::remove_file(&arguments.env_file).map_err(|e| CliError::Local(format!("{file}: {e}")))?;
    }
    if common.json {
        return print_json(&json!({ "stored": stored, "removed": arguments.remove }));
    }
    print_line(format_args!("stored {}", stored.join(", ")))?;
    // Overwriting would prove nothing: flash memory, copy-on-write file systems and journals keep old blocks.
    note(format_args!(
        "{file} {}. Its blocks may be on the disk and in backups, and overwriting them would not prove otherwise: \
         have the issuers make new secrets, and store them with hostbadge credential rotate.",
        if arguments.remove { "is removed" } else { "still exists" }
    ));
    Ok(ExitCode::SUCCESS)
}

/// Checks that none of the variables is a credential already, before the first is stored.
async fn ensure_new(
    common: &CommonArgs,
    arguments: &ImportArgs,
    variables: &[Variable],
) -> Result<(), CliError> {
    let stored = client::get::<Vec<StoredCredential>>(&common.admin_socket, "/v1/credentials").await?.body;
    let is_shared = |other: &&StoredCredential| other.agent.is_none() && other.tenant == arguments.tenant;
    let exists = |name: &str| stored.iter().filter(is_shared).any(|other| other.name == name);
    let existing: Vec<&str> =
        variables.iter().map(|variable| &*variable.credential_name).filter(|name| exists(name)).collect();
    if existing.is_empty() {
        return Ok(());
    }
    Err(CliError::Local(format!(
        "nothing was stored: these credentials exist: {}; import the others by --only, and store new values of \
         these by hostbadge credential rotate",
        existing.join(", ")
    )))
}

/// The variables in the order of the file. The error begins with the number of the line, and contains nothing
/// of a value.
fn parse(text: &str, only: &[String]) -> Result<Vec<Variable>, String> {
    let mut variables = Vec::new();
    let (mut seen, mut missing): (BTreeSet<String>, BTreeSet<&str>) =
        (BTreeSet::new(), only.iter().map(String::as_str).collect());
    for (index, line) in text.lines().enumerate() {
        let fault = |what: &str| format!("{}: {what}", index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = line.split_once('=').ok_or_else(|| fault("expected NAME=VALUE"))?;
        let name = name.trim_end();
        let is_name = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            return Err(fault("the part before = is not the name of an environment variable"));
        }
        if !only.is_empty() && !missing.remove(name) {
            continue;
        }
        let value = unquote(value.trim()).map_err(fault)?;
        if value.is_empty() {
            return Err(fault(&format!("{name} is empty")));
        }
        let credential_name = name.trim_matches('_').to_ascii_lowercase().replace('_', "-");
        if !seen.insert(credential_name.clone()) {
            return Err(fault(&format!("a second variable would be the credential {credential_name}")));
        }
        variables.push(Variable { credential_name, value });
    }
    match missing.first() {
        Some(name) => Err(format!(" there is no variable {name}")),
        None if variables.is_empty() => Err(" there is no variable".to_owned()),
        None => Ok(variables),
    }
}

/// Removes quotes. In single quotes everything counts; in double quotes a backslash stands before a quote, a
/// backslash, a dollar sign or a backtick. What programs read differently is refused: other backslashes, and a
/// blank before `#` outside of quotes.
fn unquote(text: &str) -> Result<Zeroizing<String>, &'static str> {
    const AMBIGUOUS: &str =
        "programs read a backslash here differently; put the value in single quotes if it stands for itself";
    if let Some(inner) = text.strip_prefix('\'') {
        let inner = inner.strip_suffix('\'').ok_or("the quote is not closed on this line")?;
        return match inner.contains('\'') {
            true => Err("a quote inside a value in single quotes"),
            false => Ok(Zeroizing::new(inner.to_owned())),
        };
    }
    let Some(inner) = text.strip_prefix('"') else {
        return match () {
            () if text.contains('\\') => Err(AMBIGUOUS),
            () if text.contains(['"', '\'']) => Err("a quote inside a value without quotes"),
            () if text.contains(" #") || text.contains("\t#") => {
                Err("programs read what follows # differently; put the value in quotes")
            }
            () => Ok(Zeroizing::new(text.to_owned())),
        };
    };
    let mut value = Zeroizing::new(String::with_capacity(inner.len()));
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => value.push(escaped),
                _ => return Err(AMBIGUOUS),
            },
            '"' => {
                return match characters.as_str().trim().is_empty() {
                    true => Ok(value),
                    false => Err("text after the closing quote"),
                };
            }
            character => value.push(character),
        }
    }
    Err("the quote is not closed on this line")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        let variables = parse(text, &[])?;
        Ok(variables.into_iter().map(|v| (v.credential_name, v.value.to_string())).collect())
    }

    #[test]
    fn variables_become_names_and_values() {
        let text =
            "# comment\n\nOPENAI_API_KEY=sk-1\nexport DB_URL=\"a b\\\"c\" \n; x\nTOKEN='a$b\\'\nP = a#b c\n";
        let expected = [("openai-api-key", "sk-1"), ("db-url", "a b\"c"), ("token", "a$b\\"), ("p", "a#b c")];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(read(text).unwrap(), expected);
        let only = ["DB_URL".to_owned()];
        assert_eq!(parse("A=1\nDB_URL=2\n", &only).unwrap()[0].credential_name, "db-url");
        assert!(parse("A=1\n", &only).is_err_and(|e| e.contains("DB_URL")));
    }

    #[test]
    fn faults_name_the_line_and_no_value() {
        for (text, expected) in [
            ("A=1\nsecret", "2: expected"),
            ("A B=secret", "1: the part before"),
            ("1A=secret", "1: the part before"),
            ("A=\"secret", "1: the quote"),
            ("A=\"secret\" x", "1: text after"),
            ("A='sec'ret'", "1: a quote inside"),
            ("A=secret\\n", "1: programs read a backslash"),
            ("A=\"secret\\n\"", "1: programs read a backslash"),
            ("A=\"secret\\", "1: programs read a backslash"),
            ("A=secret # note", "1: programs read what follows #"),
            ("A=sec\"ret\"", "1: a quote inside"),
            ("A=", "1: A is empty"),
            ("A_B=secret\na_b=secret", "2: a second variable"),
            ("# nothing", " there is no variable"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
