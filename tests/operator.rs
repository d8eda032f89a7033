//! Operators without state, at their border: rows in, rows out, bad rows alone.

mod operator_support;

use arrow::array::{Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion_expr::Operator as Op;
use operator_support::*;
use tidemill::error::Kind;
use tidemill::operator::assign::{Assign, AssignSpec};
use tidemill::operator::consolidate::{Consolidate, ConsolidateSpec};
use tidemill::operator::filter::{Filter, FilterSpec};
use tidemill::operator::ingest::{Check, EventTime, Ingest, IngestSpec, OnViolation};
use tidemill::operator::project::{Project, ProjectSpec};
use tidemill::operator::{Operator, Output};
use tidemill::record::{NextOffset, Offset, Partition};
use tidemill::watermark::Watermark;

fn numbers(a: &[i64], b: &[Option<i64>]) -> tidemill::record::Batch {
    let schema = schema(&[("a", DataType::Int64), ("b", DataType::Int64)]);
    batch(rows(&schema, vec![column(Int64Array::from(a.to_vec())), column(Int64Array::from(b.to_vec()))]))
}

#[test]
fn a_row_that_divides_by_zero_is_rejected_alone() {
    let input = numbers(&[10, 20, 30, 40, 50], &[Some(1), Some(0), None, Some(5), Some(0)]);
    let schema = input.rows.schema();
    let quotient = op(col(&schema, "a"), Op::Divide, col(&schema, "b"));
    let mut filter = Filter::new(FilterSpec { conjuncts: vec![op(quotient.clone(), Op::Gt, lit(8i64))] });
    let mut out = Output::default();
    filter.push(0, input.clone(), &mut out).unwrap();
    assert_eq!(lines(&out.batches), ["10 1"]);
    assert_eq!(rejected(&out), ["1 expression division by zero", "4 expression division by zero"]);

    let output = self::schema(&[("q", DataType::Int64)]);
    let mut project = Project::new(ProjectSpec { exprs: vec![quotient.clone()], schema: output });
    let mut out = Output::default();
    project.push(0, weighted(input.clone(), &[1, 1, -1, -1, 1]), &mut out).unwrap();
    assert_eq!(lines(&out.batches), ["+1 10", "-1 NULL", "-1 8"]);
    assert_eq!(out.batches[0].offsets, Int64Array::from(vec![0, 2, 3]));
    assert_eq!(out.rejected.iter().map(|r| r.offset).collect::<Vec<_>>(), [Offset(1), Offset(4)]);

    // Derived rows have no record: they are withdrawn by their values.
    let mut out = Output::default();
    let derived = tidemill::record::Batch { derived: true, ..input };
    project.push(0, derived, &mut out).unwrap();
    assert!(out.rejected.is_empty());
    assert_eq!(out.withdrawn[0].key, r#"{"a":20,"b":0}"#);
}

#[test]
fn a_conjunct_guards_the_next() {
    let input = numbers(&[10, 20], &[Some(0), Some(4)]);
    let schema = input.rows.schema();
    let guard = op(col(&schema, "b"), Op::NotEq, lit(0i64));
    let quotient = op(op(col(&schema, "a"), Op::Divide, col(&schema, "b")), Op::Gt, lit(1i64));
    let mut filter = Filter::new(FilterSpec { conjuncts: vec![guard, quotient] });
    let mut out = Output::default();
    filter.push(0, input, &mut out).unwrap();
    assert_eq!(lines(&out.batches), ["20 4"]);
    assert!(out.rejected.is_empty());
}

fn assign(size_ms: i64, slide_ms: i64, offset_ms: i64, times_micros: &[i64]) -> Output {
    let input = schema(&[("t", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())))]);
    let output = schema(&[
        ("t", input.field(0).data_type().clone()),
        ("window_start", millis()),
        ("window_end", millis()),
        ("window_time", millis()),
    ]);
    let times = TimestampMicrosecondArray::from(times_micros.to_vec()).with_timezone("+00:00");
    let spec = AssignSpec {
        time_column: 0,
        size_micros: size_ms * 1000,
        slide_micros: slide_ms * 1000,
        offset_micros: offset_ms * 1000,
        schema: output,
    };
    let mut out = Output::default();
    Assign::new(spec).unwrap().push(0, batch(rows(&input, vec![column(times)])), &mut out).unwrap();
    out
}

