//! `GET /v1/metrics`: bounds of its query. The response is no JSON.

/// Largest `agents` of `GET /v1/metrics`, and of `[metrics]` in the configuration.
pub const MAX_AGENT_SERIES: usize = 1000;
