//! `GET /v1/metrics`: the bound of its query, which is that of `[metrics]` too. The response is no JSON.

pub use crate::config::MAX_AGENT_SERIES;
