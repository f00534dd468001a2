//! A value of a counter, to which data can be sealed.

/// One value of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterValue {
    /// The NV index of the counter.
    pub index: u32,
    /// The value.
    pub value: u64,
}
