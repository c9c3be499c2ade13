//! The intervals of the enforcers' periodic work.

/// Intervals in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Between cheap checks that an enforcer is still as it was left.
    pub check_every_ms: u64,
    /// Between full reconciles.
    pub reconcile_every_ms: u64,
    /// Between readings of the drop totals.
    pub totals_every_ms: u64,
    /// Between the first failed start of an enforcer and the next attempt; doubled each time.
    pub retry_first_ms: u64,
    /// The longest interval between two such attempts.
    pub retry_at_most_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            check_every_ms: 2_000,
            reconcile_every_ms: 30_000,
            totals_every_ms: 1_000,
            retry_first_ms: 1_000,
            retry_at_most_ms: 60_000,
        }
    }
}
