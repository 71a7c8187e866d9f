//! f32 operations.
//!
//! Every NaN result is the canonical one, as on the hardware. Approximate functions give the correctly rounded result.

use super::{LANES, map1, map2, map3};
use crate::float::approx;
use crate::float::fused::{Direction, divide_to_odd, fma_f32, sqrt_to_odd, sum_to_odd, to_f32_directed};
use crate::ptx::op::{Binary32, FloatMode, MinMaxMode, Rounding, Unary32};

/// The NaN every f32 operation produces.
pub(super) const NAN: u32 = 0x7fff_ffff;

const SMALLEST_NORMAL: u32 = 0x0080_0000;

#[inline(always)]
pub(super) fn unary(op: Unary32, a: &[u32; LANES]) -> [u32; LANES] {
    match op {
        Unary32::NegF32 { ftz } => map1(a, |a| canonical(-f32::from_bits(flush_if(ftz, a)))),
        Unary32::AbsF32 { ftz } => map1(a, |a| canonical(f32::from_bits(flush_if(ftz, a)).abs())),
        Unary32::RcpF32(mode) => map1(a, |a| divide(mode, 1.0, input(mode, a))),
        Unary32::SqrtF32(mode) => map1(a, |a| finish(mode, sqrt_to_odd(input(mode, a)))),
        Unary32::Ex2Approx { ftz } => ex2(ftz, a),
        Unary32::Lg2Approx { ftz } => function(ftz, a, approx::log2),
        Unary32::RcpApprox { ftz } => function(ftz, a, |a| 1.0 / a),
        Unary32::SqrtApprox { ftz } => function(ftz, a, f64::sqrt),
        // The root is rounded to f64 before the division: within 2^-51 of the exact value.
        Unary32::RsqrtApprox { ftz } => function(ftz, a, |a| 1.0 / a.sqrt()),
        Unary32::SinApprox { ftz } => function(ftz, a, approx::sin),
        Unary32::CosApprox { ftz } => function(ftz, a, approx::cos),
        Unary32::TanhApprox => function(false, a, approx::tanh),
        _ => *a,
    }
}

#[inline(always)]
pub(super) fn binary(op: Binary32, a: &[u32; LANES], b: &[u32; LANES]) -> [u32; LANES] {
    match op {
        Binary32::AddF32(mode) => match plain(mode) {
            Some(false) => map2(a, b, |a, b| canonical(f32::from_bits(a) + f32::from_bits(b))),
            Some(true) => map2(a, b, |a, b| flush(canonical(f32::from_bits(flush(a)) + f32::from_bits(flush(b))))),
            None => map2(a, b, |a, b| add(mode, a, b)),
        },
        Binary32::SubF32(mode) => match plain(mode) {
            Some(false) => map2(a, b, |a, b| canonical(f32::from_bits(a) - f32::from_bits(b))),
            Some(true) => map2(a, b, |a, b| flush(canonical(f32::from_bits(flush(a)) - f32::from_bits(flush(b))))),
            None => map2(a, b, |a, b| add(mode, a, b ^ 1 << 31)),
        },
        Binary32::MulF32(mode) => match plain(mode) {
            Some(false) => map2(a, b, |a, b| canonical(f32::from_bits(a) * f32::from_bits(b))),
            Some(true) => map2(a, b, |a, b| {
                nearest_ftz(f64::from(f32::from_bits(flush(a))) * f64::from(f32::from_bits(flush(b))))
            }),
            None => map2(a, b, |a, b| finish(mode, f64::from(input(mode, a)) * f64::from(input(mode, b)))),
        },
        Binary32::DivF32(mode) => map2(a, b, |a, b| divide(mode, input(mode, a), input(mode, b))),
        Binary32::DivApproxF32 { ftz } => map2(a, b, |a, b| div_approx(ftz, a, b)),
        Binary32::DivFullF32 { ftz } => map2(a, b, |a, b| {
            let mode = FloatMode { rounding: Rounding::Nearest, ftz, sat: false };
            divide(mode, input(mode, a), input(mode, b))
        }),
        Binary32::MinF32(mode) => min_max(mode, a, b, true),
        Binary32::MaxF32(mode) => min_max(mode, a, b, false),
        Binary32::CopysignF32 => map2(a, b, |a, b| (a & 1 << 31) | (b & !(1 << 31))),
        _ => *a,
    }
}

