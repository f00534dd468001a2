//! Metrics: counters and histograms that threads add to without a lock, and their text for Prometheus.
//!
//! A component keeps its own [`Counter`]s and [`Histogram`]s. To add to one takes a few relaxed atomic additions and no
//! memory. What can be read at any time, such as the state of the TPM, is not counted: it is read when the metrics are
//! asked for. The text is made by the crate `prometheus-client`, whose own histogram is behind a lock and is therefore
//! not used.

mod counter;
mod exposition;
mod histogram;
mod metric;
mod process;

pub use counter::Counter;
pub use exposition::{Exposition, TextFormat};
pub use histogram::{Histogram, HistogramSnapshot};
pub use metric::{Metric, MetricKind, MetricUnit};
pub use process::ProcessUsage;
