//! What a metric is: its name, kind, unit, labels and meaning.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// What the name of each metric begins with.
pub const PREFIX: &str = "hostbadge";

/// A metric. Names follow OpenMetrics 1.0: base units, and the suffix `_total` for counters.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name without prefix, unit and suffix.
    pub name: &'static str,
    /// Whether it counts, shows a state, or has durations.
    pub kind: MetricKind,
    /// What it is measured in; `None` for numbers of things.
    pub unit: Option<MetricUnit>,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence without the last stop.
    pub help: &'static str,
}

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows while the process runs.
    Counter,
    /// It shows a state.
    Gauge,
    /// It has durations in buckets.
    Histogram,
    /// It is 1; its labels are what it says.
    Info,
}

/// What a metric is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricUnit {
    /// Bytes of memory.
    Bytes,
    /// Seconds; a time is in seconds since 1970.
    Seconds,
}

impl Metric {
    /// The name of the samples that carry its value; those of a histogram have a further suffix.
    pub fn full_name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{}", unit.name())).unwrap_or_default();
        let suffix = match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram => "",
        };
        format!("{PREFIX}_{}{unit}{suffix}", self.name)
    }
}

impl MetricKind {
    /// The name in both text formats; that of an info is `gauge` in the older one.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
            MetricKind::Info => "info",
        }
    }

    pub(super) fn encoded(self) -> MetricType {
        match self {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
            MetricKind::Histogram => MetricType::Histogram,
            MetricKind::Info => MetricType::Info,
        }
    }
}

impl MetricUnit {
    /// The name, which is also in that of the metric.
    pub fn name(self) -> &'static str {
        match self {
            MetricUnit::Bytes => "bytes",
            MetricUnit::Seconds => "seconds",
        }
    }

    pub(super) fn encoded(self) -> Unit {
        match self {
            MetricUnit::Bytes => Unit::Bytes,
            MetricUnit::Seconds => Unit::Seconds,
        }
    }
}