/// Fused multiply-add; `fused` says that the processor has one. Otherwise the common case goes through f64 and one cheap
/// test for the rare lane that needs more.
#[inline(always)]
pub(super) fn fma(mode: FloatMode, fused: bool, a: &[u32; LANES], b: &[u32; LANES], c: &[u32; LANES]) -> [u32; LANES] {
    match plain(mode) {
        Some(false) => fma_nearest(fused, a, b, c),
        Some(true) => {
            let [a, b, c] = [a, b, c].map(|v| map1(v, flush));
            let mut out = fma_nearest(fused, &a, &b, &c);
            if out.iter().any(|bits| bits << 1 == SMALLEST_NORMAL << 1) {
                out = map3(&a, &b, &c, |a, b, c| fma_one(mode, a, b, c));
            }
            map1(&out, flush)
        }
        None => map3(a, b, c, |a, b, c| fma_one(mode, a, b, c)),
    }
}

fn fma_one(mode: FloatMode, a: u32, b: u32, c: u32) -> u32 {
    let product = f64::from(input(mode, a)) * f64::from(input(mode, b));
    finish(mode, signed_sum(mode, product, f64::from(input(mode, c))))
}

#[inline(always)]
fn fma_nearest(fused: bool, a: &[u32; LANES], b: &[u32; LANES], c: &[u32; LANES]) -> [u32; LANES] {
    if fused {
        return map3(a, b, c, |a, b, c| canonical(f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c))));
    }
    let mut out = [0; LANES];
    let mut hard = 0u64;
    for lane in 0..LANES {
        let (a, b, c) = (f32::from_bits(a[lane]), f32::from_bits(b[lane]), f32::from_bits(c[lane]));
        let sum = f64::from(a) * f64::from(b) + f64::from(c);
        // Rounding twice can differ from rounding once only where the first result is halfway between two f32, or
        // in the subnormal range, where f32 has fewer bits.
        let bits = sum.to_bits();
        let halfway = bits & 0x1fff_ffff == 0x1000_0000;
        let subnormal = (bits & 0x7fff_ffff_ffff_ffff).wrapping_sub(1) < 0x3810_0000_0000_0000 - 1;
        hard |= u64::from(halfway) | u64::from(subnormal);
        out[lane] = canonical(sum as f32);
    }
    if hard != 0 {
        for lane in 0..LANES {
            let value = fma_f32(f32::from_bits(a[lane]), f32::from_bits(b[lane]), f32::from_bits(c[lane]));
            out[lane] = canonical(value);
        }
    }
    out
}

#[inline(always)]
fn ex2(ftz: bool, a: &[u32; LANES]) -> [u32; LANES] {
    if ftz {
        map1(a, |a| flush(canonical(approx::exp2(f64::from(f32::from_bits(flush(a)))) as f32)))
    } else {
        map1(a, |a| canonical(approx::exp2(f64::from(f32::from_bits(a))) as f32))
    }
}

fn function(ftz: bool, a: &[u32; LANES], f: impl Fn(f64) -> f64) -> [u32; LANES] {
    map1(a, |a| flush_if(ftz, canonical(f(f64::from(f32::from_bits(flush_if(ftz, a)))) as f32)))
}

/// `Some(ftz)` for rounding to nearest without saturation, the forms with a fast path.
fn plain(mode: FloatMode) -> Option<bool> {
    (mode.rounding == Rounding::Nearest && !mode.sat).then_some(mode.ftz)
}

fn add(mode: FloatMode, a: u32, b: u32) -> u32 {
    finish(mode, signed_sum(mode, f64::from(input(mode, a)), f64::from(input(mode, b))))
}

/// The sum rounded to odd; numbers that cancel leave -0 when rounding down.
fn signed_sum(mode: FloatMode, x: f64, y: f64) -> f64 {
    let sum = sum_to_odd(x, y);
    let cancels = sum == 0.0 && x.is_sign_negative() != y.is_sign_negative();
    if cancels && mode.rounding == Rounding::Down { -0.0 } else { sum }
}

fn divide(mode: FloatMode, a: f32, b: f32) -> u32 {
    finish(mode, divide_to_odd(a, b))
}

/// PTX ISA, `div.approx`: for divisors from 2^126 up, infinity over them is NaN and the rest is zero.
fn div_approx(ftz: bool, a: u32, b: u32) -> u32 {
    let (a, b) = (flush_if(ftz, a), flush_if(ftz, b));
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let huge = y.abs() > 2f32.powi(126) && y.is_finite();
    if huge {
        return if x.is_infinite() || x.is_nan() { NAN } else { (a ^ b) & 1 << 31 };
    }
    flush_if(ftz, canonical((f64::from(x) / f64::from(y)) as f32))
}

