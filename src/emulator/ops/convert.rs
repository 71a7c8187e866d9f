//! `cvt`: between integers, floats, and both.

use super::float::{flush_if, round};
use super::half::{decode_half, encode_half, f16_to_f32};
use super::map1;
use crate::emulator::warp::{Lanes, Registers};
use crate::ptx::Type;
use crate::ptx::op::{Conversion, Reg, Rounding};

/// Frequent conversions have a loop of their own; the rest share one per lane.
#[inline(always)]
pub(in crate::emulator) fn convert(registers: &mut Registers, lanes: Lanes, conversion: Conversion, d: Reg, a: Reg) {
    let c = conversion;
    let plain = !c.sat && !c.ftz && !c.relu;
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
fn one(c: &Conversion, bits: u64) -> u64 {
    if c.from.is_float() {
        let value = decode(c, bits);
        if c.to.is_float() { float_to_float(c, value) } else { float_to_integer(c, value) }
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
        _ => f64::from(f32::from_bits(flush_if(c.ftz, bits as u32))),
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

/// Out of range clamps, NaN is 0 (PTX ISA, `cvt`); to 64 bits NaN is the lowest or highest pattern.
fn float_to_integer(c: &Conversion, value: f64) -> u64 {
    let (low, high) = range(c.to);
    if value.is_nan() {
        let wide = c.to.size_bytes() == 8;
        return extend(c, if wide { 1 << 63 } else { 0 });
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
        return (value as f64).to_bits();
    }
    let mut wide = value as f64;
    if wide as i128 != value && wide.to_bits() & 1 == 0 {
        let outward = (value.abs() > (wide as i128).abs()) as u64;
        wide = f64::from_bits(if outward == 1 { wide.to_bits() + 1 } else { wide.to_bits() - 1 });
    }
    encode(c, if c.sat { wide.clamp(0.0, 1.0) } else { wide })
}

fn encode(c: &Conversion, value: f64) -> u64 {
    match c.to {
        Type::F16 => u64::from(encode_half(false, c.rounding, value)),
        Type::Bf16 => u64::from(encode_half(true, c.rounding, value)),
        Type::F64 if value.is_nan() => 0x7fff_ffff_ffff_ffff,
        Type::F64 => value.to_bits(),
        Type::Tf32 => {
            // 10 bits of significand in an f32; ties away from zero is the hardware's `.rna`.
            let bits = (value as f32).to_bits();
            if value.is_nan() { u64::from(super::float::NAN) } else { u64::from(bits.wrapping_add(0x1000) & !0x1fff) }
        }
        _ => {
            let rounding = if c.to_integral { Rounding::Nearest } else { c.rounding };
            u64::from(flush_if(c.ftz, super::float::canonical(round(rounding, value))))
        }
    }
}
