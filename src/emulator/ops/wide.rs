//! 64-bit integer and f64 operations.

use super::float::direction;
use super::integer::{bfe, bfi};
use super::{LANES, map1, map2, map3};
use crate::emulator::warp::{Lanes, Registers};
use crate::float::exact;
use crate::float::fused::Direction;
use crate::ptx::op::{Binary64, Carried, Carry, Count64, Reg, Rounding, Shift64, Ternary64, Unary64};

pub(in crate::emulator) fn unary64(op: Unary64, a: &[u64; LANES]) -> [u64; LANES] {
    match op {
        Unary64::Not => map1(a, |a| !a),
        Unary64::Neg => map1(a, u64::wrapping_neg),
        Unary64::Abs => map1(a, |a| (a as i64).wrapping_abs() as u64),
        Unary64::Cnot => map1(a, |a| u64::from(a == 0)),
        Unary64::Brev => map1(a, u64::reverse_bits),
        Unary64::NegF64 => map1(a, |a| if is_nan(a) { a | QUIET } else { a ^ 1 << 63 }),
        Unary64::AbsF64 => map1(a, |a| if is_nan(a) { a | QUIET } else { a & !(1 << 63) }),
        Unary64::RcpF64(rounding) => directed1(rounding, a, |a| 1.0 / a, |a, way| exact::divide(1.0, a, way)),
        Unary64::SqrtF64(rounding) => directed1(rounding, a, f64::sqrt, exact::sqrt),
        Unary64::RcpApproxF64 => map1(a, |a| estimate(a, |a| 1.0 / a)),
        Unary64::RsqrtApproxF64 => map1(a, |a| estimate(a, |a| 1.0 / a.sqrt())),
    }
}

