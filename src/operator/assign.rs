//! Assigns rows to windows: TUMBLE and HOP as table functions.

use arrow::array::{Array, ArrayRef, Int64Array, TimestampMillisecondArray, UInt32Array};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};

use super::evaluate::{broken, micros, record_batch, reject};
use super::{Operator, Output};
use crate::error::{BadClass, Error, Result};
use crate::record::Batch;

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

impl AssignSpec {
    /// Start of the last window that begins at or before `time`; `None` where microseconds can't hold it.
    fn last_start(&self, time: i64) -> Option<i64> {
        let since = time.checked_sub(self.offset_micros)?;
        let start = since.checked_sub(since.rem_euclid(self.slide_micros))?.checked_add(self.offset_micros)?;
        start.checked_add(self.size_micros)?;
        Some(start)
    }

    /// End of the last window that begins at or before `time`.
    pub fn last_end(&self, time: i64) -> Option<i64> {
        self.last_start(time).map(|start| start + self.size_micros)
    }

    /// End of the last window that ends at or before `time`.
    pub fn end_by(&self, time: i64) -> Option<i64> {
        self.last_end(time.checked_sub(self.size_micros)?)
    }
}

/// Runs an [`AssignSpec`]. A row whose windows microseconds can't hold is rejected with class `time`.
pub struct Assign {
    spec: AssignSpec,
}

impl Assign {
    /// # Errors
    /// Size or slide not positive, or any of the three not whole milliseconds (the window columns could not hold them).
    pub fn new(spec: AssignSpec) -> Result<Assign> {
        for (name, micros) in [("size", spec.size_micros), ("slide", spec.slide_micros)] {
            if micros <= 0 {
                return Err(Error::config(format!("the window's {name} is {micros} µs")).hint("it must be above zero"));
            }
        }
        for (name, micros) in [("size", spec.size_micros), ("slide", spec.slide_micros), ("offset", spec.offset_micros)] {
            if micros % 1000 != 0 {
                return Err(Error::config(format!("the window's {name} is {micros} µs")).hint("use whole milliseconds"));
            }
        }
        let windows = spec.schema.fields().len().checked_sub(3);
        let typed = |c: usize| matches!(spec.schema.field(c).data_type(), DataType::Timestamp(TimeUnit::Millisecond, _));
        if !windows.is_some_and(|first| (first..first + 3).all(typed)) {
            return Err(Error::failed("the window columns are not the last three, or not in milliseconds"));
        }
        Ok(Assign { spec })
    }

    /// Start of the first window that holds a time whose last window is at `last`; above `last` when none holds it.
    fn first_start(&self, time: i64, last: i64) -> Option<i64> {
        // Windows hold the time while start > time - size.
        let earlier = (last - time.checked_sub(self.spec.size_micros)? - 1).div_euclid(self.spec.slide_micros);
        last.checked_sub(earlier.checked_mul(self.spec.slide_micros)?)
    }

    /// Rows of the input and their windows' starts. Rows that do not fit go to `failures`.
    fn copies(&self, times: &Int64Array, overflowed: &[usize], failures: &mut Vec<(usize, String)>) -> (Vec<u32>, Vec<i64>) {
        let tumbling = self.spec.slide_micros == self.spec.size_micros;
        let mut rows = Vec::with_capacity(times.len());
        let mut starts = Vec::with_capacity(times.len());
        for row in 0..times.len() {
            let time = times.value(row);
            let last =
                if times.is_null(row) || overflowed.binary_search(&row).is_ok() { None } else { self.spec.last_start(time) };
            let first = if tumbling { last } else { last.and_then(|last| self.first_start(time, last)) };
            let (Some(first), Some(last)) = (first, last) else {
                failures.push((row, "the windows of the row's time are out of range".to_owned()));
                continue;
            };
            if first <= last {
                for copy in 0..=(last - first) / self.spec.slide_micros {
                    rows.push(row as u32);
                    starts.push(first + copy * self.spec.slide_micros);
                }
            }
        }
        (rows, starts)
    }
}

impl Operator for Assign {
    fn push(&mut self, _port: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let times = micros(batch.rows.column(self.spec.time_column))?;
        let mut failures = Vec::new();
        let (rows, starts) = self.copies(&times.values, &times.overflowed, &mut failures);
        reject(&batch, &failures, BadClass::Time, out);
        if rows.is_empty() {
            return Ok(());
        }
        let once_each = rows.len() == batch.num_rows() && rows.iter().enumerate().all(|(at, row)| at == *row as usize);
        let batch = if once_each { batch } else { batch.take(&UInt32Array::from(rows)).map_err(|e| broken("take", e))? };

        let size = self.spec.size_micros;
        let mut columns = batch.rows.columns().to_vec();
        let input = columns.len();
        for (place, shift_micros) in [(0, 0), (1, size), (2, size - 1000)] {
            let millis = starts.iter().map(|start| (start + shift_micros).div_euclid(1000));
            let DataType::Timestamp(_, zone) = self.spec.schema.field(input + place).data_type() else {
                unreachable!("checked in new");
            };
            let column = TimestampMillisecondArray::from_iter_values(millis).with_timezone_opt(zone.clone());
            columns.push(std::sync::Arc::new(column) as ArrayRef);
        }
        let rows = record_batch(&self.spec.schema, columns, starts.len()).map_err(|e| broken("window columns", e))?;
        out.batches.push(Batch { rows, ..batch });
        Ok(())
    }
}
