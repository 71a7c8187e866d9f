//! f16, bf16, f32 and f64 arithmetic.

use super::Name;
use super::exact::{BF16, F16, F32, F64, Format, Number, Rounding, TF32, Value};
use std::cmp::Ordering;

pub(super) fn format(ty: &str) -> Option<Format> {
    Some(match ty.strip_suffix("x2").unwrap_or(ty) {
        "f16" => F16,
        "bf16" => BF16,
        "f32" => F32,
        "f64" => F64,
        "tf32" => TF32,
        _ => return None,
    })
}

pub(super) fn rounding(name: &Name<'_>) -> Rounding {
    match name.choice(&["rz", "rm", "rp", "rna", "rzi", "rmi", "rpi"]) {
        Some("rz" | "rzi") => Rounding::Zero,
        Some("rm" | "rmi") => Rounding::Down,
        Some("rp" | "rpi") => Rounding::Up,
        Some("rna") => Rounding::NearestAway,
        _ => Rounding::Nearest,
    }
}

/// Subnormal numbers become zero of their sign.
pub(super) fn flush(format: Format, bits: u64) -> u64 {
    if format.is_subnormal(bits) { bits & format.sign() } else { bits }
}

/// `.ftz`, `.sat` and `.relu` of a result.
pub(super) fn finish(name: &Name<'_>, format: Format, bits: u64) -> u64 {
    let bits = if name.has("ftz") { flush(format, bits) } else { bits };
    let negative = bits & format.sign() != 0;
    if name.has("sat") {
        let one = format.encode(&Value::Finite(Number::integer(1)), Rounding::Nearest);
        return if format.is_nan(bits) || negative { 0 } else { bits.min(one) };
    }
    if name.has("relu") && negative && !format.is_nan(bits) {
        return 0;
    }
    bits
}

pub(super) fn arithmetic(name: &Name<'_>, case: &[u64]) -> Option<u64> {
    if name.has("approx") || name.has("full") {
        return None;
    }
    let ty = name.ty();
    if let Some(half) = ty.strip_suffix("x2") {
        let name = Name { opcode: name.opcode, modifiers: name.modifiers.clone(), types: vec![half] };
        let at = |shift: u32| arithmetic(&name, &case.iter().map(|v| v >> shift & 0xffff).collect::<Vec<_>>());
        return Some(at(16)? << 16 | at(0)?);
    }
    let format = format(ty)?;
    // What tensor copies fill in out of bounds, as the devices have it.
    if name.has("oob") && case[..2].iter().any(|v| v & 0x7fff == 0x7ff7) {
        return Some(0);
    }
    let mut bits = [0; 3];
    for (slot, value) in bits.iter_mut().zip(case) {
        *slot = if name.has("ftz") { flush(format, *value) } else { *value };
    }
    let rounding = rounding(name);
    let [a, b, c] = bits.map(|v| format.decode(v));
    let value = match name.opcode {
        "add" => a.add(&b, rounding),
        "sub" => a.add(&b.negated(), rounding),
        "mul" => a.mul(&b),
        "fma" | "mad" => a.mul(&b).add(&c, rounding),
        "div" => a.div(&b),
        "rcp" => Value::Finite(Number::integer(1)).div(&a),
        "sqrt" => a.sqrt(),
        "min" | "max" => return Some(min_max(name, format, bits[0], bits[1])),
        // The devices give the one NaN below 64 bits.
        "neg" | "abs" if a == Value::Nan && format != F64 => return Some(format.nan()),
        "neg" | "abs" if a == Value::Nan => return Some(double_nan(name, bits)),
        "neg" => return Some(bits[0] ^ format.sign()),
        "abs" => return Some(bits[0] & !format.sign()),
        "copysign" => return Some(bits[0] & format.sign() | bits[1] & !format.sign()),
        _ => return None,
    };
    if format == F64 && value == Value::Nan {
        return Some(double_nan(name, bits));
    }
    let result = format.encode(&value, rounding);
    let tiny = name.has("ftz") && is_tiny(format, &value, rounding);
    Some(finish(name, format, if tiny { result & format.sign() } else { result }))
}

/// Whether a value rounded to the precision of a normal number is less than one: the devices flush by that.
fn is_tiny(format: Format, value: &Value, rounding: Rounding) -> bool {
    const SCALE: u64 = 8;
    let Value::Finite(number) = value else { return false };
    let scaled = Number { exponent: number.exponent + SCALE as i64, ..number.clone() };
    let bits = format.encode(&Value::Finite(scaled), rounding);
    bits & (format.sign() - 1) < (1 + SCALE) << format.fraction
}

/// The NaN of an f64 operation: one of its operands, made quiet. Which one is as measured.
fn double_nan(name: &Name<'_>, bits: [u64; 3]) -> u64 {
    let order: &[usize] = match name.opcode {
        "fma" | "mad" => &[1, 2, 0],
        "add" | "sub" | "mul" | "min" | "max" => &[1, 0],
        "div" => &[0, 1],
        _ => &[0],
    };
    order.iter().map(|i| bits[*i]).find(|v| F64.is_nan(*v)).map_or(0xfff8 << 48, |v| v | 1 << 51)
}

fn min_max(name: &Name<'_>, format: Format, a: u64, b: u64) -> u64 {
    let sign = (a ^ b) & format.sign();
    let magnitudes = name.has("xorsign");
    let (a, b) = if magnitudes { (a & !format.sign(), b & !format.sign()) } else { (a, b) };
    let (x, y) = (format.decode(a), format.decode(b));
    let result = match (x == Value::Nan, y == Value::Nan) {
        (true, true) if format == F64 => return double_nan(name, [a, b, 0]),
        (true, true) => return format.nan(),
        (true, _) | (_, true) if name.has("NaN") => return format.nan(),
        (true, false) => b,
        (false, true) => a,
        _ => {
            // -0 is below +0.
            let order = x.compare(&y).unwrap_or(Ordering::Equal).then((b & format.sign()).cmp(&(a & format.sign())));
            if (order == Ordering::Less) == (name.opcode == "min") { a } else { b }
        }
    };
    if magnitudes { result | sign } else { result }
}
