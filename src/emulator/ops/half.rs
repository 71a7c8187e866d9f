//! f16 and bf16 operations, packed or not.
//!
//! Operands are widened to f64, where products and sums are exact or rounded to odd, and rounded once.

use super::float::{NAN, direction, flush_if, flushes, sum};
use super::{LANES, map1, map2, map3};
use crate::float::fused::{Direction, fma_to_odd};
use crate::float::{Dtype, approx};
use crate::ptx::op::{Binary32, HalfMode, MinMaxMode, Relation, Rounding, Unary32};

pub(super) fn unary(op: Unary32, a: &[u32; LANES]) -> [u32; LANES] {
    match op {
        Unary32::NegHalf(mode) => {
            each1(mode, a, |a| if is_nan(mode.bf16, a) { 0x7fff } else { flush(mode, a) ^ 0x8000 })
        }
        Unary32::AbsHalf(mode) => {
            each1(mode, a, |a| if is_nan(mode.bf16, a) { 0x7fff } else { flush(mode, a) & 0x7fff })
        }
        Unary32::Ex2Half(mode) => each1(mode, a, |a| encode(mode, approx::exp2(decode(mode, a)))),
        Unary32::TanhHalf(mode) => each1(mode, a, |a| encode(mode, approx::tanh(decode(mode, a)))),
        _ => *a,
    }
}

pub(super) fn binary(op: Binary32, a: &[u32; LANES], b: &[u32; LANES]) -> [u32; LANES] {
    match op {
        Binary32::AddHalf(mode) => each2(mode, a, b, |a, b| encode(mode, sum(decode(mode, a), decode(mode, b)))),
        Binary32::SubHalf(mode) => each2(mode, a, b, |a, b| encode(mode, sum(decode(mode, a), -decode(mode, b)))),
        Binary32::MulHalf(mode) => each2(mode, a, b, |a, b| encode(mode, decode(mode, a) * decode(mode, b))),
        Binary32::MinHalf(mode, min_max) => each2(mode, a, b, |a, b| pick(mode, min_max, a, b, true)),
        Binary32::MaxHalf(mode, min_max) => each2(mode, a, b, |a, b| pick(mode, min_max, a, b, false)),
        Binary32::SetHalf { mode, compare, one } => {
            each2(mode, a, b, |a, b| if holds(compare.relation, decode(mode, a), decode(mode, b)) { one } else { 0 })
        }
        Binary32::PackHalf { mode, rounding, satfinite } => map2(a, b, |a, b| {
            let upper = from_f32(mode, rounding, satfinite, a);
            let lower = from_f32(mode, rounding, satfinite, b);
            u32::from(upper) << 16 | u32::from(lower)
        }),
        _ => *a,
    }
}

pub(super) fn fma(mode: HalfMode, a: &[u32; LANES], b: &[u32; LANES], c: &[u32; LANES]) -> [u32; LANES] {
    let one = |a, b, c| encode(mode, fma_to_odd(decode(mode, a), decode(mode, b), decode(mode, c)));
    map3(a, b, c, |a, b, c| {
        let low = one(a as u16, b as u16, c as u16);
        let high = if mode.packed { one((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16) } else { 0 };
        u32::from(high) << 16 | u32::from(low)
    })
}

/// `fma.oob`: a factor that is the value tensor copies fill in out of bounds makes the result +0.
pub(super) fn fma_oob(mode: HalfMode, a: &[u32; LANES], b: &[u32; LANES], c: &[u32; LANES]) -> [u32; LANES] {
    const OUT_OF_BOUNDS: u32 = 0x7ff7;
    let fused = fma(mode, a, b, c);
    std::array::from_fn(|lane| {
        let outside = |shift: u32| [a, b].iter().any(|v| v[lane] >> shift & 0x7fff == OUT_OF_BOUNDS);
        let keep = |shift: u32| if outside(shift) { 0 } else { 0xffff << shift };
        fused[lane] & (keep(0) | keep(16))
    })
}

/// Whether a relation holds; the unordered forms hold for NaN.
#[inline(always)]
pub(super) fn holds(relation: Relation, a: f64, b: f64) -> bool {
    let nan = a.is_nan() || b.is_nan();
    match relation {
        Relation::Eq => a == b,
        Relation::Ne => a != b && !nan,
        Relation::Lt => a < b,
        Relation::Le => a <= b,
        Relation::Gt => a > b,
        Relation::Ge => a >= b,
        Relation::Equ => a == b || nan,
        Relation::Neu => a != b,
        Relation::Ltu => a < b || nan,
        Relation::Leu => a <= b || nan,
        Relation::Gtu => a > b || nan,
        Relation::Geu => a >= b || nan,
        Relation::Num => !nan,
        Relation::Nan => nan,
    }
}

/// The value of a half's bits.
#[inline(always)]
pub(in crate::emulator) fn decode_half(bf16: bool, bits: u16) -> f64 {
    if bf16 { f64::from(f32::from_bits(u32::from(bits) << 16)) } else { f64::from(f16_to_f32(bits)) }
}

/// f16 to f32, exact, without branches on the value: the exponent is rebased by one multiplication.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = (bits & 0x7fff) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
}