/// (offset, start, end, time) in milliseconds.
fn windows(out: &Output) -> Vec<(i64, i64, i64, i64)> {
    let Some(batch) = out.batches.first() else { return Vec::new() };
    let millis =
        |c: usize, row: usize| batch.rows.column(c).as_any().downcast_ref::<TimestampMillisecondArray>().unwrap().value(row);
    (0..batch.num_rows()).map(|row| (batch.offsets.value(row), millis(1, row), millis(2, row), millis(3, row))).collect()
}

#[test]
fn tumbling_windows_reach_below_1970() {
    let out = assign(1000, 1000, 0, &[0, 999_999, 1_000_000, -1, -1_000_000]);
    assert_eq!(
        windows(&out),
        [(0, 0, 1000, 999), (1, 0, 1000, 999), (2, 1000, 2000, 1999), (3, -1000, 0, -1), (4, -1000, 0, -1)]
    );
    assert_eq!(windows(&assign(1000, 1000, 300, &[0, 300_000])), [(0, -700, 300, 299), (1, 300, 1300, 1299)]);
}

#[test]
fn hopping_windows_need_not_divide() {
    let out = assign(5000, 2000, 0, &[4_000_000, -1]);
    assert_eq!(
        windows(&out),
        [(0, 0, 5000, 4999), (0, 2000, 7000, 6999), (0, 4000, 9000, 8999), (1, -4000, 1000, 999), (1, -2000, 3000, 2999)]
    );
    // A slide above the size leaves gaps.
    assert_eq!(windows(&assign(1000, 3000, 0, &[500_000, 1_500_000, 3_000_000])), [(0, 0, 1000, 999), (2, 3000, 4000, 3999)]);
}

#[test]
fn hopping_windows_are_those_that_hold_the_time() {
    for (size, slide, offset) in [(7, 3, 1), (6, 3, 0), (10, 1, -4), (3, 7, 2), (1, 1, 0)] {
        for time in -40_000..40_000i64 {
            if time % 500 != 0 {
                continue;
            }
            let expected: Vec<i64> = (-100..100)
                .map(|n| offset + n * slide)
                .filter(|start| start * 1000 <= time && time < (start + size) * 1000)
                .collect();
            let found: Vec<i64> = windows(&assign(size, slide, offset, &[time])).iter().map(|w| w.1).collect();
            assert_eq!(found, expected, "size {size} slide {slide} offset {offset} time {time}");
        }
    }
}

#[test]
fn windows_at_the_ends_of_time_are_refused() {
    let out = assign(1000, 500, 0, &[i64::MAX, 5, i64::MIN, i64::MAX - 2_000_000]);
    assert_eq!(out.rejected.iter().map(|r| (r.offset.0, r.class.as_str())).collect::<Vec<_>>(), [(0, "time"), (2, "time")]);
    assert_eq!(windows(&out).len(), 4);
    let spec = AssignSpec { time_column: 0, size_micros: 1500, slide_micros: 1500, offset_micros: 0, schema: schema(&[]) };
    assert_eq!(Assign::new(spec).err().unwrap().kind, Kind::Config);
}

fn ingest(checks: Vec<(&str, OnViolation)>, event_time: EventTime) -> Ingest {
    let decoded = schema(&[("t", millis()), ("a", DataType::Int64), ("b", DataType::Int64)]);
    let output = schema(&[("t", millis()), ("a", DataType::Int64), ("q", DataType::Int64)]);
    let columns = vec![col(&decoded, "t"), col(&decoded, "a"), op(col(&decoded, "a"), Op::Divide, col(&decoded, "b"))];
    let checks = checks
        .into_iter()
        .map(|(name, on_violation)| Check {
            name: name.to_owned(),
            text: "a >= 0".to_owned(),
            expr: op(col(&output, "a"), Op::GtEq, lit(0i64)),
            on_violation,
        })
        .collect();
    Ingest::new(IngestSpec { decoded, columns, schema: output, checks, event_time, table_key: Vec::new() }, 3, Partition(7))
}

/// Rows (event time ms, a, b) at offsets from `first`, record timestamps all `record_ms`.
fn take(ingest: &mut Ingest, first: i64, given: &[(Option<i64>, i64, i64)], record_ms: i64) -> (Vec<(i64, i64, i64)>, Output) {
    let schema = schema(&[("t", millis()), ("a", DataType::Int64), ("b", DataType::Int64)]);
    let times: TimestampMillisecondArray = given.iter().map(|g| g.0).collect();
    let columns = vec![
        column(times.with_timezone("+00:00")),
        column(given.iter().map(|g| Some(g.1)).collect::<Int64Array>()),
        column(given.iter().map(|g| Some(g.2)).collect::<Int64Array>()),
    ];
    let offsets = Int64Array::from_iter_values(first..first + given.len() as i64);
    let stamps = Int64Array::from_value(record_ms, given.len());
    let mut out = Output::default();
    let batch = ingest.ingest(rows(&schema, columns), offsets, &stamps, &mut out).unwrap();
    let found = batch
        .map(|b| (0..b.num_rows()).map(|r| (b.offsets.value(r), b.event_times.value(r), b.row_watermarks.value(r))).collect());
    (found.unwrap_or_default(), out)
}

