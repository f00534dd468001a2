//! `hostbadge policy why`.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use form_urlencoded::Serializer;

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::output::print_line;
use super::table::KeyValueTable;
use crate::clock::Timestamp;
use crate::config::{escape_unprintable, parse_duration};
use crate::wire::policy::{DecisionLayer, LayerVerdict, PolicyWhyResponse};

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("request").args(["audience", "certificate", "attest", "credential", "prove"])
    .multiple(true))]
pub(super) struct WhyArgs {
    /// Name of the agent
    #[arg(required_unless_present = "record")]
    agent: Option<String>,

    /// Explain the record of the audit log with this number, by the agents and policies of now
    #[arg(long, value_name = "NUMBER")]
    record: Option<u64>,

    /// A token for this audience; with --prove, the authorization server that the proof is for
    #[arg(long, value_name = "AUDIENCE", conflicts_with_all = ["certificate", "attest", "credential"])]
    audience: Option<String>,

    /// Scope of the token, instead of all scopes of the grant; may be repeated
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,

    /// Lifetime of the token, like "60s" or "5m" [default: the grant's]
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,

    /// A certificate
    #[arg(long, conflicts_with_all = ["attest", "credential", "prove"])]
    certificate: bool,

    /// Evidence
    #[arg(long, conflicts_with_all = ["credential", "prove"])]
    attest: bool,

    /// The value of this sealed credential; with --prove sigv4, a signature by it
    #[arg(long, value_name = "NAME")]
    credential: Option<String>,

    /// A proof of this kind, such as dpop or sigv4
    #[arg(long, value_name = "KIND")]
    prove: Option<String>,

    /// With --prove: the method of the request that it is for
    #[arg(long, value_name = "METHOD", requires = "prove", requires = "url")]
    method: Option<String>,

    /// With --prove: the absolute URL of the request
    #[arg(long, value_name = "URL", requires = "prove", requires = "method")]
    url: Option<String>,

    /// With --prove: SHA-256 of the request's body, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", requires = "url")]
    body_sha256: Option<String>,

    /// At this time in UTC, such as 2026-11-26T22:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,

    /// With this posture: accepted, changed, unaccepted, stale or off [default: the host's]
    #[arg(long, value_name = "POSTURE")]
    posture: Option<String>,

    /// From a process of this user, by number
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,

    /// From a process in this unit
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,

    /// From a process with this executable, by its SHA-256 digest
    #[arg(long, value_name = "DIGEST")]
    exe_sha256: Option<String>,
}

pub(super) async fn run(common: &CommonArgs, arguments: &WhyArgs) -> Result<ExitCode, CliError> {
    let path = format!("/v1/policies/why?{}", query(arguments)?);
    let reply = client::get::<PolicyWhyResponse>(&common.admin_socket, &path).await?;
    if common.json {
        return print_json(&reply.raw);
    }
    print(&reply.body)?;
    Ok(ExitCode::SUCCESS)
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "a time in UTC is written as 2026-11-26T22:00:00Z".to_owned())
}

fn query(arguments: &WhyArgs) -> Result<String, CliError> {
    let mut query = Serializer::new(String::new());
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    };
    let action = match arguments {
        WhyArgs { prove: Some(_), .. } => Some("prove"),
        WhyArgs { audience: Some(_), .. } => Some("token"),
        WhyArgs { credential: Some(_), .. } => Some("credential"),
        WhyArgs { certificate: true, .. } => Some("certificate"),
        WhyArgs { attest: true, .. } => Some("attest"),
        WhyArgs { record: Some(_), .. } => None,
        _ => {
            return Err(CliError::local(
                "say what is asked: --audience, --certificate, --attest, --credential or --prove",
            ));
        }
    };
    let ttl = match &arguments.ttl {
        None => None,
        Some(text) => Some(parse_duration(text).ok_or_else(|| {
            CliError::local(format!("--ttl {text} is no duration; write it like \"60s\" or \"5m\""))
        })?),
    };
    add("agent", arguments.agent.as_deref());
    add("record", arguments.record.map(|seq| seq.to_string()).as_deref());
    add("action", action);
    add("audience", arguments.audience.as_deref());
    arguments.scope.iter().for_each(|scope| add("scope", Some(scope)));
    add("ttl", ttl.map(|ttl| ttl.as_secs().to_string()).as_deref());
    add("credential", arguments.credential.as_deref());
    add("kind", arguments.prove.as_deref());
    add("method", arguments.method.as_deref());
    add("url", arguments.url.as_deref());
    add("body_sha256", arguments.body_sha256.as_deref());
    add("time", arguments.at.map(|time| time.to_string()).as_deref());
    add("posture", arguments.posture.as_deref());
    add("uid", arguments.uid.map(|uid| uid.to_string()).as_deref());
    add("unit", arguments.unit.as_deref());
    add("exe_sha256", arguments.exe_sha256.as_deref());
    Ok(query.finish())
}

fn print(why: &PolicyWhyResponse) -> Result<(), CliError> {
    let mut table = KeyValueTable::default();
    table.add("agent", &why.agent);
    let resource = why.resource.as_ref().map(|resource| format!(" for {resource}")).unwrap_or_default();
    table.add("request", format!("{}{resource}", why.action));
    table.add("decision", if why.allowed { "allowed" } else { "refused" });
    if let Some(set) = &why.policy {
        table.add("policies", format!("version {}, SHA-256 {}", set.version, set.sha256));
    }
    if let Some(set) = &why.recorded_policy {
        table.add("recorded", format!("other policies: version {}, SHA-256 {}", set.version, set.sha256));
    }
    table.print()?;
    why.layers.iter().try_for_each(print_layer)
}

fn print_layer(layer: &DecisionLayer) -> Result<(), CliError> {
    print_line("")?;
    let verdict = match layer.verdict {
        LayerVerdict::Allows => "allows",
        LayerVerdict::Refuses => "refuses",
        LayerVerdict::NotAsked => "not asked",
    };
    let mut table = KeyValueTable::default();
    table.add(&layer.layer, verdict);
    table.add("reason", &layer.reason);
    for rule in &layer.rules {
        table.add("rule", &rule.rule);
    }
    table.add_some("to change", layer.change.as_ref());
    table.print()?;
    for text in layer.rules.iter().filter_map(|rule| rule.text.as_ref()) {
        for line in text.lines() {
            print_line(format_args!("    {}", escape_unprintable(line)))?;
        }
    }
    Ok(())
}
