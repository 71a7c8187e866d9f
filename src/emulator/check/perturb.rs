//! Approximate functions, off by as much as their documentation allows.
//!
//! The emulator's approximate functions round correctly; a device's needn't. Under a seed each returns some value within
//! its documented error of the exact one, the same for the same operands: a kernel whose verdict changes leans on
//! more accuracy than it is promised. Results of 0, infinity and NaN, subnormal ones, and those of zero or subnormal
//! operands stay as they are.
//!
//! Intervals: PTX ISA, the instruction's table of errors. For `sin` and `cos` 2^-20.5 within one turn and 2^-14.7
//! beyond. Where the manual counts ulps, one is the distance of neighbours at the exact value. Left alone: `ex2` and
//! `tanh` in f16 and bf16 with `.sat` or `.relu`, the f64 estimates, and `div.approx` by a divisor beyond 2^126.

use crate::emulator::ops::half::{decode_half, encode_half};
use crate::emulator::warp::LANES;
use crate::float::approx;
use crate::ptx::op::{Binary32, HalfMode, Rounding, Unary32};

/// The exact result and how far from it the hardware's may lie.
#[derive(Clone, Copy, Debug)]
struct Interval {
    exact: f64,
    error: f64,
}

/// Moves the results of a one-operand instruction.
pub(in crate::emulator) fn unary(seed: u64, op: Unary32, a: &[u32; LANES], out: &mut [u32; LANES]) {
    if let Unary32::Ex2Half(mode) | Unary32::TanhHalf(mode) = op {
        if !mode.sat && !mode.relu {
            let is_tanh = matches!(op, Unary32::TanhHalf(_));
            a.iter().zip(out).for_each(|(a, out)| *out = half(seed, is_tanh, mode, *a, *out));
        }
        return;
    }
    let (number, of): (u64, fn(f64) -> Interval) = match op {
        Unary32::Ex2Approx { .. } => (1, |x| ulps(approx::exp2(x), 2.0)),
        Unary32::Lg2Approx { .. } => (2, |x| {
            let exact = approx::log2(x);
            let scale = if x > 0.5 && x < 2.0 { 1.0 } else { exact.abs() };
            Interval { exact, error: scale * 2f64.powi(-22) }
        }),
        Unary32::RcpApprox { .. } => (3, |x| ulps(1.0 / x, 1.0)),
        Unary32::SqrtApprox { .. } => (4, |x| relative(x.sqrt(), 2f64.powi(-23))),
        // 2^-22.9, rounded down.
        Unary32::RsqrtApprox { .. } => (5, |x| relative(1.0 / x.sqrt(), 1.27e-7)),
        Unary32::SinApprox { .. } => (6, |x| turn(x, approx::sin(x))),
        Unary32::CosApprox { .. } => (7, |x| turn(x, approx::cos(x))),
        Unary32::TanhApprox => (8, |x| relative(approx::tanh(x), 2f64.powi(-11))),
        _ => return,
    };
    let bounded = matches!(op, Unary32::SinApprox { .. } | Unary32::CosApprox { .. } | Unary32::TanhApprox);
    for (a, out) in a.iter().zip(out) {
        let x = f32::from_bits(*a);
        if x.is_normal() {
            let moved = nudged(hash(seed, number, u64::from(*a)), of(f64::from(x)), *out);
            if !bounded || f32::from_bits(moved).abs() <= 1.0 {
                *out = moved;
            }
        }
    }
}

/// Moves the results of a two-operand instruction.
pub(in crate::emulator) fn binary(
    seed: u64,
    op: Binary32,
    (a, b): (&[u32; LANES], &[u32; LANES]),
    out: &mut [u32; LANES],
) {
    let number = match op {
        Binary32::DivApproxF32 { .. } => 9,
        Binary32::DivFullF32 { .. } => 10,
        _ => return,
    };
    for ((a, b), out) in a.iter().zip(b).zip(out) {
        let (x, y) = (f32::from_bits(*a), f32::from_bits(*b));
        if x.is_normal() && y.is_normal() {
            let interval = ulps(f64::from(x) / f64::from(y), 2.0);
            *out = nudged(hash(seed, number, u64::from(*a) << 32 | u64::from(*b)), interval, *out);
        }
    }
}

fn relative(exact: f64, error: f64) -> Interval {
    Interval { exact, error: exact.abs() * error }
}