fn by_column(max_ahead_micros: Option<i64>) -> EventTime {
    EventTime::Column { column: 0, delay_micros: 2_000_000, max_ahead_micros }
}

#[test]
fn ingest_refuses_bad_rows_alone_and_they_do_not_move_the_watermark() {
    let mut ingest = ingest(vec![("positive", OnViolation::DeadLetter)], by_column(Some(1_000_000)));
    let given = [
        (Some(10_000), 1, 1),
        (Some(60_000), -1, 1),
        (None, 1, 1),
        (Some(70_000), 1, 0),
        (Some(i64::MAX), 1, 1),
        (Some(12_001), 1, 1),
        (Some(12_000), 1, 1),
        (Some(9_000), 1, 1),
    ];
    let (found, out) = take(&mut ingest, 100, &given, 11_000);
    assert_eq!(found, [(100, 10_000_000, i64::MIN), (106, 12_000_000, 8_000_000), (107, 9_000_000, 10_000_000)]);
    assert_eq!(ingest.watermark(), Watermark(10_000_000));
    let classes: Vec<_> = out.rejected.iter().map(|r| (r.offset.0, r.class.as_str())).collect();
    assert_eq!(classes, [(101, "check"), (102, "time"), (103, "expression"), (104, "time"), (105, "future")]);
    assert_eq!(out.rejected[0].message, "check \"positive\" failed: a >= 0");
    assert!(out.rejected.iter().all(|r| r.source == 3 && r.partition == Partition(7)));

    // A record without a timestamp can't be compared.
    let (found, _) = take(&mut ingest, 200, &[(Some(99_000), 1, 1)], -1);
    assert_eq!(found, [(200, 99_000_000, 10_000_000)]);
}

#[test]
fn checks_drop_or_fail() {
    let mut dropping = ingest(vec![("positive", OnViolation::Drop)], by_column(None));
    let (found, out) = take(&mut dropping, 0, &[(Some(0), -5, 1), (Some(1), 5, 1)], 0);
    assert_eq!((found.len(), out.rejected.len(), dropping.dropped), (1, 0, 1));

    let mut failing = ingest(vec![("positive", OnViolation::Fail)], by_column(None));
    let decoded = schema(&[("t", millis()), ("a", DataType::Int64), ("b", DataType::Int64)]);
    let one = |value: i64| column(Int64Array::from(vec![value]));
    let times = column(TimestampMillisecondArray::from(vec![0]).with_timezone("+00:00"));
    let rows = rows(&decoded, vec![times, one(-1), one(1)]);
    let error = failing.ingest(rows, Int64Array::from(vec![42]), &Int64Array::from(vec![0]), &mut Output::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Failed);
    assert_eq!(error.message, "source 3 partition 7: offset 42 fails check \"positive\": a >= 0");
}

#[test]
fn a_decision_applies_from_its_offset_on() {
    let mut ingest = ingest(Vec::new(), by_column(None));
    ingest.raise(NextOffset(12), Watermark(50_000_000));
    ingest.raise(NextOffset(11), Watermark(20_000_000));
    let (found, _) = take(&mut ingest, 10, &[(Some(3_000), 1, 1), (Some(4_000), 1, 1), (Some(5_000), 1, 1)], 0);
    assert_eq!(found.iter().map(|f| f.2).collect::<Vec<_>>(), [i64::MIN, 20_000_000, 50_000_000]);
    // At or below the position it applies at once, above it when the position is reached, even without a row.
    ingest.raise(NextOffset(13), Watermark(60_000_000));
    assert_eq!(ingest.watermark(), Watermark(60_000_000));
    ingest.raise(NextOffset(20), Watermark(70_000_000));
    ingest.reached(NextOffset(19));
    assert_eq!(ingest.watermark(), Watermark(60_000_000));
    ingest.reached(NextOffset(20));
    assert_eq!(ingest.watermark(), Watermark(70_000_000));
    ingest.restore(Watermark(1), None);
    assert_eq!(ingest.watermark(), Watermark(1));
}

