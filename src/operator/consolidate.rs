//! Before an upsert sink: one value or one tombstone per key and commit.

use arrow::array::{Array, BooleanArray, Int8Array, Int64Array, RecordBatch};
use arrow::compute::interleave_record_batch;

use super::evaluate::{broken, reject};
use super::key::{KeyShape, KeyTable};
use super::{Operator, Output};
use crate::error::{BadClass, Result};
use crate::record::{Batch, Partition};

/// Holds weighted rows until `flush`, then emits per key the last inserted row (weight +1), or, when only retractions are left, a row
/// with weight -1 whose key columns count (a tombstone); nothing, when the first row taken back equals the last inserted. Order of arrival decides, which within one task is a function of the log.
#[derive(Clone, Debug)]
pub struct ConsolidateSpec {
    /// The sink's PRIMARY KEY in the input.
    pub key_columns: Vec<usize>,
    /// The key is one bare column, which holds no NULL: such a row is refused here, not where it would be written, since which rows
    /// are written depends on where commits fall.
    pub bare: bool,
}

/// Runs a [`ConsolidateSpec`]. It holds rows only between two commits: a commit that failed is undone by [`Consolidate::clear`].
pub struct Consolidate {
    spec: ConsolidateSpec,
    keys: Option<(KeyShape, KeyTable)>,
    held: Vec<Batch>,
    /// Of what is held.
    bytes: usize,
    /// By the key's number, in the order in which keys were first touched.
    touched: Vec<Touched>,
}

/// A row as (batch in `held`, row).
type Place = (usize, usize);

/// What happened to one key.
#[derive(Clone)]
struct Touched {
    /// Where to find the key's columns: its latest row.
    latest: Place,
    /// The first row that was taken back and had come in an earlier commit.
    old: Option<Place>,
    /// Rows inserted and not retracted since.
    last: Option<Place>,
    earlier: Vec<Place>,
}

impl Consolidate {
    pub fn new(spec: ConsolidateSpec) -> Consolidate {
        Consolidate { spec, keys: None, held: Vec::new(), bytes: 0, touched: Vec::new() }
    }

    /// Forgets what is held: the commit was undone.
    pub fn clear(&mut self) {
        self.keys = None;
        self.held.clear();
        self.bytes = 0;
        self.touched.clear();
    }

    fn touch(&mut self, number: usize, place: Place, weight: i8) {
        if number == self.touched.len() {
            self.touched.push(Touched { latest: place, old: None, last: None, earlier: Vec::new() });
        }
        let key = &mut self.touched[number];
        key.latest = place;
        if weight >= 0 {
            key.earlier.extend(key.last.replace(place));
            return;
        }
        // A retraction takes back the equal row, if it came in this commit; else it is of a row of an earlier commit.
        let row = |(batch, row): Place| self.held[batch].rows.slice(row, 1);
        let retracted = row(place);
        if key.last.is_some_and(|last| row(last) == retracted) {
            key.last = key.earlier.pop();
        } else if let Some(at) = key.earlier.iter().rposition(|earlier| row(*earlier) == retracted) {
            key.earlier.remove(at);
        } else {
            key.old.get_or_insert(place);
        }
    }

    /// Whether the key has the row that it had before the commit.
    fn unchanged(&self, key: &Touched) -> bool {
        let row = |(batch, row): Place| self.held[batch].rows.slice(row, 1);
        matches!((key.old, key.last), (Some(old), Some(last)) if row(old) == row(last))
    }
}

impl Operator for Consolidate {
    fn push(&mut self, _port: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let batch = if self.spec.bare { without_null_keys(self.spec.key_columns[0], batch, out)? } else { batch };
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let columns: Vec<_> = self.spec.key_columns.iter().map(|c| batch.rows.column(*c).clone()).collect();
        let (shape, mut table) = match self.keys.take() {
            Some(keys) => keys,
            None => {
                let shape = KeyShape::new(columns.iter().map(|c| c.data_type().clone()).collect())?;
                let table = shape.table();
                (shape, table)
            }
        };
        let encoded = shape.encode(&columns)?;
        self.bytes += batch.rows.get_array_memory_size() + batch.num_rows() * (24 + size_of::<Touched>());
        self.held.push(batch);
        let at = self.held.len() - 1;
        for row in 0..self.held[at].num_rows() {
            let number = table.intern(&encoded, row);
            self.touch(number as usize, (at, row), self.held[at].weight(row));
        }
        self.keys = Some((shape, table));
        Ok(())
    }

    fn held_back(&self) -> usize {
        self.bytes
    }

    fn flush(&mut self, out: &mut Output) -> Result<()> {
        // Rows of one origin stay one batch: a row that the sink can't write becomes the dead letter of its record.
        let mut origins: Vec<((u16, Partition, bool), Vec<(Place, i8)>)> = Vec::new();
        for key in self.touched.iter().filter(|key| !self.unchanged(key)) {
            let (place, weight) = key.last.map_or((key.latest, -1), |last| (last, 1));
            let batch = &self.held[place.0];
            let origin = (batch.source, batch.partition, batch.derived);
            match origins.iter_mut().find(|(known, _)| *known == origin) {
                Some((_, rows)) => rows.push((place, weight)),
                None => origins.push((origin, vec![(place, weight)])),
            }
        }
        for ((source, partition, derived), rows) in origins {
            let places: Vec<Place> = rows.iter().map(|(place, _)| *place).collect();
            let column = |of: fn(&Batch) -> &Int64Array| -> Int64Array {
                places.iter().map(|(batch, row)| of(&self.held[*batch]).value(*row)).collect()
            };
            out.batches.push(Batch {
                rows: self.rows(&places)?,
                source,
                partition,
                offsets: column(|b| &b.offsets),
                event_times: column(|b| &b.event_times),
                row_watermarks: column(|b| &b.row_watermarks),
                weights: rows.iter().any(|(_, w)| *w < 0).then(|| Int8Array::from_iter_values(rows.iter().map(|(_, w)| *w))),
                derived,
            });
        }
        self.clear();
        Ok(())
    }
}

impl Consolidate {
    fn rows(&self, places: &[Place]) -> Result<RecordBatch> {
        let one = &self.held[0].rows;
        if self.held.len() == 1 && places.len() == one.num_rows() && places.iter().enumerate().all(|(at, (_, row))| at == *row) {
            return Ok(one.clone());
        }
        let held: Vec<&RecordBatch> = self.held.iter().map(|b| &b.rows).collect();
        interleave_record_batch(&held, places).map_err(|e| broken("consolidate", e))
    }
}

/// The rows whose bare key is not NULL.
pub(super) fn without_null_keys(column: usize, batch: Batch, out: &mut Output) -> Result<Batch> {
    let key = batch.rows.column(column);
    let Some(nulls) = key.logical_nulls().filter(|nulls| nulls.null_count() > 0) else { return Ok(batch) };
    let name = batch.rows.schema_ref().field(column).name();
    let message = format!("column \"{name}\": the key is NULL");
    // What a retraction takes back was refused when it came.
    let refused = (0..batch.num_rows()).filter(|row| nulls.is_null(*row) && batch.weight(*row) > 0);
    reject(&batch, &refused.map(|row| (row, message.clone())).collect::<Vec<_>>(), BadClass::Key, out);
    batch.filter(&BooleanArray::new(nulls.into_inner(), None)).map_err(|e| broken("filter", e))
}
