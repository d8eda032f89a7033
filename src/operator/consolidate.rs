//! Before an upsert sink: one value or one tombstone per key and commit.

/// Holds weighted rows until `flush`, then emits per key the last inserted row (weight +1), or, when only retractions are left, a row
/// with weight -1 whose key columns count (a tombstone). Order of arrival decides, which within one task is a function of the log.
#[derive(Clone, Debug)]
pub struct ConsolidateSpec {
    /// The sink's PRIMARY KEY in the input.
    pub key_columns: Vec<usize>,
}