#[test]
fn record_timestamps_are_never_late() {
    let mut ingest = ingest(Vec::new(), EventTime::RecordTimestamp);
    let (found, _) = take(&mut ingest, 0, &[(None, 1, 1)], 7);
    let (without, _) = take(&mut ingest, 1, &[(None, 1, 1)], -1);
    assert_eq!((found, without), (vec![(0, 7000, i64::MIN)], vec![(1, 0, i64::MIN)]));
    assert_eq!(ingest.watermark(), Watermark::MIN);
}

fn keyed(given: &[(i8, Option<&str>, i32)]) -> tidemill::record::Batch {
    let schema = schema(&[("k", DataType::Utf8), ("v", DataType::Int32)]);
    let keys: StringArray = given.iter().map(|g| g.1).collect();
    let values: Int32Array = given.iter().map(|g| Some(g.2)).collect();
    weighted(batch(rows(&schema, vec![column(keys), column(values)])), &given.iter().map(|g| g.0).collect::<Vec<_>>())
}

#[test]
fn one_value_or_tombstone_per_key_and_commit() {
    let mut consolidate = Consolidate::new(ConsolidateSpec { key_columns: vec![0], bare: false });
    let mut out = Output::default();
    consolidate.push(0, keyed(&[(-1, Some("a"), 1), (1, Some("a"), 2), (1, Some("b"), 1), (1, None, 9)]), &mut out).unwrap();
    consolidate.push(0, keyed(&[(-1, Some("a"), 2), (1, Some("a"), 3), (-1, Some("c"), 5)]), &mut out).unwrap();
    // An older row of the key is taken back: the newer one stays.
    consolidate
        .push(0, keyed(&[(1, Some("b"), 7), (-1, Some("b"), 1), (1, None, 9), (-1, None, 9), (-1, None, 9)]), &mut out)
        .unwrap();
    assert!(out.batches.is_empty());
    consolidate.flush(&mut out).unwrap();
    assert_eq!(lines(&out.batches), ["+1 a 3", "+1 b 7", "-1 NULL 9", "-1 c 5"]);

    let mut out = Output::default();
    consolidate.flush(&mut out).unwrap();
    assert!(out.batches.is_empty(), "nothing is held over a flush");
    consolidate.push(0, keyed(&[(1, Some("z"), 1)]), &mut out).unwrap();
    consolidate.clear();
    consolidate.flush(&mut out).unwrap();
    assert!(out.batches.is_empty(), "nothing is held over an undo");
}

#[test]
fn a_key_that_ends_as_it_began_is_not_written_again() {
    let mut consolidate = Consolidate::new(ConsolidateSpec { key_columns: vec![0], bare: false });
    let mut tell = |given: &[(i8, Option<&str>, i32)]| {
        let mut out = Output::default();
        consolidate.push(0, keyed(given), &mut out).unwrap();
        consolidate.flush(&mut out).unwrap();
        lines(&out.batches)
    };
    assert_eq!(tell(&[(-1, Some("a"), 1), (1, Some("a"), 1), (-1, Some("b"), 1), (1, Some("b"), 2)]), ["b 2"]);
    assert_eq!(tell(&[(-1, Some("a"), 1), (1, Some("a"), 2), (-1, Some("a"), 2), (1, Some("a"), 1)]), Vec::<String>::new());
    assert_eq!(tell(&[(-1, Some("a"), 1), (1, Some("a"), 1), (-1, Some("a"), 1)]), ["-1 a 1"]);
}

#[test]
fn unique_keys_pass_as_one_batch() {
    let schema = schema(&[("k", DataType::Int64), ("v", DataType::Int64)]);
    let keys = Int64Array::from_iter_values(0..1000);
    let input = batch(rows(&schema, vec![column(keys.clone()), column(keys)]));
    let mut consolidate = Consolidate::new(ConsolidateSpec { key_columns: vec![0], bare: false });
    let mut out = Output::default();
    consolidate.push(0, input.clone(), &mut out).unwrap();
    assert!(consolidate.held_back() >= 1000 * 16, "what waits for the commit counts: {}", consolidate.held_back());
    consolidate.flush(&mut out).unwrap();
    assert_eq!(consolidate.held_back(), 0);
    assert_eq!(out.batches.len(), 1);
    assert_eq!(out.batches[0].rows, input.rows);
    assert!(out.batches[0].weights.is_none());
    assert_eq!(out.batches[0].offsets, input.offsets);
}
