//! Metrics as a monitoring system reads them.

use std::collections::BTreeMap;

use super::Host;

/// Names of labels, each with the values that are asked for.
pub type Labels = Vec<(String, Vec<String>)>;

/// The values by their series: the name with its labels, as in the text.
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Those of `GET /v1/metrics` with this query.
    #[track_caller]
    pub fn of(host: &Host, query: &str) -> Metrics {
        let response = host.admin().get(&format!("/v1/metrics?{query}"));
        assert_eq!(response.status, 200, "{}", response.text());
        Metrics::parse(&response.text())
    }

    #[track_caller]
    pub fn parse(text: &str) -> Metrics {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|e| panic!("{line}: {e}")))
        };
        Metrics(samples.map(sample).collect())
    }

    /// The value of a series, such as `a_total{b="c"}`.
    #[track_caller]
    pub fn get(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("there is no {series}"))
    }

    pub fn find(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// The series whose name begins with a text.
    pub fn starting_with(&self, start: &str) -> Vec<&str> {
        self.0.keys().filter(|series| series.starts_with(start)).map(String::as_str).collect()
    }

    /// Whether there is a series of this name with these values of labels, where each may be one of several.
    pub fn has(&self, name: &str, labels: &[(String, Vec<String>)]) -> bool {
        let has_label = |series: &str, label: &str, value: &str| {
            series.contains(&format!("{{{label}=\"{value}\""))
                || series.contains(&format!(",{label}=\"{value}\""))
        };
        let of_name = || self.0.keys().filter(|series| series.split('{').next() == Some(name));
        of_name().next().is_some()
            && labels.iter().all(|(label, values)| {
                values.iter().all(|value| of_name().any(|series| has_label(series, label, value)))
            })
    }
}
