//! VAR and STDDEV: in order of arrival (Welford), or from exact sums.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Float64Type};

use super::accumulator::{Accumulator, Evaluated, Input, column, counted, pick, result, state_column};
use super::expansion::Expansion;
use super::sum::{expansion_type, export_expansions, import_expansions, merge_expansions};
use crate::error::Result;

/// What is read from count and sum of squared differences.
#[derive(Clone)]
struct Reading {
    output: DataType,
    sample: bool,
    root: bool,
}

impl Reading {
    fn results(&self, slots: &[u32], counts: &[i64], squares: impl Fn(usize) -> f64) -> Result<Evaluated> {
        let fewer = i64::from(self.sample);
        let read = |slot: &u32| {
            let slot = *slot as usize;
            let variance = squares(slot) / (counts[slot] - fewer).max(1) as f64;
            if self.root { variance.sqrt() } else { variance }
        };
        let values = Float64Array::new(slots.iter().map(read).collect(), Some(counted(counts, slots, fewer + 1)));
        Ok(result(column(values), &self.output)?.into())
    }
}

pub struct Deviation {
    counts: Vec<i64>,
    means: Vec<f64>,
    /// Sums of squared differences from the mean.
    squares: Vec<f64>,
    reading: Reading,
}

impl Deviation {
    pub fn new(output: DataType, sample: bool, root: bool) -> Deviation {
        let reading = Reading { output, sample, root };
        Deviation { counts: Vec::new(), means: Vec::new(), squares: Vec::new(), reading }
    }
}

impl Accumulator for Deviation {
    fn grow(&mut self, slots: usize) {
        self.counts.resize(slots, 0);
        self.means.resize(slots, 0.0);
        self.squares.resize(slots, 0.0);
    }

    fn reset(&mut self, slot: u32) {
        self.counts[slot as usize] = 0;
        self.means[slot as usize] = 0.0;
        self.squares[slot as usize] = 0.0;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let values = input.arg(&DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let numbers = values.values();
        input.each(values.nulls(), |row, slot, _| {
            self.counts[slot] += 1;
            let before = numbers[row] - self.means[slot];
            self.means[slot] += before / self.counts[slot] as f64;
            self.squares[slot] += before * (numbers[row] - self.means[slot]);
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let counts = state_column::<Int64Array>(columns, 0)?;
        let means = state_column::<Float64Array>(columns, 1)?;
        let squares = state_column::<Float64Array>(columns, 2)?;
        for (row, slot) in slots.iter().enumerate() {
            let (slot, count) = (*slot as usize, counts.value(row));
            let total = self.counts[slot] + count;
            if count == 0 {
                continue;
            }
            // Chan, Golub, LeVeque (1979).
            let apart = means.value(row) - self.means[slot];
            let share = count as f64 / total as f64;
            self.squares[slot] += squares.value(row) + apart * apart * share * self.counts[slot] as f64;
            self.means[slot] += apart * share;
            self.counts[slot] = total;
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        self.reading.results(slots, &self.counts, |slot| self.squares[slot])
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("count", DataType::Int64), ("mean", DataType::Float64), ("squares", DataType::Float64)]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let doubles = |values: &[f64]| column(Float64Array::from(pick(values, slots)));
        Ok(vec![column(Int64Array::from(pick(&self.counts, slots))), doubles(&self.means), doubles(&self.squares)])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let counts = state_column::<Int64Array>(columns, 0)?;
        let means = state_column::<Float64Array>(columns, 1)?;
        let squares = state_column::<Float64Array>(columns, 2)?;
        for (row, slot) in slots.iter().enumerate() {
            self.counts[*slot as usize] = counts.value(row);
            self.means[*slot as usize] = means.value(row);
            self.squares[*slot as usize] = squares.value(row);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.counts.capacity() * 24
    }
}

/// From exact sums of x and x²: order does not matter.
pub struct ExactDeviation {
    counts: Vec<i64>,
    sums: Vec<Expansion>,
    squares: Vec<Expansion>,
    reading: Reading,
}

impl ExactDeviation {
    pub fn new(output: DataType, sample: bool, root: bool) -> ExactDeviation {
        let reading = Reading { output, sample, root };
        ExactDeviation { counts: Vec::new(), sums: Vec::new(), squares: Vec::new(), reading }
    }

    /// Σx² - (Σx)²/n, computed exactly from both sums rounded to two doubles each.
    fn differences(&self, slot: usize) -> f64 {
        let count = self.counts[slot] as f64;
        let (sum, rest) = self.sums[slot].head_and_tail();
        let (squares, squares_rest) = self.squares[slot].head_and_tail();
        if !sum.is_finite() || !squares.is_finite() {
            return f64::NAN;
        }
        // (Σx)²/n as mean * Σx: the mean as two doubles, so that equal numbers give exactly 0 more often than not.
        let mean = sum / count;
        let mean_rest = ((-mean).mul_add(count, sum) + rest) / count;
        let mut exact = Expansion::default();
        for part in [squares, squares_rest] {
            exact.add(part, 1);
        }
        for (a, b) in [(mean, sum), (mean, rest), (mean_rest, sum), (mean_rest, rest)] {
            let product = a * b;
            exact.add(product, -1);
            exact.add(a.mul_add(b, -product), -1);
        }
        exact.value().max(0.0)
    }
}

impl Accumulator for ExactDeviation {
    fn grow(&mut self, slots: usize) {
        self.counts.resize(slots, 0);
        self.sums.resize_with(slots, Expansion::default);
        self.squares.resize_with(slots, Expansion::default);
    }

    fn reset(&mut self, slot: u32) {
        self.counts[slot as usize] = 0;
        self.sums[slot as usize] = Expansion::default();
        self.squares[slot as usize] = Expansion::default();
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let values = input.arg(&DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let numbers = values.values();
        input.each(values.nulls(), |row, slot, weight| {
            self.counts[slot] += i64::from(weight);
            self.sums[slot].add(numbers[row], weight);
            self.squares[slot].add_square(numbers[row], weight);
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let counts = state_column::<Int64Array>(columns, 0)?;
        slots.iter().zip(counts.values()).for_each(|(slot, count)| self.counts[*slot as usize] += *count);
        merge_expansions(&mut self.sums, slots, columns, 1)?;
        merge_expansions(&mut self.squares, slots, columns, 2)?;
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        self.reading.results(slots, &self.counts, |slot| self.differences(slot))
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("count", DataType::Int64), ("sum", expansion_type()), ("squares", expansion_type())]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let counts = column(Int64Array::from(pick(&self.counts, slots)));
        Ok(vec![counts, export_expansions(&self.sums, slots), export_expansions(&self.squares, slots)])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let counts = state_column::<Int64Array>(columns, 0)?;
        slots.iter().zip(counts.values()).for_each(|(slot, count)| self.counts[*slot as usize] = *count);
        import_expansions(&mut self.sums, slots, columns, 1)?;
        import_expansions(&mut self.squares, slots, columns, 2)
    }

    fn size(&self) -> usize {
        let parts: usize = self.sums.iter().chain(&self.squares).map(|sum| sum.size() + size_of::<Expansion>()).sum();
        parts + self.counts.capacity() * 8
    }
}
