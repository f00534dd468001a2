//! `hostbadge metrics`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::client;
use super::common::{CommonArgs, print_json};
use super::error::CliError;
use super::files::write_file;
use super::metric_samples::Samples;
use super::output::print_bytes;
use crate::wire::metrics::MAX_AGENT_SERIES;

/// Permission bits of the textfile: metrics are for every user who may read the files of node exporter.
const TEXTFILE_MODE: u32 = 0o644;

#[derive(Args, Debug)]
pub(super) struct MetricsArgs {
    /// The text format
    #[arg(long, value_enum, default_value_t = Format::Openmetrics)]
    format: Format,

    /// Replace the file PATH atomically, in the format prometheus, for the textfile collector of node exporter
    ///
    /// The collector reads files whose names end in .prom.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["format", "json"])]
    textfile: Option<PathBuf>,

    /// How many agents get metrics of their own: those that were seen last, at most 1000 [default: as in
    /// hostbadged.toml(5)]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(0..=MAX_AGENT_SERIES as i64))]
    agents: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// OpenMetrics 1.0
    Openmetrics,
    /// Prometheus 0.0.4, for node exporter
    Prometheus,
}

impl MetricsArgs {
    /// Whether the metrics go to standard output.
    pub(super) fn prints_result(&self) -> bool {
        self.textfile.is_none()
    }
}

pub(super) async fn run(common: &CommonArgs, args: &MetricsArgs) -> Result<ExitCode, CliError> {
    let format = match (args.format, &args.textfile) {
        (Format::Prometheus, _) | (_, Some(_)) => "prometheus",
        (Format::Openmetrics, None) => "openmetrics",
    };
    let agents = args.agents.map(|number| format!("&agents={number}")).unwrap_or_default();
    let path = format!("/v1/metrics?format={format}{agents}");
    let text = client::get_text(&common.admin_socket, &path).await?;
    if let Some(file) = &args.textfile {
        write_file(file, text.as_bytes(), TEXTFILE_MODE)?;
        return Ok(ExitCode::SUCCESS);
    }
    if common.json {
        return print_json(&read_samples(&text)?);
    }
    print_bytes(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The samples of a response.
pub(super) fn read_samples(text: &str) -> Result<Samples, CliError> {
    Samples::parse(text)
        .map_err(|line| CliError::Local(format!("cannot parse this line of the metrics: {line}")))
}
