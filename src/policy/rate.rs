//! Rates of requests.

/// A rate limit.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Requests per second in the long run; at least 1.
    pub per_second: u32,
    /// Requests that may arrive at once after a pause; at least 1.
    pub burst: u32,
}
