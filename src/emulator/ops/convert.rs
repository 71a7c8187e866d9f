//! `cvt`: between integers, floats, and both.

use super::float::{direction, flush_if, round};
use super::half::{decode_half, encode_half, f16_to_f32};
use super::map1;
use crate::emulator::warp::{Lanes, Registers};
use crate::float::fused::Direction;
use crate::ptx::Type;
use crate::ptx::op::{Conversion, Reg, Rounding};

/// Frequent conversions have a loop of their own; the rest share one per lane.
#[inline(always)]
pub(in crate::emulator) fn convert(registers: &mut Registers, lanes: Lanes, conversion: Conversion, d: Reg, a: Reg) {
    let c = conversion;
    let plain = !c.sat && !c.ftz && !c.relu && !c.satfinite;
    match (c.to, c.from, d, a) {
        (Type::U64 | Type::S64, Type::U32, Reg::Wide(d), Reg::Word(a)) if plain => {
            let out = map1(registers.word(a), u64::from);
            registers.set_wide(d, lanes, out);
        }
        (Type::U64 | Type::S64, Type::S32, Reg::Wide(d), Reg::Word(a)) if plain => {
            let out = map1(registers.word(a), |a| i64::from(a as i32) as u64);
            registers.set_wide(d, lanes, out);
        }
        (Type::U32 | Type::S32, Type::U64 | Type::S64, Reg::Word(d), Reg::Wide(a)) if plain => {
            let out = map1(registers.wide(a), |a| a as u32);
            registers.set_word(d, lanes, out);
        }
        (Type::F32, Type::F16, Reg::Word(d), Reg::Word(a)) if plain && !c.to_integral => {
            let out = map1(registers.word(a), |a| super::float::canonical(f16_to_f32(a as u16)));
            registers.set_word(d, lanes, out);
        }
        (Type::F32, Type::S32, Reg::Word(d), Reg::Word(a)) if plain && c.rounding == Rounding::Nearest => {
            let out = map1(registers.word(a), |a| (a as i32 as f32).to_bits());
            registers.set_word(d, lanes, out);
        }
        _ => {
            let values = registers.values(a);
            registers.set_values(d, lanes, map1(&values, |v| one(&c, v)));
        }
    }
}

/// One lane's conversion, any types.
pub(in crate::emulator) fn one(c: &Conversion, bits: u64) -> u64 {
    let modified = c.ftz || c.sat || c.to_integral;
    if c.from == c.to && c.to == Type::F32 && !modified {
        return bits;
    }
    if c.from.is_float() {
        let value = decode(c, bits);
        match c.to.is_float() {
            true if value.is_nan() && !c.sat => nan(c, bits),
            true => float_to_float(c, value),
            false => float_to_integer(c, value),
        }
    } else {
        let value = integer(c.from, bits);
        if c.to.is_float() { integer_to_float(c, value) } else { extend(c, clamp_integer(c, value)) }
    }
}

fn decode(c: &Conversion, bits: u64) -> f64 {
    match c.from {
        Type::F16 => decode_half(false, bits as u16),
        Type::Bf16 => decode_half(true, bits as u16),
        Type::F64 => f64::from_bits(bits),
        // The devices flush nothing on the way to f16.
        _ => f64::from(f32::from_bits(flush_if(c.ftz && c.to != Type::F16, bits as u32))),
    }
}

fn integer(ty: Type, bits: u64) -> i128 {
    match ty {
        Type::S8 => i128::from(bits as i8),
        Type::S16 => i128::from(bits as i16),
        Type::S32 => i128::from(bits as i32),
        Type::S64 => i128::from(bits as i64),
        Type::U8 | Type::B8 => i128::from(bits as u8),
        Type::U16 | Type::B16 => i128::from(bits as u16),
        Type::U32 | Type::B32 => i128::from(bits as u32),
        _ => i128::from(bits),
    }
}