fn min_max(mode: MinMaxMode, a: &[u32; LANES], b: &[u32; LANES], min: bool) -> [u32; LANES] {
    map2(a, b, |a, b| {
        let (a, b) = (flush_if(mode.ftz, a), flush_if(mode.ftz, b));
        let sign = (a ^ b) & 1 << 31;
        let (a, b) = if mode.xorsign_abs { (a & !(1 << 31), b & !(1 << 31)) } else { (a, b) };
        let value = min_max_bits(a, b, min, mode.nan);
        if mode.xorsign_abs && value != NAN { value | sign } else { value }
    })
}

/// -0 is less than +0; the operand that isn't NaN wins unless `nan`.
#[inline(always)]
pub(super) fn min_max_bits(a: u32, b: u32, min: bool, nan: bool) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    // As integers with the sign folded in, finite floats and infinities order as numbers, -0 below +0.
    let key = |bits: u32| (bits ^ (((bits as i32 >> 31) as u32) >> 1)) as i32;
    let pick = if (key(a) < key(b)) == min { a } else { b };
    let either = if x.is_nan() {
        b
    } else if y.is_nan() {
        a
    } else {
        pick
    };
    if (x.is_nan() && y.is_nan()) || nan && (x.is_nan() || y.is_nan()) { NAN } else { either }
}

#[inline(always)]
pub(super) fn canonical(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

/// Subnormals to zero of the same sign.
#[inline(always)]
pub(super) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

#[inline(always)]
pub(super) fn flush_if(ftz: bool, bits: u32) -> u32 {
    if ftz { flush(bits) } else { bits }
}

fn input(mode: FloatMode, bits: u32) -> f32 {
    f32::from_bits(flush_if(mode.ftz, bits))
}

/// Flushing, rounding and saturation of a result that is exact or rounded to odd.
fn finish(mode: FloatMode, exact: f64) -> u32 {
    let bits = if mode.ftz && flushes(mode.rounding, exact, f32::MIN_POSITIVE.into(), f32::MANTISSA_DIGITS) {
        signed_zero(exact)
    } else {
        canonical(round(mode.rounding, exact))
    };
    // NaN fails the comparison and becomes +0, as does -0.
    if !mode.sat {
        bits
    } else if f32::from_bits(bits) > 0.0 {
        bits.min(1f32.to_bits())
    } else {
        0
    }
}

/// Whether `.ftz` makes a result zero: if it were still below the smallest normal number after rounding to the format's
/// precision without a limit to its exponent. `x` is exact or rounded to odd.
pub(super) fn flushes(rounding: Rounding, x: f64, smallest: f64, precision: u32) -> bool {
    let below = smallest * (1.0 - 0.5f64.powi(precision as i32));
    let halfway = smallest * (1.0 - 0.5f64.powi(precision as i32 + 1));
    let magnitude = x.abs();
    match direction(rounding) {
        None => magnitude < halfway,
        Some(Direction::Down) if x < 0.0 => magnitude <= below,
        Some(Direction::Up) if x > 0.0 => magnitude <= below,
        Some(_) => magnitude < smallest,
    }
}

/// To nearest with `.ftz`, as [`flushes`] says.
#[inline(always)]
fn nearest_ftz(exact: f64) -> u32 {
    const HALFWAY: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1u64 << 25) as f64);
    if exact.abs() < HALFWAY { signed_zero(exact) } else { canonical(exact as f32) }
}

#[inline(always)]
fn signed_zero(x: f64) -> u32 {
    ((x.to_bits() >> 32) as u32) & 1 << 31
}

/// A value rounded to odd, or exact, to f32.
pub(super) fn round(rounding: Rounding, x: f64) -> f32 {
    match direction(rounding) {
        Some(direction) => to_f32_directed(x, direction),
        None => x as f32,
    }
}

pub(super) fn direction(rounding: Rounding) -> Option<Direction> {
    match rounding {
        Rounding::Nearest | Rounding::NearestAway => None,
        Rounding::Zero => Some(Direction::Zero),
        Rounding::Down => Some(Direction::Down),
        Rounding::Up => Some(Direction::Up),
    }
}

/// The sum of two halves' exact values, safe to round once more.
pub(super) fn sum(a: f64, b: f64) -> f64 {
    sum_to_odd(a, b)
}
