//! Before a shuffle: which partition of the repartition topic every row belongs to.
//!
//! A row goes by the hash of its key *values* (`canonical`), never by wire bytes: its key group is one of 256, and key groups are dealt
//! out to partitions in ranges. Lateness is a property of a row alone, so an operator behind the shuffle that orders rows has them
//! tested here, where the original record is at hand.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::datatypes::DataType;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;

use super::canonical::{self, KEY_GROUPS, key_groups};
use super::consolidate::without_null_keys;
use super::evaluate::{broken, evaluate, isolate, reject};
use super::{Late, Output};
use crate::error::{BadClass, Error, Result};
use crate::record::{Batch, Offset, Timestamp};
use crate::watermark::Watermark;

/// A shuffle as planned. Its output has the columns of its input.
#[derive(Clone, Debug)]
pub struct ExchangeSpec {
    /// Over the input. None: all rows go to partition 0.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The operator behind it orders rows: one below its own row watermark is late, unless it is derived.
    pub refuse_late: bool,
    /// A sink behind it has this column as its bare key, which holds no NULL.
    pub bare_key: Option<usize>,
    /// Why rows have to move, for `explain`: `GROUP BY country: topic "orders" is distributed by customer_id`.
    pub reason: String,
}

/// The most partitions that a repartition topic has: one per key group.
pub const MAX_PARTITIONS: i32 = KEY_GROUPS as i32;

/// Deals rows out.
pub struct Exchange {
    spec: ExchangeSpec,
    partitions: i32,
}

impl Exchange {
    pub fn new(spec: ExchangeSpec, partitions: i32) -> Exchange {
        assert!((1..=MAX_PARTITIONS).contains(&partitions), "a repartition topic has 1 to {MAX_PARTITIONS} partitions");
        Exchange { spec, partitions }
    }

    /// The rows by target partition, in their order. Late rows and rows whose key can't be computed go to `out`.
    ///
    /// # Errors
    /// A key of a type that can't be one.
    pub fn split(&self, batch: Batch, out: &mut Output) -> Result<Vec<(i32, Batch)>> {
        let batch = if self.spec.refuse_late { in_time(batch, out)? } else { batch };
        let batch = match self.spec.bare_key {
            Some(column) => without_null_keys(column, batch, out)?,
            None => batch,
        };
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if self.spec.keys.is_empty() || self.partitions == 1 {
            return Ok(vec![(0, batch)]);
        }
        let found = isolate(&batch.rows, |rows: &RecordBatch| self.keys(rows))?;
        let batch = match &found.keep {
            None => batch,
            Some(keep) => {
                reject(&batch, &found.failures, BadClass::Expression, out);
                batch.filter(keep).map_err(|e| broken("filter", e))?
            }
        };
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        self.deal(batch, &found.value)
    }

    fn keys(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, DataFusionError> {
        self.spec.keys.iter().map(|key| evaluate(key, rows)).collect()
    }

    fn deal(&self, batch: Batch, keys: &[ArrayRef]) -> Result<Vec<(i32, Batch)>> {
        if let Some(refused) = keys.iter().map(|key| key.data_type()).find(|t: &&DataType| !canonical::supports(t)) {
            return Err(Error::config(format!("rows can't be distributed by a key of type {refused}")));
        }
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); self.partitions as usize];
        for (row, group) in key_groups(keys, batch.num_rows()).into_iter().enumerate() {
            rows[partition_of(group, self.partitions) as usize].push(row as u32);
        }
        let targets = rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        let dealt = targets.map(|(target, rows)| {
            let part = if rows.len() == batch.num_rows() { Ok(batch.clone()) } else { batch.take(&UInt32Array::from(rows)) };
            Ok((target as i32, part.map_err(|e| broken("take", e))?))
        });
        dealt.collect()
    }
}

/// The partition that holds a key group.
pub fn partition_of(key_group: u8, partitions: i32) -> i32 {
    i32::from(key_group) * partitions / MAX_PARTITIONS
}

/// Sorts out rows below their own row watermark.
fn in_time(batch: Batch, out: &mut Output) -> Result<Batch> {
    if batch.derived {
        return Ok(batch);
    }
    let times = batch.event_times.values().iter().zip(batch.row_watermarks.values());
    let keep: Vec<bool> = times.map(|(time, watermark)| time >= watermark).collect();
    if !keep.contains(&false) {
        return Ok(batch);
    }
    for row in keep.iter().enumerate().filter(|(_, keep)| !**keep).map(|(row, _)| row) {
        out.late.push(Late {
            source: batch.source,
            partition: batch.partition,
            offset: Offset(batch.offsets.value(row)),
            event_time: Timestamp(batch.event_times.value(row)),
            row_watermark: Watermark(batch.row_watermarks.value(row)),
        });
    }
    batch.filter(&BooleanArray::from(keep)).map_err(|e| broken("filter", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_group_has_a_partition_and_ranges_are_even() {
        for partitions in [1, 2, 3, 5, 7, 12, 100, 255, 256] {
            let mut counts = vec![0; partitions as usize];
            (0..=255u8).for_each(|group| counts[partition_of(group, partitions) as usize] += 1);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{partitions}: {counts:?}");
        }
    }
}
