//! An exact sum of doubles: a list of doubles that do not overlap and together are the sum, rounded once when read.
//!
//! Shewchuk, "Adaptive Precision Floating-Point Arithmetic" (1997); the last rounding is that of Python's `math.fsum`. The result does
//! not depend on the order in which numbers came, and a number can be taken out again.

/// Numbers from here on are kept scaled, so that no sum of fewer than 2^60 of them overflows on the way.
const LARGE: f64 = f64::from_bits((1023 + 960) << 52);
const SCALE: f64 = f64::from_bits((1023 + 64) << 52);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expansion {
    small: Vec<f64>,
    /// Divided by 2^64.
    large: Vec<f64>,
    nans: i64,
    infinities: i64,
    negative_infinities: i64,
}

impl Expansion {
    /// Adds `number`, or takes it out when `weight` is -1.
    pub fn add(&mut self, number: f64, weight: i8) {
        let weight_wide = i64::from(weight);
        if number.is_nan() {
            self.nans += weight_wide;
        } else if number == f64::INFINITY {
            self.infinities += weight_wide;
        } else if number == f64::NEG_INFINITY {
            self.negative_infinities += weight_wide;
        } else if number.abs() >= LARGE {
            grow(&mut self.large, number / SCALE * f64::from(weight));
        } else {
            grow(&mut self.small, number * f64::from(weight));
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: Expansion) {
        if *self == Expansion::default() {
            *self = other;
            return;
        }
        other.small.into_iter().for_each(|part| grow(&mut self.small, part));
        other.large.into_iter().for_each(|part| grow(&mut self.large, part));
        self.nans += other.nans;
        self.infinities += other.infinities;
        self.negative_infinities += other.negative_infinities;
    }

    /// Adds the exact square of `number`.
    pub fn add_square(&mut self, number: f64, weight: i8) {
        let square = number * number;
        self.add(square, weight);
        if square.is_finite() {
            self.add(number.mul_add(number, -square), weight);
        }
    }

    /// The sum, rounded to the nearest double.
    pub fn value(&self) -> f64 {
        self.head_and_tail().0
    }

    /// The sum rounded to the nearest double, and what that left over, rounded: functions of the exact sum alone.
    pub fn head_and_tail(&self) -> (f64, f64) {
        match (self.nans > 0, self.infinities > 0, self.negative_infinities > 0) {
            (true, _, _) | (_, true, true) => return (f64::NAN, 0.0),
            (_, true, _) => return (f64::INFINITY, 0.0),
            (_, _, true) => return (f64::NEG_INFINITY, 0.0),
            _ => {}
        }
        let (mut parts, scale) = match self.large.is_empty() {
            true => (self.small.clone(), 1.0),
            false => (self.large.clone(), SCALE),
        };
        if scale != 1.0 {
            self.small.iter().for_each(|part| grow(&mut parts, part / SCALE));
        }
        let head = rounded(&parts);
        grow(&mut parts, -head);
        (head * scale, rounded(&parts) * scale)
    }

    /// As doubles, for the state: three counters, the number of small parts, small parts, large parts. Empty for zero.
    pub fn write(&self, to: &mut Vec<f64>) {
        if *self == Expansion::default() {
            return;
        }
        let counters = [self.nans, self.infinities, self.negative_infinities, self.small.len() as i64];
        to.extend(counters.map(|count| count as f64));
        to.extend(&self.small);
        to.extend(&self.large);
    }

    /// `None` when the doubles are not what [`Expansion::write`] writes.
    pub fn read(from: &[f64]) -> Option<Expansion> {
        let [nans, infinities, negative_infinities, small, parts @ ..] = from else {
            return from.is_empty().then(Expansion::default);
        };
        let small = *small as usize;
        Some(Expansion {
            small: parts.get(..small)?.to_vec(),
            large: parts.get(small..)?.to_vec(),
            nans: *nans as i64,
            infinities: *infinities as i64,
            negative_infinities: *negative_infinities as i64,
        })
    }

    /// Memory outside the struct in bytes.
    pub fn size(&self) -> usize {
        (self.small.capacity() + self.large.capacity()) * 8
    }
}

/// Adds a finite number to parts of ascending size that do not overlap, and leaves such parts.
fn grow(parts: &mut Vec<f64>, mut number: f64) {
    let mut kept = 0;
    for at in 0..parts.len() {
        let (larger, smaller) = if number.abs() < parts[at].abs() { (parts[at], number) } else { (number, parts[at]) };
        let sum = larger + smaller;
        let rest = smaller - (sum - larger);
        if rest != 0.0 {
            parts[kept] = rest;
            kept += 1;
        }
        number = sum;
    }
    parts.truncate(kept);
    if number != 0.0 {
        parts.push(number);
    }
}

fn rounded(parts: &[f64]) -> f64 {
    let Some((&last, mut rest)) = parts.split_last() else { return 0.0 };
    let mut sum = last;
    let mut left = 0.0;
    while let Some((&part, before)) = rest.split_last() {
        rest = before;
        let next = sum + part;
        left = part - (next - sum);
        sum = next;
        if left != 0.0 {
            break;
        }
    }
    // Exactly half way: the parts below say to which side the true sum lies.
    if let Some(&below) = rest.last()
        && ((left < 0.0 && below < 0.0) || (left > 0.0 && below > 0.0))
    {
        let twice = left * 2.0;
        let moved = sum + twice;
        if twice == moved - sum {
            return moved;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(numbers: &[f64]) -> f64 {
        let mut total = Expansion::default();
        numbers.iter().for_each(|n| total.add(*n, 1));
        total.value()
    }

    #[test]
    fn sums_are_exact_where_doubles_are_not() {
        assert_eq!(sum(&[1e100, 1.0, -1e100]), 1.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e308, 1e308, -1e308]), 1e308);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX, -f64::MAX, 1.5]), 1.5);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        // Half way between two doubles, and a hair above.
        assert_eq!(sum(&[9007199254740992.0, 1.0]), 9007199254740992.0);
        assert_eq!(sum(&[9007199254740992.0, 1.0, 1e-300]), 9007199254740994.0);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_numbers_can_be_taken_out(numbers in prop::collection::vec(prop::num::f64::ANY, 0..40), extra in prop::num::f64::ANY, seed in any::<u64>()) {
            let mut shuffled = numbers.clone();
            for at in (1..shuffled.len()).rev() {
                shuffled.swap(at, (seed.wrapping_mul(at as u64 + 7) >> 7) as usize % (at + 1));
            }
            let mut total = Expansion::default();
            total.add(extra, 1);
            shuffled.iter().for_each(|n| total.add(*n, 1));
            total.add(extra, -1);
            let mut state = Vec::new();
            total.write(&mut state);
            let total = Expansion::read(&state).expect("as written");
            let (one, other) = (sum(&numbers), total.value());
            prop_assert!(one == other || (one.is_nan() && other.is_nan()), "{one} {other}");
        }
    }
}