fn range(ty: Type) -> (i128, i128) {
    let bits = ty.size_bytes() * 8;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn clamp_integer(c: &Conversion, value: i128) -> i128 {
    let (low, high) = range(c.to);
    if c.sat { value.clamp(low, high) } else { value }
}

/// The value's low bits in the result type, extended to the register by the result type's sign.
fn extend(c: &Conversion, value: i128) -> u64 {
    let bits = integer(c.to, value as u64) as u64;
    if c.destination_bits >= 64 { bits } else { bits & ((1 << c.destination_bits) - 1) }
}

/// Out of range clamps, NaN is 0 (PTX ISA, `cvt`); to and from 64 bits the devices give the upper bit alone.
fn float_to_integer(c: &Conversion, value: f64) -> u64 {
    let (low, high) = range(c.to);
    if value.is_nan() {
        let wide = c.to.size_bytes() == 8 || c.from == Type::F64;
        return extend(c, if wide { 1 << (8 * c.to.size_bytes() - 1) } else { 0 });
    }
    let rounded = integral(c.rounding, value);
    // `as` saturates; the bounds of every type but 64 bits are exact in f64.
    extend(c, (rounded as i128).clamp(low, high))
}

fn integral(rounding: Rounding, value: f64) -> f64 {
    match rounding {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

/// A NaN converted as the devices do: to and from f64 with its sign and what fits of its payload, otherwise the one.
fn nan(c: &Conversion, bits: u64) -> u64 {
    let fraction_bits = |ty: Type| match ty {
        Type::F16 => 10,
        Type::Bf16 => 7,
        Type::F32 => 23,
        _ => 52,
    };
    match (c.from, c.to) {
        (_, Type::Tf32) if c.rounding == Rounding::NearestAway => {
            let kept = bits & !0x1fff;
            if c.satfinite { kept - 0x2000 } else { kept }
        }
        (Type::Bf16, Type::F32) => bits << 16,
        (_, Type::F64) | (Type::F64, _) => {
            let bits = if c.from == Type::F32 && c.ftz { u64::from(super::float::NAN) } else { bits };
            let width = 8 * c.from.size_bytes() as u32;
            let to_width = 8 * c.to.size_bytes() as u32;
            let (from, to) = (fraction_bits(c.from), fraction_bits(c.to));
            // The fraction at the top of 64 bits, below it nothing.
            let payload = bits << (64 - from) >> (64 - to);
            let ones = u64::MAX >> (65 - to_width) >> (to - 1) << (to - 1);
            (bits >> (width - 1) & 1) << (to_width - 1) | ones | payload
        }
        _ => encode_any(c, f64::NAN),
    }
}

fn float_to_float(c: &Conversion, value: f64) -> u64 {
    let value = if c.to_integral { integral(c.rounding, value) } else { value };
    let value = match value {
        v if c.sat && v > 0.0 => v.min(1.0),
        // NaN and -0 become +0 too.
        _ if c.sat => 0.0,
        v if c.relu && v <= 0.0 => 0.0,
        v => v,
    };
    encode(c, value)
}

/// Integers above 2^53 are first rounded to odd, so that the second rounding is the only one.
fn integer_to_float(c: &Conversion, value: i128) -> u64 {
    if c.to == Type::F64 {
        let value = to_f64(c.rounding, value);
        return if c.sat { value.clamp(0.0, 1.0) } else { value }.to_bits();
    }
    let mut wide = value as f64;
    if wide as i128 != value && wide.to_bits() & 1 == 0 {
        let outward = (value.abs() > (wide as i128).abs()) as u64;
        wide = f64::from_bits(if outward == 1 { wide.to_bits() + 1 } else { wide.to_bits() - 1 });
    }
    encode(c, if c.sat { wide.clamp(0.0, 1.0) } else { wide })
}

/// An integer of at most 64 bits, rounded once.
fn to_f64(rounding: Rounding, value: i128) -> f64 {
    let nearest = value as f64;
    let found = nearest as i128;
    let too_high = match direction(rounding) {
        None => return nearest,
        Some(Direction::Zero) => found.abs() > value.abs() && value > 0,
        Some(Direction::Down) => found > value,
        Some(Direction::Up) => false,
    };
    let too_low = match direction(rounding) {
        Some(Direction::Zero) => found.abs() > value.abs() && value < 0,
        Some(Direction::Up) => found < value,
        _ => false,
    };
    match (too_high, too_low) {
        (true, _) => nearest.next_down(),
        (_, true) => nearest.next_up(),
        _ => nearest,
    }
}

/// The 10 bits of a tf32 significand, in an f32.
fn to_tf32(rounding: Rounding, value: f64) -> u32 {
    if value.is_nan() {
        return super::float::NAN & !0x1fff;
    }
    let bits = (value as f32).to_bits();
    let carried = match rounding {
        Rounding::NearestAway => bits.wrapping_add(0x1000),
        Rounding::Nearest => bits.wrapping_add(0xfff + (bits >> 13 & 1)),
        _ => bits,
    };
    carried & !0x1fff
}

/// Infinity, as a result of overflow or not, to the largest finite number (`.satfinite`).
fn finite(c: &Conversion, bits: u64) -> u64 {
    let (infinity, sign, last) = match c.to {
        Type::F16 => (0x7c00, 0x8000, 1),
        Type::Bf16 => (0x7f80, 0x8000, 1),
        _ => (0x7f80_0000, 0x8000_0000, 0x2000),
    };
    if bits & !sign == infinity { bits - last } else { bits }
}

fn encode(c: &Conversion, value: f64) -> u64 {
    let bits = encode_any(c, value);
    if c.satfinite { finite(c, bits) } else { bits }
}

fn encode_any(c: &Conversion, value: f64) -> u64 {
    match c.to {
        Type::F16 => u64::from(encode_half(false, c.rounding, value)),
        Type::Bf16 => u64::from(encode_half(true, c.rounding, value)),
        Type::F64 if value.is_nan() => 0x7fff_ffff_ffff_ffff,
        Type::F64 => value.to_bits(),
        Type::Tf32 => u64::from(to_tf32(c.rounding, value)),
        _ => {
            let rounding = if c.to_integral { Rounding::Nearest } else { c.rounding };
            u64::from(flush_if(c.ftz, super::float::canonical(round(rounding, value))))
        }
    }
}
