//! Assigns rows to windows: TUMBLE and HOP as table functions.

use arrow::datatypes::SchemaRef;

/// Appends `window_start`, `window_end` and `window_time` (`window_end` - 1 ms), each `Timestamp(Millisecond, tz of the time
/// column)`, to every row; a row of several hopping windows is repeated, once per window, copies next to one another, earliest
/// window first. A row that lies in no window (HOP with slide > size) vanishes: it is neither late nor counted.
#[derive(Clone, Debug)]
pub struct AssignSpec {
    /// The event-time column in the input: any timestamp type. A NULL cannot occur (ingest refused it).
    pub time_column: usize,
    pub size_micros: i64,
    /// Equal to the size for TUMBLE. Need not divide the size.
    pub slide_micros: i64,
    /// Windows start at `offset + n * slide`, n any integer, times before 1970 included.
    pub offset_micros: i64,
    /// The input's columns, then the three window columns.
    pub schema: SchemaRef,
}
