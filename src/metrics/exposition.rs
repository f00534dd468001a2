//! The text of all metrics at one moment.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::registry::Registry;

use super::histogram::HistogramSnapshot;
use super::metric::{Metric, MetricKind, PREFIX};

/// The text format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0.
    #[default]
    OpenMetrics,
    /// Prometheus 0.0.4, which the textfile collector of node exporter reads.
    Prometheus,
}

/// The values of metrics, in the order of their catalog. A metric without values is still described.
#[derive(Debug)]
pub struct Exposition(Vec<Family>);

/// One metric with its values.
#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    samples: Vec<Sample>,
}

/// One value of a metric.
#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, Cow<'static, str>)>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Durations(HistogramSnapshot),
    /// Of an info.
    Labels,
}

impl TextFormat {
    /// The media type (OpenMetrics 1.0, section "Media Type"; Prometheus, "Exposition formats").
    pub fn content_type(self) -> &'static str {
        match self {
            TextFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            TextFormat::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

impl Exposition {
    /// No values yet of the metrics of this catalog.
    pub fn new(catalog: impl IntoIterator<Item = &'static Metric>) -> Exposition {
        let family = |metric| Family { metric, samples: Vec::new() };
        Exposition(catalog.into_iter().map(family).collect())
    }

    /// Adds the value of a counter or gauge. `labels` are the values of its labels, in their order.
    pub fn add<const N: usize>(
        &mut self,
        metric: &'static Metric,
        labels: [Cow<'static, str>; N],
        value: f64,
    ) {
        self.add_sample(metric, labels, Value::Number(value));
    }

    /// Adds the durations of a histogram.
    pub fn add_durations<const N: usize>(
        &mut self,
        metric: &'static Metric,
        labels: [Cow<'static, str>; N],
        durations: HistogramSnapshot,
    ) {
        self.add_sample(metric, labels, Value::Durations(durations));
    }

    /// Adds an info.
    pub fn add_info<const N: usize>(&mut self, metric: &'static Metric, labels: [Cow<'static, str>; N]) {
        self.add_sample(metric, labels, Value::Labels);
    }

    /// Adds a gauge for each of several states: 1 for the one that is, and 0 for the others.
    pub fn add_state(
        &mut self,
        metric: &'static Metric,
        states: impl IntoIterator<Item = &'static str>,
        is: &str,
    ) {
        for state in states {
            self.add(metric, [state.into()], f64::from(u8::from(state == is)));
        }
    }

    /// The text.
    ///
    /// # Errors
    /// A value does not fit its metric.
    pub fn into_text(self, format: TextFormat) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut encoded = String::new();
        match format {
            TextFormat::OpenMetrics => text::encode(&mut encoded, &registry)?,
            TextFormat::Prometheus => prometheus_text::encode(&mut encoded, &registry)?,
        }
        Ok(encoded)
    }

    fn add_sample<const N: usize>(
        &mut self,
        metric: &'static Metric,
        labels: [Cow<'static, str>; N],
        value: Value,
    ) {
        debug_assert_eq!(metric.labels.len(), N, "{}", metric.name);
        let labels = metric.labels.iter().copied().zip(labels).collect();
        let known = self.0.iter_mut().find(|family| family.metric.name == metric.name);
        debug_assert!(known.is_some(), "{} is not in the catalog", metric.name);
        if let Some(family) = known {
            family.samples.push(Sample { labels, value });
        }
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let metric = self.metric;
        let unit = metric.unit.map(|unit| unit.encoded());
        let help = format!("{}.", metric.help);
        let mut encoder =
            encoder.encode_descriptor(metric.name, &help, unit.as_ref(), metric.kind.encoded())?;
        for sample in &self.samples {
            match sample.value {
                Value::Labels => encoder.encode_info(&sample.labels)?,
                _ if sample.labels.is_empty() => sample.encode(metric.kind, &mut encoder)?,
                _ => sample.encode(metric.kind, &mut encoder.encode_family(&sample.labels)?)?,
            }
        }
        Ok(())
    }
}

impl Sample {
    fn encode(&self, kind: MetricKind, encoder: &mut MetricEncoder) -> Result<(), fmt::Error> {
        match (&self.value, kind) {
            (Value::Number(number), MetricKind::Counter) => {
                encoder.encode_counter::<NoLabelSet, f64, f64>(number, None)
            }
            (Value::Number(number), MetricKind::Gauge) => encoder.encode_gauge(number),
            (Value::Durations(durations), MetricKind::Histogram) => encoder.encode_histogram::<NoLabelSet>(
                durations.sum,
                durations.count(),
                &durations.buckets,
                None,
            ),
            _ => Err(fmt::Error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Histogram, MetricUnit};
    use std::time::Duration;

    const REQUESTS: Metric = Metric {
        name: "requests",
        kind: MetricKind::Counter,
        unit: None,
        labels: &["outcome"],
        help: "Requests",
    };
    const WAIT: Metric = Metric {
        name: "wait",
        kind: MetricKind::Histogram,
        unit: Some(MetricUnit::Seconds),
        labels: &[],
        help: "Time",
    };
    const BUILD: Metric = Metric {
        name: "build",
        kind: MetricKind::Info,
        unit: None,
        labels: &["version"],
        help: "The release",
    };
    const MEMORY: Metric = Metric {
        name: "memory",
        kind: MetricKind::Gauge,
        unit: Some(MetricUnit::Bytes),
        labels: &[],
        help: "Memory",
    };
    static CATALOG: [Metric; 4] = [REQUESTS, WAIT, BUILD, MEMORY];

    fn text(format: TextFormat) -> String {
        let mut exposition = Exposition::new(&CATALOG);
        exposition.add(&CATALOG[0], ["a \"b\"\n\\".into()], 3.0);
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        exposition.add_durations(&CATALOG[1], [], histogram.snapshot());
        exposition.add_info(&CATALOG[2], ["0.1.0".into()]);
        exposition.into_text(format).unwrap()
    }

    #[test]
    fn openmetrics_has_units_and_an_end() {
        let text = text(TextFormat::OpenMetrics);
        for line in [
            "# TYPE hostbadge_requests counter",
            "hostbadge_requests_total{outcome=\"a \\\"b\\\"\\n\\\\\"} 3.0",
            "# UNIT hostbadge_wait_seconds seconds",
            "hostbadge_wait_seconds_bucket{le=\"0.001\"} 1",
            "hostbadge_wait_seconds_bucket{le=\"+Inf\"} 1",
            "hostbadge_wait_seconds_count 1",
            "# TYPE hostbadge_build info",
            "hostbadge_build_info{version=\"0.1.0\"} 1",
            "# TYPE hostbadge_memory_bytes gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n") && !text.contains("\nhostbadge_memory_bytes"), "{text}");
    }

    #[test]
    fn the_older_format_has_neither_and_types_of_whole_names() {
        let text = text(TextFormat::Prometheus);
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
        for line in ["# TYPE hostbadge_requests_total counter", "# TYPE hostbadge_build_info gauge"] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn full_names_are_those_of_the_samples() {
        let names: Vec<String> = CATALOG.iter().map(Metric::full_name).collect();
        assert_eq!(
            names,
            [
                "hostbadge_requests_total",
                "hostbadge_wait_seconds",
                "hostbadge_build_info",
                "hostbadge_memory_bytes"
            ]
        );
    }
}
