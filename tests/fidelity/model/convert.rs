//! `cvt`.

use super::Name;
use super::exact::{BF16, F32, F64, Format, Number, Rounding, TF32, Value};
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

/// `cvt.pack`: saturated `b`, saturated `a` above it, the rest from `c`.
pub(super) fn pack(name: &Name<'_>, case: &[u64]) -> Option<u64> {
    let to = name.choice(&["u4", "s4", "u2", "s2"]).unwrap_or(name.types[0]);
    let (width, _) = integer_type(to)?;
    let (low, high) = range(to)?;
    let part = |bits: u64| Some(wrap(value("s32", bits)?.clamp(low, high), width));
    let both = part(case[1])? | part(case[0])? << width;
    let rest = if width == 16 { 0 } else { case[2] << (2 * width) };
    Some((both | rest) & 0xffff_ffff)
}

/// The low bits of a number in its type, extended by the type's sign to the register.
fn extended(to: &str, number: i128, register_bits: u32) -> u64 {
    let (width, _) = integer_type(to).unwrap_or((64, false));
    mask(value(to, wrap(number, width)).unwrap_or(0) as u64, register_bits)
}

fn from_float(name: &Name<'_>, to: Format, from: Format, bits: u64) -> u64 {
    // `.ftz` concerns only f32.
    let is_f32 = |f: Format| f.width() == 32;
    let ftz = name.has("ftz");
    // Without modifiers it is a copy.
    if is_f32(from) && to == from && name.modifiers.is_empty() {
        return bits;
    }
    // On the way to f16 the devices flush nothing.
    let bits = if ftz && is_f32(from) && to.width() != 16 { flush(from, bits) } else { bits };
    let mut number = from.decode(bits);
    if number == Value::Nan && !name.has("sat") {
        return nan(name, to, from, bits);
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

/// What the devices make of a NaN: to and from f64 it keeps its sign and what fits of its fraction.
fn nan(name: &Name<'_>, to: Format, from: Format, bits: u64) -> u64 {
    if to == TF32 {
        let rounds_away = name.has("rna");
        let kept = if rounds_away { bits } else { 0x7fff_ffff } & !0x1fff;
        return if rounds_away && name.has("satfinite") { kept - 0x2000 } else { kept };
    }
    if from == BF16 && to == F32 {
        return bits << 16;
    }
    if to != F64 && from != F64 {
        return to.nan();
    }
    let bits = if from == F32 && name.has("ftz") { F32.nan() } else { bits };
    let fraction = bits & ((1 << from.fraction) - 1);
    let fraction = if to.fraction >= from.fraction {
        fraction << (to.fraction - from.fraction)
    } else {
        fraction >> (from.fraction - to.fraction)
    };
    let sign = if bits & from.sign() == 0 { 0 } else { to.sign() };
    let exponent = ((1 << to.exponent) - 1) << to.fraction;
    sign | exponent | 1 << (to.fraction - 1) | fraction
}

fn to_integer(name: &Name<'_>, to: &str, source: Format, bits: u64, register_bits: u32) -> Option<u64> {
    let bits = if name.has("ftz") { flush(source, bits) } else { bits };
    let (low, high) = range(to)?;
    let number = match source.decode(bits) {
        // The manual: 0. The devices, to and from 64 bits: the upper bit alone.
        Value::Nan if integer_type(to)?.0 == 64 || source.width() == 64 => 1 << (integer_type(to)?.0 - 1),
        Value::Nan => 0,
        Value::Infinite { negative: true } => low,
        Value::Infinite { negative: false } => high,
        Value::Finite(n) => n.to_integer(rounding(name)).clamped(low, high),
    };
    Some(extended(to, number, register_bits))
}