fn ulps(exact: f64, count: f64) -> Interval {
    // The power of two at or below the value, times the distance of neighbours at 1.
    let binade = f64::from_bits(exact.abs().to_bits() & 0x7ff0_0000_0000_0000);
    Interval { exact, error: binade * count * f64::from(f32::EPSILON) }
}

fn turn(x: f64, exact: f64) -> Interval {
    // 2^-20.5 and 2^-14.7, rounded down.
    Interval { exact, error: if x.abs() <= std::f64::consts::PI { 6.74e-7 } else { 3.75e-5 } }
}

/// An f32 within the interval; `rounded`, if that is special or the draw falls outside.
fn nudged(hash: u64, interval: Interval, rounded: u32) -> u32 {
    if !f32::from_bits(rounded).is_normal() {
        return rounded;
    }
    let moved = drawn(hash, interval) as f32;
    let within = (f64::from(moved) - interval.exact).abs() <= interval.error;
    if within && moved.is_normal() { moved.to_bits() } else { rounded }
}

fn half(seed: u64, is_tanh: bool, mode: HalfMode, a: u32, rounded: u32) -> u32 {
    let one = |shift: u32| {
        let (bits, before) = ((a >> shift) as u16, (rounded >> shift) as u16);
        let (x, y) = (decode_half(mode.bf16, bits), decode_half(mode.bf16, before));
        let smallest = if mode.bf16 { f64::from(f32::MIN_POSITIVE) } else { 2f64.powi(-14) };
        if !x.is_finite() || !y.is_finite() || x.abs() < smallest || y.abs() < smallest {
            return before;
        }
        let interval = match (is_tanh, mode.bf16) {
            // 2^-10.987 and 2^-9.9, rounded down.
            (true, false) => Interval { exact: approx::tanh(x), error: 4.92e-4 },
            (true, true) => Interval { exact: approx::tanh(x), error: 2f64.powi(-8) },
            (false, false) => relative(approx::exp2(x), 1.046e-3),
            (false, true) => relative(approx::exp2(x), 2f64.powi(-7)),
        };
        let number = 11 + u64::from(is_tanh) * 2 + u64::from(mode.bf16);
        let moved = encode_half(mode.bf16, Rounding::Nearest, drawn(hash(seed, number, u64::from(bits)), interval));
        let value = decode_half(mode.bf16, moved);
        let within = (value - interval.exact).abs() <= interval.error && value.abs() >= smallest;
        if within && (!is_tanh || value.abs() <= 1.0) { moved } else { before }
    };
    let high = if mode.packed { u32::from(one(16)) } else { rounded >> 16 };
    high << 16 | u32::from(one(0))
}

/// A value of the interval, its ends included.
fn drawn(hash: u64, interval: Interval) -> f64 {
    let part = (hash >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    interval.exact + part * interval.error
}

/// SplitMix64's finish over seed, instruction and operands.
fn hash(seed: u64, number: u64, operands: u64) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    mix(mix(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))) ^ operands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_move_within_their_interval_and_no_further() {
        let mut differing = 0;
        for i in 0..2000u32 {
            let a = [(i as f32 * 0.01 - 10.0).to_bits(); LANES];
            let x = f64::from(f32::from_bits(a[0]));
            let exact = approx::exp2(x);
            let before = [(exact as f32).to_bits(); LANES];
            let mut out = before;
            unary(7, Unary32::Ex2Approx { ftz: true }, &a, &mut out);
            let error = (f64::from(f32::from_bits(out[0])) - exact).abs();
            assert!(error <= ulps(exact, 2.0).error, "ex2({x}) is off by {error}");
            differing += usize::from(out != before);
            let mut again = before;
            unary(7, Unary32::Ex2Approx { ftz: true }, &a, &mut again);
            assert_eq!(again, out);
        }
        assert!(differing > 1000, "{differing}");
    }

    #[test]
    fn special_results_stay() {
        for x in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40] {
            let before = [0x7f80_0000; LANES];
            let mut out = before;
            unary(3, Unary32::RcpApprox { ftz: false }, &[x.to_bits(); LANES], &mut out);
            assert_eq!(out, before);
        }
        let mut out = [1f32.to_bits(); LANES];
        unary(3, Unary32::Ex2Approx { ftz: true }, &[0; LANES], &mut out);
        assert_eq!(out, [1f32.to_bits(); LANES]);
    }
}
