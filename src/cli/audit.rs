//! `hostbadge audit tail`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::table::plain;
use super::{Common, Failure, client, whoami};

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// The last lines of the record
    Tail {
        /// How many lines
        #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        lines: u16,

        /// Go on as lines are added, until interrupted
        #[arg(long, short)]
        follow: bool,
    },
}

pub async fn run(common: &Common, verb: &Verb) -> Result<ExitCode, Failure> {
    let Verb::Tail { lines, follow } = verb;
    let mut last = 0;
    let mut limit = *lines;
    loop {
        let path = format!("/v1/audit?after={last}&limit={limit}");
        let answer = client::get(&common.admin_socket, &path).await?;
        for line in answer.as_array().into_iter().flatten() {
            last = line["seq"].as_u64().unwrap_or(last);
            if common.json { println!("{line}") } else { println!("{}", plain(&sentence(line))) }
        }
        if !follow {
            return Ok(ExitCode::SUCCESS);
        }
        limit = 1000;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// A line of the log for people.
fn sentence(line: &Value) -> String {
    let text = |name: &str| line[name].as_str();
    let mut words = vec![
        line["seq"].to_string(),
        text("time").unwrap_or_default().to_owned(),
        text("event").unwrap_or_default().to_owned(),
    ];
    words.extend(text("agent").map(str::to_owned));
    for name in ["reason", "audience", "scope", "jti", "detail"] {
        words.extend(text(name).filter(|value| !value.is_empty()).map(|value| format!("{name}={value:?}")));
    }
    if line["peer"].is_object() {
        words.push(format!("({})", whoami::process(&line["peer"])));
    }
    words.join(" ")
}