#[inline(always)]
pub(in crate::emulator) fn binary64(op: Binary64, a: &[u64; LANES], b: &[u64; LANES]) -> [u64; LANES] {
    let min_or_max = |min| map2(a, b, |a, b| settle(min_max(f64::from_bits(a), f64::from_bits(b), min), [b, a]));
    match op {
        Binary64::Add => map2(a, b, u64::wrapping_add),
        Binary64::Sub => map2(a, b, u64::wrapping_sub),
        Binary64::MulLo => map2(a, b, u64::wrapping_mul),
        Binary64::MulHiU => map2(a, b, mul_hi_u),
        Binary64::MulHiS => map2(a, b, mul_hi_s),
        Binary64::DivU => map2(a, b, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Binary64::DivS => map2(a, b, |a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        Binary64::RemU => map2(a, b, |a, b| a.checked_rem(b).unwrap_or(u64::MAX)),
        Binary64::RemS => map2(a, b, |a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        Binary64::MinU => map2(a, b, u64::min),
        Binary64::MinS => map2(a, b, |a, b| (a as i64).min(b as i64) as u64),
        Binary64::MaxU => map2(a, b, u64::max),
        Binary64::MaxS => map2(a, b, |a, b| (a as i64).max(b as i64) as u64),
        Binary64::And => map2(a, b, |a, b| a & b),
        Binary64::Or => map2(a, b, |a, b| a | b),
        Binary64::Xor => map2(a, b, |a, b| a ^ b),
        Binary64::AddF64(rounding) => directed2(rounding, a, b, |a, b| a + b, |a, b, way| exact::fma(a, 1.0, b, way)),
        Binary64::SubF64(rounding) => directed2(rounding, a, b, |a, b| a - b, |a, b, way| exact::fma(a, 1.0, -b, way)),
        Binary64::MulF64(rounding) => directed2(rounding, a, b, |a, b| a * b, exact::multiply),
        // Of two NaNs a quotient takes the first, whatever else the second.
        Binary64::DivF64(rounding) => match direction(rounding) {
            None => map2(a, b, |a, b| settle(f64::from_bits(a) / f64::from_bits(b), [a, b])),
            way => map2(a, b, |a, b| settle(exact::divide(f64::from_bits(a), f64::from_bits(b), way), [a, b])),
        },
        Binary64::MinF64 => min_or_max(true),
        Binary64::MaxF64 => min_or_max(false),
        Binary64::CopysignF64 => map2(a, b, |a, b| (a & 1 << 63) | (b & !(1 << 63))),
    }
}

pub(in crate::emulator) fn ternary64(
    op: Ternary64,
    a: &[u64; LANES],
    b: &[u64; LANES],
    c: &[u64; LANES],
) -> [u64; LANES] {
    match op {
        Ternary64::MadLo => map3(a, b, c, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Ternary64::MadHiU => map3(a, b, c, |a, b, c| mul_hi_u(a, b).wrapping_add(c)),
        Ternary64::MadHiS => map3(a, b, c, |a, b, c| mul_hi_s(a, b).wrapping_add(c)),
        Ternary64::FmaF64(rounding) => map3(a, b, c, |a, b, c| fma(a, b, c, direction(rounding))),
    }
}

#[inline(always)]
pub(in crate::emulator) fn shift64(op: Shift64, a: &[u64; LANES], b: &[u32; LANES]) -> [u64; LANES] {
    match op {
        Shift64::Shl => map2(a, b, |a, b| if b < 64 { a << b } else { 0 }),
        Shift64::ShrU => map2(a, b, |a, b| if b < 64 { a >> b } else { 0 }),
        Shift64::ShrS => map2(a, b, |a, b| ((a as i64) >> b.min(63)) as u64),
    }
}

pub(in crate::emulator) fn count64(op: Count64, a: &[u64; LANES]) -> [u32; LANES] {
    let bfind = |a: u64, shiftamt: bool| match (a, shiftamt) {
        (0, _) => u32::MAX,
        (a, true) => a.leading_zeros(),
        (a, false) => 63 - a.leading_zeros(),
    };
    match op {
        Count64::Popc => map1(a, u64::count_ones),
        Count64::Clz => map1(a, u64::leading_zeros),
        Count64::BfindU { shiftamt } => map1(a, |a| bfind(a, shiftamt)),
        Count64::BfindS { shiftamt } => map1(a, |a| bfind(if (a as i64) < 0 { !a } else { a }, shiftamt)),
    }
}

#[inline(always)]
pub(in crate::emulator) fn mul_wide(signed: bool, a: &[u32; LANES], b: &[u32; LANES]) -> [u64; LANES] {
    if signed {
        map2(a, b, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64)
    } else {
        map2(a, b, |a, b| u64::from(a) * u64::from(b))
    }
}

#[inline(always)]
pub(in crate::emulator) fn mad_wide(
    signed: bool,
    a: &[u32; LANES],
    b: &[u32; LANES],
    c: &[u64; LANES],
) -> [u64; LANES] {
    let product = mul_wide(signed, a, b);
    map2(&product, c, u64::wrapping_add)
}

pub(in crate::emulator) fn bfe64(signed: bool, a: &[u64; LANES], p: &[u32; LANES], n: &[u32; LANES]) -> [u64; LANES] {
    map3(a, p, n, |a, p, n| bfe(a, p, n, 64, signed))
}

pub(in crate::emulator) fn bfi64(
    a: &[u64; LANES],
    b: &[u64; LANES],
    p: &[u32; LANES],
    n: &[u32; LANES],
) -> [u64; LANES] {
    std::array::from_fn(|i| bfi(a[i], b[i], p[i], n[i], 64))
}

/// To nearest by the processor, in a direction by the exact routine.
#[inline(always)]
fn directed1(
    rounding: Rounding,
    a: &[u64; LANES],
    nearest: impl Fn(f64) -> f64,
    exact: impl Fn(f64, Option<Direction>) -> f64,
) -> [u64; LANES] {
    match direction(rounding) {
        None => map1(a, |a| settle(nearest(f64::from_bits(a)), [a])),
        way => map1(a, |a| settle(exact(f64::from_bits(a), way), [a])),
    }
}

#[inline(always)]
fn directed2(
    rounding: Rounding,
    a: &[u64; LANES],
    b: &[u64; LANES],
    nearest: impl Fn(f64, f64) -> f64,
    exact: impl Fn(f64, f64, Option<Direction>) -> f64,
) -> [u64; LANES] {
    match direction(rounding) {
        None => map2(a, b, |a, b| settle(nearest(f64::from_bits(a), f64::from_bits(b)), [b, a])),
        way => map2(a, b, |a, b| settle(exact(f64::from_bits(a), f64::from_bits(b), way), [b, a])),
    }
}

/// One step of a carry chain. The flag changes only in the lanes that execute it.
pub(in crate::emulator) fn carry(registers: &mut Registers, lanes: Lanes, operands: &Carry) {
    let (a, b) = (registers.values(operands.a), registers.values(operands.b));
    let c = operands.c.map_or([0; LANES], |c| registers.values(c));
    let taken = if operands.takes { registers.pred(operands.flag) } else { 0 };
    let is_wide = matches!(operands.d, Reg::Wide(_));
    let bits = if is_wide { 64 } else { 32 };
    let mut given = 0;
    let out = std::array::from_fn(|lane| {
        let (a, b, c) = (a[lane], b[lane], c[lane]);
        let flag = u128::from(taken >> lane & 1);
        let (product, sum) = match operands.op {
            Carried::Add => (a, u128::from(a) + u128::from(b) + flag),
            // A borrow leaves ones above the result.
            Carried::Sub => (a, u128::from(a).wrapping_sub(u128::from(b)).wrapping_sub(flag)),
            Carried::MadLo if is_wide => (a.wrapping_mul(b), 0),
            Carried::MadLo => (u64::from((a as u32).wrapping_mul(b as u32)), 0),
            Carried::MadHiU if is_wide => (mul_hi_u(a, b), 0),
            Carried::MadHiU => ((a * b) >> 32, 0),
            Carried::MadHiS if is_wide => (mul_hi_s(a, b), 0),
            Carried::MadHiS => {
                let product = i64::from(a as u32 as i32) * i64::from(b as u32 as i32);
                (u64::from((product >> 32) as u32), 0)
            }
        };
        let sum = match operands.op {
            Carried::Add | Carried::Sub => sum,
            _ => u128::from(product) + u128::from(c) + flag,
        };
        given |= u32::from(sum >> bits & 1 == 1) << lane;
        sum as u64
    });
    registers.set_values(operands.d, lanes, out);
    if operands.gives {
        registers.set_pred(operands.flag, lanes, given);
    }
}

/// The bit that makes a NaN a quiet one.
pub(super) const QUIET: u64 = 1 << 51;

/// The NaN of an operation without one among its operands.
pub(super) const INVALID: u64 = 0xfff8 << 48;

pub(super) fn is_nan(bits: u64) -> bool {
    f64::from_bits(bits).is_nan()
}

/// A result that is NaN is the first of the operands that is one, as measured.
#[inline(always)]
fn settle<const N: usize>(result: f64, operands: [u64; N]) -> u64 {
    if result.is_nan() {
        return operands.into_iter().find(|v| is_nan(*v)).map_or(INVALID, |v| v | QUIET);
    }
    result.to_bits()
}

/// `a * b + c`, rounded once.
pub(super) fn fma(a: u64, b: u64, c: u64, way: Option<Direction>) -> u64 {
    settle(exact::fma(f64::from_bits(a), f64::from_bits(b), f64::from_bits(c), way), [b, c, a])
}

/// The hardware's estimates flush subnormals and have 20 bits; the low word is zero.
fn estimate(a: u64, f: impl Fn(f64) -> f64) -> u64 {
    let flush = |bits: u64| if bits & 0x7ff0_0000_0000_0000 == 0 { bits & 1 << 63 } else { bits };
    let a = flush(a);
    flush(settle(f(f64::from_bits(a)), [a])) & 0xffff_ffff_0000_0000
}

fn min_max(a: f64, b: f64, min: bool) -> f64 {
    if a.is_nan() {
        return b;
    }
    if b.is_nan() {
        return a;
    }
    if a == b {
        return if a.is_sign_negative() == min { a } else { b };
    }
    if (a < b) == min { a } else { b }
}

fn mul_hi_u(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

fn mul_hi_s(a: u64, b: u64) -> u64 {
    ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
}
