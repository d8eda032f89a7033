//! Numbers as Avro writes them: varints, decimals, uuids, durations.

use arrow::datatypes::{IntervalMonthDayNano, i256};

use super::cursor::Fault;

#[inline]
pub(crate) fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

#[inline]
pub(crate) fn write_bytes(value: &[u8], out: &mut Vec<u8>) {
    write_long(value.len() as i64, out);
    out.extend_from_slice(value);
}

#[cold]
pub(crate) fn too_precise(precision: u8) -> Fault {
    Fault::new(format!("a decimal of more than {precision} digits"))
}

/// 10 to the power of a decimal's precision (at most 76).
pub(crate) fn limit(precision: u8) -> i256 {
    i256::from_i128(10).wrapping_pow(u32::from(precision))
}

pub(crate) fn fits(value: i256, precision: u8) -> bool {
    let limit = limit(precision);
    value < limit && value > limit.wrapping_neg()
}

/// The last `N` bytes of a big-endian two's complement of any length; `None` when they do not hold the value.
pub(crate) fn sign_extended<const N: usize>(unscaled: &[u8]) -> Option<[u8; N]> {
    let sign = if unscaled.first().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let (extra, rest) = unscaled.split_at(unscaled.len().saturating_sub(N));
    let same = extra.iter().all(|byte| *byte == sign) && (extra.is_empty() || (rest[0] ^ sign) < 0x80);
    same.then(|| {
        let mut bytes = [sign; N];
        bytes[N - rest.len()..].copy_from_slice(rest);
        bytes
    })
}

/// A decimal's unscaled value: with its length in front and in as few bytes as it takes (as Java's BigInteger has it), or in the
/// `size` bytes of a fixed. The value fits the precision, and that the size.
pub(crate) fn write_decimal(big_endian: &[u8], size: Option<usize>, out: &mut Vec<u8>) {
    let sign = if big_endian[0] >= 0x80 { 0xff } else { 0 };
    match size {
        None => {
            let last = big_endian.len() - 1;
            let needless = |at: &usize| big_endian[*at] == sign && (big_endian[at + 1] ^ sign) < 0x80;
            let from = (0..last).take_while(needless).count();
            write_bytes(&big_endian[from..], out);
        }
        Some(size) if size > big_endian.len() => {
            out.resize(out.len() + size - big_endian.len(), sign);
            out.extend_from_slice(big_endian);
        }
        Some(size) => out.extend_from_slice(&big_endian[big_endian.len() - size..]),
    }
}

/// The unscaled value of a number as text, exactly: `12.5`, `-3`, `1e2`.
pub(crate) fn parse_decimal(text: &str, precision: u8, scale: i8) -> Result<i256, Fault> {
    let bad = || Fault::new(format!("\"{text}\" is not a decimal number"));
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| bad())?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix(['-', '+']) {
        Some(rest) => (mantissa.starts_with('-'), rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let digits = format!("{whole}{fraction}");
    let zeros = i64::from(scale) + i64::from(exponent) - fraction.len() as i64;
    let significant = digits.trim_start_matches('0');
    let digits = if significant.is_empty() {
        "0".to_string()
    } else if zeros >= 0 {
        let zeros = usize::try_from(zeros).ok().filter(|zeros| *zeros <= 76).ok_or_else(|| too_precise(precision))?;
        format!("{significant}{}", "0".repeat(zeros))
    } else {
        let cut = usize::try_from(-zeros).unwrap_or(usize::MAX).min(significant.len());
        let (kept, lost) = significant.split_at(significant.len() - cut);
        if lost.bytes().any(|digit| digit != b'0') {
            return Err(Fault::new(format!("{text} has more than {scale} digits after the point")));
        }
        if kept.is_empty() { "0".to_string() } else { kept.to_string() }
    };
    if digits.len() > 76 {
        return Err(too_precise(precision));
    }
    let value = i256::from_string(&digits).ok_or_else(bad)?;
    let value = if negative { value.wrapping_neg() } else { value };
    if fits(value, precision) { Ok(value) } else { Err(too_precise(precision)) }
}

/// A decimal as text, with all digits of its scale.
pub(crate) fn decimal_text(value: i256, scale: i8) -> String {
    let digits = value.to_string();
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits.as_str()),
    };
    match usize::try_from(scale) {
        Ok(scale) if scale > 0 => {
            let digits = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            format!("{sign}{whole}.{fraction}")
        }
        _ => format!("{sign}{digits}"),
    }
}

