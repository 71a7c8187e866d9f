//! 8-bit floats: every one of the 256 written out, and conversions as a search among them.

use super::Name;
use super::exact::{F16, F32, Number, Rounding, Value};
use std::cmp::Ordering;

/// The number that 8 bits stand for (OCP 8-bit Floating Point Specification, table 1).
pub(super) fn decode(format: &str, bits: u64) -> Value {
    let (fraction_bits, bias) = if format.starts_with("e4m3") { (3, 7) } else { (2, 15) };
    let negative = bits & 0x80 != 0;
    let magnitude = bits & 0x7f;
    match (fraction_bits, magnitude) {
        (3, 0x7f) | (2, 0x7d..) => return Value::Nan,
        (2, 0x7c) => return Value::Infinite { negative },
        _ => {}
    }
    let (field, fraction) = (magnitude >> fraction_bits, magnitude & ((1 << fraction_bits) - 1));
    let significand = if field == 0 { fraction } else { fraction | 1 << fraction_bits };
    let exponent = field.max(1) as i64 - bias - i64::from(fraction_bits);
    Value::Finite(Number { negative, magnitude: significand.into(), exponent, more: false })
}

/// The nearest finite number, of two equally near ones the even one.
fn nearest(format: &str, value: &Value) -> u64 {
    let Value::Finite(number) = value else {
        return match value {
            Value::Infinite { negative } => largest(format) | u64::from(*negative) << 7,
            _ => 0x7f,
        };
    };
    let sign = u64::from(number.negative) << 7;
    let magnitude = Value::Finite(Number { negative: false, ..number.clone() });
    let distance = |bits: u64| {
        let difference = magnitude.add(&decode(format, bits).negated(), Rounding::Nearest);
        if let Value::Finite(n) = difference { Value::Finite(Number { negative: false, ..n }) } else { Value::Nan }
    };
    let mut best = 0;
    for bits in 1..=largest(format) {
        let order = distance(bits).compare(&distance(best));
        if order == Some(Ordering::Less) || order == Some(Ordering::Equal) && bits % 2 == 0 {
            best = bits;
        }
    }
    sign | best
}

fn largest(format: &str) -> u64 {
    if format.starts_with("e4m3") { 0x7e } else { 0x7b }
}

pub(super) fn convert(name: &Name<'_>, to: &str, from: &str, case: &[u64]) -> Option<u64> {
    let positive = |value: Value| match value {
        Value::Infinite { negative: true } if name.has("relu") => Value::Finite(Number::zero(false)),
        Value::Finite(n) if name.has("relu") && n.negative => Value::Finite(Number::zero(false)),
        other => other,
    };
    let narrow = |value: Value| nearest(to, &positive(value));
    Some(match (to, from) {
        ("f16x2", _) => {
            let half = |bits: u64| F16.encode(&positive(decode(from, bits & 0xff)), Rounding::Nearest);
            half(case[0] >> 8) << 16 | half(case[0])
        }
        (_, "f32") => narrow(F32.decode(case[0])) << 8 | narrow(F32.decode(case[1])),
        (_, "f16x2") => narrow(F16.decode(case[0] >> 16)) << 8 | narrow(F16.decode(case[0] & 0xffff)),
        _ => return None,
    })
}