/// Rounds to a half and gives its bits; NaN becomes the canonical 0x7fff.
pub(in crate::emulator) fn encode_half(bf16: bool, rounding: Rounding, x: f64) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let dtype = if bf16 { Dtype::Bf16 } else { Dtype::F16 };
    let nearest = dtype.encode(x) as u16;
    let Some(direction) = direction(rounding) else {
        return nearest;
    };
    let value = decode_half(bf16, nearest);
    // Neighbouring bit patterns are neighbouring magnitudes; across zero the sign changes instead.
    let (outward, inward) = (nearest.wrapping_add(1), nearest.wrapping_sub(1));
    let negative = nearest >> 15 == 1;
    match direction {
        _ if x.is_infinite() || value == x => nearest,
        Direction::Zero if value.abs() > x.abs() => inward,
        Direction::Down if value > x => match nearest {
            0 => 0x8001,
            _ if negative => outward,
            _ => inward,
        },
        Direction::Up if value < x => match nearest {
            0x8000 => 1,
            _ if negative => inward,
            _ => outward,
        },
        _ => nearest,
    }
}

fn from_f32(mode: HalfMode, rounding: Rounding, satfinite: bool, bits: u32) -> u16 {
    let x = f64::from(f32::from_bits(bits));
    let half = encode_half(mode.bf16, rounding, x);
    let infinity = if mode.bf16 { 0x7f80 } else { 0x7c00 };
    // The largest finite number is the bit pattern before infinity.
    let overflows = satfinite && half & 0x7fff == infinity;
    finish(mode, if overflows { half - 1 } else { half })
}

#[inline(always)]
fn decode(mode: HalfMode, bits: u16) -> f64 {
    decode_half(mode.bf16, flush(mode, bits))
}

#[inline(always)]
fn encode(mode: HalfMode, x: f64) -> u16 {
    let dtype = if mode.bf16 { Dtype::Bf16 } else { Dtype::F16 };
    let smallest = smallest_normal(mode.bf16);
    let flushed = mode.ftz && flushes(Rounding::Nearest, x, smallest, dtype.precision_bits());
    let x = if flushed { 0f64.copysign(x) } else { x };
    finish(mode, encode_half(mode.bf16, Rounding::Nearest, x))
}

fn finish(mode: HalfMode, bits: u16) -> u16 {
    let nan = is_nan(mode.bf16, bits);
    let one = if mode.bf16 { 0x3f80 } else { 0x3c00 };
    let negative = bits >> 15 == 1;
    if mode.sat {
        return if nan || negative { 0 } else { flush(mode, bits.min(one)) };
    }
    if mode.relu && !nan && negative {
        return 0;
    }
    flush(mode, bits)
}

fn smallest_normal(bf16: bool) -> f64 {
    decode_half(bf16, if bf16 { 0x80 } else { 0x400 })
}

fn is_nan(bf16: bool, bits: u16) -> bool {
    bits & 0x7fff > if bf16 { 0x7f80 } else { 0x7c00 }
}

#[inline(always)]
fn flush(mode: HalfMode, bits: u16) -> u16 {
    if mode.bf16 {
        return (flush_if(mode.ftz, u32::from(bits) << 16) >> 16) as u16;
    }
    flush_half(mode.ftz, bits)
}

/// A subnormal f16 to zero of its sign, if asked for.
#[inline(always)]
pub(super) fn flush_half(ftz: bool, bits: u16) -> u16 {
    if ftz && bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
}

pub(super) fn pick(mode: HalfMode, min_max: MinMaxMode, a: u16, b: u16, min: bool) -> u16 {
    let (a, b) = (flush(mode, a), flush(mode, b));
    let sign = (a ^ b) & 0x8000;
    let (a, b) = if min_max.xorsign_abs { (a & 0x7fff, b & 0x7fff) } else { (a, b) };
    let (a_nan, b_nan) = (is_nan(mode.bf16, a), is_nan(mode.bf16, b));
    if a_nan && b_nan || min_max.nan && (a_nan || b_nan) {
        return NAN as u16 & 0x7fff;
    }
    let key = |bits: u16| (bits ^ (((bits as i16 >> 15) as u16) >> 1)) as i16;
    let chosen = match (a_nan, b_nan) {
        (true, _) => b,
        (_, true) => a,
        _ if (key(a) < key(b)) == min => a,
        _ => b,
    };
    if min_max.xorsign_abs { chosen | sign } else { chosen }
}

#[inline(always)]
fn each1(mode: HalfMode, a: &[u32; LANES], f: impl Fn(u16) -> u16) -> [u32; LANES] {
    map1(a, |a| {
        let high = if mode.packed { f((a >> 16) as u16) } else { 0 };
        u32::from(high) << 16 | u32::from(f(a as u16))
    })
}

#[inline(always)]
fn each2(mode: HalfMode, a: &[u32; LANES], b: &[u32; LANES], f: impl Fn(u16, u16) -> u16) -> [u32; LANES] {
    map2(a, b, |a, b| {
        let high = if mode.packed { f((a >> 16) as u16, (b >> 16) as u16) } else { 0 };
        u32::from(high) << 16 | u32::from(f(a as u16, b as u16))
    })
}