pub(crate) fn uuid_text(bytes: [u8; 16]) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|place| ![8, 13, 18, 23].contains(place));
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for (place, digit) in places.zip(digits) {
        text[place] = HEX[usize::from(digit)];
    }
    text
}

pub(crate) fn parse_uuid(text: &str) -> Result<[u8; 16], Fault> {
    let bad = || Fault::new(format!("\"{text}\" is not a uuid"));
    let dashes = text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text.as_bytes()[*at] == b'-');
    let digits: Vec<u32> = text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16)).collect::<Option<_>>().ok_or_else(bad)?;
    if !dashes || digits.len() != 32 {
        return Err(bad());
    }
    Ok(std::array::from_fn(|i| (digits[2 * i] << 4 | digits[2 * i + 1]) as u8))
}

/// Three little-endian unsigned numbers: months, days, milliseconds.
pub(crate) fn duration_parts(bytes: [u8; 12]) -> [u32; 3] {
    std::array::from_fn(|i| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes")))
}

pub(crate) fn interval(bytes: [u8; 12]) -> Result<IntervalMonthDayNano, Fault> {
    let [months, days, millis] = duration_parts(bytes);
    let signed =
        |value: u32| i32::try_from(value).map_err(|_| Fault::new(format!("{value} months or days do not fit an interval")));
    Ok(IntervalMonthDayNano::new(signed(months)?, signed(days)?, i64::from(millis) * 1_000_000))
}

pub(crate) fn write_interval(value: IntervalMonthDayNano, out: &mut Vec<u8>) -> Result<(), Fault> {
    let bad = || Fault::new(format!("{value:?}: a duration has whole, not negative months, days and milliseconds"));
    if value.nanoseconds % 1_000_000 != 0 {
        return Err(bad());
    }
    let parts = [i64::from(value.months), i64::from(value.days), value.nanoseconds / 1_000_000];
    for part in parts {
        out.extend_from_slice(&u32::try_from(part).map_err(|_| bad())?.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_parsed_exactly_or_refused() {
        let parse = |text| parse_decimal(text, 5, 2).map(|v| v.to_string()).map_err(|e| e.to_string());
        assert_eq!(parse("12.5"), Ok("1250".into()));
        assert_eq!(parse("-0.01"), Ok("-1".into()));
        assert_eq!(parse("1e2"), Ok("10000".into()));
        assert_eq!(parse("100e-2"), Ok("100".into()));
        assert_eq!(parse("999.99"), Ok("99999".into()));
        assert_eq!(parse("0.000"), Ok("0".into()));
        for bad in ["1000", "0.001", "abc", "", "1e999999999", "--1", ".", "1.2.3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(decimal_text(i256::from_i128(-5), 2), "-0.05");
        assert_eq!(decimal_text(i256::from_i128(1250), 2), "12.50");
        assert_eq!(decimal_text(i256::from_i128(7), 0), "7");
    }

    #[test]
    fn decimals_take_as_few_bytes_as_java_writes() {
        let written = |value: i128, size| {
            let mut out = Vec::new();
            write_decimal(&value.to_be_bytes(), size, &mut out);
            out
        };
        assert_eq!(written(0, None), [2, 0]);
        assert_eq!(written(127, None), [2, 127]);
        assert_eq!(written(128, None), [4, 0, 128]);
        assert_eq!(written(-128, None), [2, 128]);
        assert_eq!(written(-129, None), [4, 0xff, 0x7f]);
        assert_eq!(written(-2, Some(3)), [0xff, 0xff, 0xfe]);
        assert_eq!(written(5, Some(18)).len(), 18);
        assert_eq!(sign_extended::<2>(&[0, 0, 1]), Some([0, 1]));
        assert_eq!(sign_extended::<2>(&[0, 0x80, 1]), None);
        assert_eq!(sign_extended::<2>(&[0xff]), Some([0xff, 0xff]));
        assert_eq!(sign_extended::<2>(&[]), Some([0, 0]));
    }

    #[test]
    fn uuids_go_both_ways() {
        let text = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";
        assert_eq!(uuid_text(parse_uuid(text).ok().unwrap()), text.as_bytes());
        assert!(parse_uuid("f81d4fae7dec11d0a76500a0c91e6bf6").is_err());
        assert!(parse_uuid("é81d4fae-7dec-11d0-a765-00a0c91e6bf").is_err());
    }
}
