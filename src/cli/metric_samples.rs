//! The samples of `GET /v1/metrics`.

use serde::Serialize;
use serde_json::{Map, Value, json};

/// The bound of a histogram's bucket.
const BOUND: &str = "le";

/// The samples of one moment, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(Vec<Sample>);

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    /// Reads a text of OpenMetrics 1.0 or Prometheus 0.0.4 without exemplars and times, as the daemon makes it. The
    /// error is the line that is none of these.
    pub(super) fn parse(text: &str) -> Result<Samples, String> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| Sample::parse(line).ok_or_else(|| line.to_owned()))
            .collect::<Result<_, _>>()
            .map(Samples)
    }

    /// The value of the first sample with this name and these labels.
    pub(super) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.named(name).find(|sample| sample.has(labels)).map(|sample| sample.value)
    }

    /// The sum of all values with this name and these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        // A sum of no floating-point numbers is -0.
        self.named(name)
            .filter(|sample| sample.has(labels))
            .map(|sample| sample.value)
            .fold(0.0, |a, b| a + b)
    }

    /// The value of a label of the samples with this name that are 1: of a gauge that shows a state.
    pub(super) fn state(&self, name: &str, label: &str) -> Option<&str> {
        self.named(name).find(|sample| sample.value == 1.0)?.label(label)
    }

    /// The different values of a label of the samples with this name, in their order.
    pub(super) fn label_values(&self, name: &str, label: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for value in self.named(name).filter_map(|sample| sample.label(label)) {
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
    }

    /// The buckets of a histogram: upper bound, and the number up to it.
    pub(super) fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let name = format!("{name}_bucket");
        let samples = self.named(&name).filter(|sample| sample.has(labels));
        samples.filter_map(|sample| Some((parse_number(sample.label(BOUND)?)?, sample.value))).collect()
    }

    fn named<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Sample> {
        let name_end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(name_end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest)?,
            None => (Vec::new(), rest),
        };
        Some(Sample { name: name.to_owned(), labels, value: parse_number(rest.trim())? })
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == Some(value))
    }
}

impl Serialize for Samples {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |sample: &Sample| {
            let labels: Map<String, Value> =
                sample.labels.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
            json!({ "name": sample.name, "labels": labels, "value": sample.value })
        };
        serializer.collect_seq(self.0.iter().map(value))
    }
}

/// The labels after the opening brace, and what follows the closing one.
fn parse_labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = parse_quoted(rest)?;
        labels.push((name.to_owned(), value));
        text = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// The text up to the closing quote, and what follows it.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// A number, which may be `+Inf` or `NaN`.
fn parse_number(text: &str) -> Option<f64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP a b\na_total 3\nb{x=\"1\",y=\"q\\\"\\\\\\n}\"} 0.5\nb{x=\"2\",y=\"\"} 1.0\n\
                    h_bucket{le=\"0.1\"} 2\nh_bucket{le=\"+Inf\"} 5\n# EOF\n";
        let samples = Samples::parse(text).unwrap();
        assert_eq!(samples.value("a_total", &[]), Some(3.0));
        assert_eq!(samples.value("b", &[("y", "q\"\\\n}")]), Some(0.5));
        assert_eq!((samples.sum("b", &[]), samples.sum("c", &[])), (1.5, 0.0));
        assert_eq!(samples.state("b", "x"), Some("2"));
        assert_eq!(samples.label_values("b", "x"), ["1", "2"]);
        assert_eq!(samples.buckets("h", &[]), [(0.1, 2.0), (f64::INFINITY, 5.0)]);
        let json = serde_json::to_value(&samples).unwrap();
        assert_eq!(json[0], json!({ "name": "a_total", "labels": {}, "value": 3.0 }));
    }

    #[test]
    fn lines_that_are_no_samples_are_named() {
        for line in ["a", "a{", "a{x=\"1} 2", "a{x=1} 2", "a x", "{}"] {
            assert_eq!(Samples::parse(&format!("a 1\n{line}\n")), Err(line.to_owned()));
        }
    }
}
