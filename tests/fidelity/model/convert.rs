//! `cvt`.

use super::Name;
use super::exact::{BF16, F16, F32, F64, Format, Number, Rounding, TF32, Value};
use super::float::{finish, flush, format, rounding};
use super::integer::{integer_type, mask, range, value, wrap};

pub(super) fn convert(name: &Name<'_>, case: &[u64], register_bits: u32) -> Option<u64> {
    let [to, from] = name.types[..] else { return None };
    if to.starts_with('e') || from.starts_with('e') {
        return super::eight::convert(name, to, from, case);
    }
    if to.ends_with("x2") {
        let to = format(to)?;
        return Some(from_float(name, to, format(from)?, case[0]) << 16 | from_float(name, to, format(from)?, case[1]));
    }
    match (format(to), format(from)) {
        (Some(to), Some(from)) => Some(from_float(name, to, from, case[0])),
        (Some(to), None) => {
            let number = Value::Finite(Number::integer(value(from, case[0])?));
            Some(finish(name, to, to.encode(&number, rounding(name))))
        }
        (None, Some(source)) => to_integer(name, to, source, case[0], register_bits),
        (None, None) => {
            let number = value(from, case[0])?;
            let (low, high) = range(to)?;
            let number = if name.has("sat") { number.clamp(low, high) } else { number };
            Some(extended(to, number, register_bits))
        }
    }
}

/// The low bits of a number in its type, extended by the type's sign to the register.
fn extended(to: &str, number: i128, register_bits: u32) -> u64 {
    let (width, _) = integer_type(to).unwrap_or((64, false));
    mask(value(to, wrap(number, width)).unwrap_or(0) as u64, register_bits)
}

fn from_float(name: &Name<'_>, to: Format, from: Format, bits: u64) -> u64 {
    // `.ftz` concerns only f32, and not on the way to f16.
    let is_f32 = |f: Format| f.width() == 32;
    let ftz = name.has("ftz");
    let bits = if ftz && is_f32(from) && to != F16 { flush(from, bits) } else { bits };
    let mut number = from.decode(bits);
    if number == Value::Nan
        && !name.has("sat")
        && let Some(nan) = nan(name, to, from, bits)
    {
        return nan;
    }
    let mut rounding = rounding(name);
    if name.choice(&["rni", "rzi", "rmi", "rpi"]).is_some() {
        if let Value::Finite(n) = &number {
            number = Value::Finite(n.to_integer(rounding));
        }
        rounding = Rounding::Nearest;
    }
    let result = to.encode(&number, rounding);
    let infinite = matches!(to.decode(result), Value::Infinite { .. });
    // The largest finite number is the pattern before infinity.
    let result = if name.has("satfinite") && infinite { result - (1 << to.below) } else { result };
    if ftz && !is_f32(to) {
        let name = Name {
            opcode: "cvt",
            modifiers: name.modifiers.iter().copied().filter(|m| *m != "ftz").collect(),
            types: Vec::new(),
        };
        return finish(&name, to, result);
    }
    finish(name, to, result)
}

/// What an H200 makes of a NaN where that isn't the canonical one: f64 keeps the payload and quiets, tf32 has fewer bits,
/// and what only moves bits moves them all.
fn nan(name: &Name<'_>, to: Format, from: Format, bits: u64) -> Option<u64> {
    let integral = name.choice(&["rni", "rzi", "rmi", "rpi"]).is_some();
    if to == TF32 {
        return Some(if name.has("rna") { bits } else { F32.nan() } >> 13 << 13);
    }
    if from == F32 && to == F32 && !integral && !name.has("ftz") || from == BF16 && to == F32 {
        return Some(bits << (to.width() - from.width()));
    }
    if from != F64 && to != F64 {
        return None;
    }
    let bits = if name.has("ftz") && from == F32 { F32.nan() } else { bits };
    let fraction = u128::from(bits & ((1 << from.fraction) - 1)) << 64 >> from.fraction;
    let fraction = (fraction << to.fraction >> 64) as u64 | 1 << (to.fraction - 1);
    let infinity = ((1 << to.exponent) - 1) << to.fraction;
    Some((bits >> (from.width() - 1)) << (to.width() - 1) | infinity | fraction)
}

fn to_integer(name: &Name<'_>, to: &str, source: Format, bits: u64, register_bits: u32) -> Option<u64> {
    let bits = if name.has("ftz") { flush(source, bits) } else { bits };
    let (low, high) = range(to)?;
    let number = match source.decode(bits) {
        // The manual: 0, or from f64 and for 64 bits the highest bit.
        Value::Nan if integer_type(to)?.0 == 64 || source == F64 => 1 << (integer_type(to)?.0 - 1),
        Value::Nan => 0,
        Value::Infinite { negative: true } => low,
        Value::Infinite { negative: false } => high,
        Value::Finite(n) => n.to_integer(rounding(name)).clamped(low, high),
    };
    Some(extended(to, number, register_bits))
}
