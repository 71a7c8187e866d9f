//! 32- and 16-bit integer, logic and bit-field operations.

use super::{LANES, float, half, map1, map2, map3, packed};
use crate::ptx::op::{Binary32, Ternary32, Unary32};

#[inline(always)]
pub(in crate::emulator) fn unary32(op: Unary32, a: &[u32; LANES]) -> [u32; LANES] {
    match op {
        Unary32::Not => map1(a, |a| !a),
        Unary32::Not16 => map1(a, |a| !a & 0xffff),
        Unary32::Neg => map1(a, u32::wrapping_neg),
        Unary32::Neg16 => map1(a, |a| a.wrapping_neg() & 0xffff),
        Unary32::Abs => map1(a, |a| (a as i32).wrapping_abs() as u32),
        Unary32::Abs16 => map1(a, |a| u32::from((a as i16).wrapping_abs() as u16)),
        Unary32::Cnot => map1(a, |a| u32::from(a == 0)),
        Unary32::Popc => map1(a, u32::count_ones),
        Unary32::Clz => map1(a, u32::leading_zeros),
        Unary32::Brev => map1(a, u32::reverse_bits),
        Unary32::BfindU { shiftamt } => map1(a, |a| bfind(a, shiftamt)),
        Unary32::BfindS { shiftamt } => map1(a, |a| bfind(if (a as i32) < 0 { !a } else { a }, shiftamt)),
        Unary32::EightToHalf { format, relu } => packed::eight_to_half(format, relu, a),
        Unary32::HalfToEight { format, relu } => packed::half_to_eight(format, relu, a),
        Unary32::NegHalf(_) | Unary32::AbsHalf(_) | Unary32::Ex2Half(_) | Unary32::TanhHalf(_) => half::unary(op, a),
        _ => float::unary(op, a),
    }
}

#[inline(always)]
pub(in crate::emulator) fn binary32(op: Binary32, a: &[u32; LANES], b: &[u32; LANES]) -> [u32; LANES] {
    match op {
        Binary32::Add => map2(a, b, u32::wrapping_add),
        Binary32::Sub => map2(a, b, u32::wrapping_sub),
        Binary32::MulLo => map2(a, b, u32::wrapping_mul),
        Binary32::MulHiU => map2(a, b, mul_hi_u),
        Binary32::MulHiS => map2(a, b, mul_hi_s),
        Binary32::Mul24LoU => map2(a, b, |a, b| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff)),
        Binary32::Mul24LoS => map2(a, b, |a, b| (((a << 8) as i32 >> 8).wrapping_mul((b << 8) as i32 >> 8)) as u32),
        Binary32::Mul24HiU => map2(a, b, |a, b| ((u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) >> 16) as u32),
        Binary32::Mul24HiS => map2(a, b, |a, b| {
            let low = |v: u32| i64::from((v << 8) as i32 >> 8);
            ((low(a) * low(b)) >> 16) as u32
        }),
        // Division by zero is all ones on the hardware; the manual leaves it unspecified.
        Binary32::DivU => map2(a, b, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        Binary32::DivS => map2(a, b, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }),
        Binary32::RemU => map2(a, b, |a, b| a.checked_rem(b).unwrap_or(u32::MAX)),
        Binary32::RemS => map2(a, b, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        Binary32::MinU => map2(a, b, u32::min),
        Binary32::MinS => map2(a, b, |a, b| (a as i32).min(b as i32) as u32),
        Binary32::MaxU => map2(a, b, u32::max),
        Binary32::MaxS => map2(a, b, |a, b| (a as i32).max(b as i32) as u32),
        Binary32::And => map2(a, b, |a, b| a & b),
        Binary32::Or => map2(a, b, |a, b| a | b),
        Binary32::Xor => map2(a, b, |a, b| a ^ b),
        Binary32::Shl => map2(a, b, |a, b| if b < 32 { a << b } else { 0 }),
        Binary32::ShrU => map2(a, b, |a, b| if b < 32 { a >> b } else { 0 }),
        Binary32::ShrS => map2(a, b, |a, b| ((a as i32) >> b.min(31)) as u32),
        Binary32::AddSatS => map2(a, b, |a, b| (a as i32).saturating_add(b as i32) as u32),
        Binary32::SubSatS => map2(a, b, |a, b| (a as i32).saturating_sub(b as i32) as u32),
        Binary32::Add16 => map2(a, b, |a, b| a.wrapping_add(b) & 0xffff),
        Binary32::Sub16 => map2(a, b, |a, b| a.wrapping_sub(b) & 0xffff),
        Binary32::MulLo16 => map2(a, b, |a, b| a.wrapping_mul(b) & 0xffff),
        Binary32::MulHiU16 => map2(a, b, |a, b| a.wrapping_mul(b) >> 16),
        Binary32::MulHiS16 => map2(a, b, |a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32 >> 16),
        Binary32::MulWideS16 => map2(a, b, |a, b| (i32::from(a as i16) * i32::from(b as i16)) as u32),
        Binary32::DivS16 => map2(a, b, |a, b| match b as i16 {
            0 => 0xffff,
            b => u32::from((a as i16).wrapping_div(b) as u16),
        }),
        Binary32::RemS16 => map2(a, b, |a, b| match b as i16 {
            0 => 0xffff,
            b => u32::from((a as i16).wrapping_rem(b) as u16),
        }),
        Binary32::MinS16 => map2(a, b, |a, b| u32::from((a as i16).min(b as i16) as u16)),
        Binary32::MaxS16 => map2(a, b, |a, b| u32::from((a as i16).max(b as i16) as u16)),
        Binary32::Shl16 => map2(a, b, |a, b| if b < 16 { (a << b) & 0xffff } else { 0 }),
        Binary32::ShrS16 => map2(a, b, |a, b| u32::from(((a as i16) >> b.min(15)) as u16)),
        Binary32::Packed(op) => packed::halves(op, a, b),
        Binary32::PackEight { format, relu } => packed::pack_eight(format, relu, a, b),
        Binary32::Pack16 => map2(a, b, |a, b| (a & 0xffff) | b << 16),
        Binary32::AddHalf(_)
        | Binary32::SubHalf(_)
        | Binary32::MulHalf(_)
        | Binary32::MinHalf(..)
        | Binary32::MaxHalf(..)
        | Binary32::SetHalf { .. }
        | Binary32::PackHalf { .. } => half::binary(op, a, b),
        _ => float::binary(op, a, b),
    }
}

#[inline(always)]
pub(in crate::emulator) fn ternary32(
    op: Ternary32,
    fused: bool,
    a: &[u32; LANES],
    b: &[u32; LANES],
    c: &[u32; LANES],
) -> [u32; LANES] {
    match op {
        Ternary32::FmaF32(mode) => float::fma(mode, fused, a, b, c),
        Ternary32::FmaHalf(mode) => half::fma(mode, a, b, c),
        Ternary32::FmaHalfOob(mode) => half::fma_oob(mode, a, b, c),
        Ternary32::MadLo => map3(a, b, c, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Ternary32::MadHiU => map3(a, b, c, |a, b, c| mul_hi_u(a, b).wrapping_add(c)),
        Ternary32::MadHiS => map3(a, b, c, |a, b, c| mul_hi_s(a, b).wrapping_add(c)),
        Ternary32::MadLo16 => map3(a, b, c, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff),
        Ternary32::SadU => map3(a, b, c, |a, b, c| c.wrapping_add(a.abs_diff(b))),
        Ternary32::SadS => map3(a, b, c, |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32))),
        Ternary32::BfeU => map3(a, b, c, |a, p, n| bfe(u64::from(a), p, n, 32, false) as u32),
        Ternary32::BfeS => map3(a, b, c, |a, p, n| bfe(u64::from(a), p, n, 32, true) as u32),
        Ternary32::Lop3(table) => lop3(table, a, b, c),
        Ternary32::Prmt => map3(a, b, c, prmt),
        Ternary32::PrmtF4e => map3(a, b, c, |a, b, c| permute(a, b, |i| (i + c % 4) % 8)),
        Ternary32::PrmtB4e => map3(a, b, c, |a, b, c| permute(a, b, |i| (c % 4).wrapping_sub(i) % 8)),
        Ternary32::PrmtRc8 => map3(a, b, c, |a, b, c| permute(a, b, |_| c % 4)),
        Ternary32::PrmtEcl => map3(a, b, c, |a, b, c| permute(a, b, |i| i.max(c % 4))),
        Ternary32::PrmtEcr => map3(a, b, c, |a, b, c| permute(a, b, |i| i.min(c % 4))),
        Ternary32::PrmtRc16 => map3(a, b, c, |a, b, c| permute(a, b, |i| (i % 2) + 2 * (c % 2))),
        Ternary32::ShfL { wrap } => map3(a, b, c, |a, b, c| {
            let n = if wrap { c % 32 } else { c.min(32) };
            (((u64::from(b) << 32 | u64::from(a)) << n) >> 32) as u32
        }),
        Ternary32::ShfR { wrap } => map3(a, b, c, |a, b, c| {
            let n = if wrap { c % 32 } else { c.min(32) };
            ((u64::from(b) << 32 | u64::from(a)) >> n) as u32
        }),
        Ternary32::Dp4a { a_signed, b_signed } => map3(a, b, c, |a, b, c| {
            let part = |v: u32, i: u32, signed: bool| {
                let byte = (v >> (8 * i)) as u8;
                if signed { i32::from(byte as i8) } else { i32::from(byte) }
            };
            (0..4).fold(c, |sum, i| sum.wrapping_add((part(a, i, a_signed) * part(b, i, b_signed)) as u32))
        }),
        Ternary32::Dp2a { a_signed, b_signed, high } => map3(a, b, c, |a, b, c| {
            let first = if high { 16 } else { 0 };
            (0..2).fold(c, |sum, i| {
                let (half, byte) = ((a >> (16 * i)) as u16, (b >> (first + 8 * i)) as u8);
                let half = if a_signed { i32::from(half as i16) } else { i32::from(half) };
                let byte = if b_signed { i32::from(byte as i8) } else { i32::from(byte) };
                sum.wrapping_add((half * byte) as u32)
            })
        }),
        Ternary32::PackSaturated { bits, signed } => packed::saturated(bits, signed, a, b, c),
        Ternary32::Fns => map3(a, b, c, |mask, base, n| nth_set(mask, base, n as i32)),
    }
}

pub(in crate::emulator) fn bfi(a: u64, b: u64, position: u32, length: u32, width: u32) -> u64 {
    let [position, length] = [position, length].map(|n| field_operand(n, width));
    if position >= width || length == 0 {
        return b;
    }
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let field = ones << position;
    (b & !field) | (a << position & field)
}

/// A position or length: its low byte counts, but in 64 bits the devices take larger numbers as large.
fn field_operand(n: u32, width: u32) -> u32 {
    if width == 64 { n.min(0xff) } else { n & 0xff }
}

/// Bit-field extraction: fields past the top are filled with the sign, or with zeros.
pub(in crate::emulator) fn bfe(a: u64, position: u32, length: u32, width: u32, signed: bool) -> u64 {
    let [position, length] = [position, length].map(|n| field_operand(n, width));
    if length == 0 {
        return 0;
    }
    let top = width - 1;
    let sign_at = (position + length - 1).min(top);
    let sign = signed && a >> sign_at & 1 == 1;
    let field = if position > top { 0 } else { a >> position };
    let kept = length.min(width.saturating_sub(position));
    let ones = if kept >= 64 { u64::MAX } else { (1u64 << kept) - 1 };
    (field & ones) | if sign { !ones } else { 0 }
}

fn bfind(a: u32, shiftamt: bool) -> u32 {
    match (a, shiftamt) {
        (0, _) => u32::MAX,
        (a, true) => a.leading_zeros(),
        (a, false) => 31 - a.leading_zeros(),
    }
}

/// Position of the `n`th set bit from `base` on, downwards for negative `n`; 0 asks for `base` itself.
fn nth_set(mask: u32, base: u32, n: i32) -> u32 {
    let above = if base < 32 { u32::MAX << base } else { 0 };
    let mut left = match n {
        0 => mask & 1u32.checked_shl(base).unwrap_or(0),
        1.. => mask & above,
        _ => (mask & !(above << 1)).reverse_bits(),
    };
    for _ in 1..n.unsigned_abs().clamp(1, 33) {
        left &= left.wrapping_sub(1);
    }
    match left.trailing_zeros() {
        32 => u32::MAX,
        at if n < 0 => 31 - at,
        at => at,
    }
}

fn mul_hi_u(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

fn mul_hi_s(a: u32, b: u32) -> u32 {
    ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
}

fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |out, i| {
        let selector = c >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        // The selector's top bit replicates the byte's sign instead of copying the byte.
        let byte = if selector & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
        out | u32::from(byte) << (8 * i)
    })
}

fn permute(a: u32, b: u32, select: impl Fn(u32) -> u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    (0..4).fold(0, |out, i| out | ((bytes >> (8 * select(i))) as u32 & 0xff) << (8 * i))
}

fn lop3(table: u8, a: &[u32; LANES], b: &[u32; LANES], c: &[u32; LANES]) -> [u32; LANES] {
    let term = |bit: u8| if table >> bit & 1 == 1 { u32::MAX } else { 0 };
    let terms: [u32; 8] = std::array::from_fn(|i| term(i as u8));
    map3(a, b, c, |a, b, c| {
        (terms[0] & !a & !b & !c)
            | (terms[1] & !a & !b & c)
            | (terms[2] & !a & b & !c)
            | (terms[3] & !a & b & c)
            | (terms[4] & a & !b & !c)
            | (terms[5] & a & !b & c)
            | (terms[6] & a & b & !c)
            | (terms[7] & a & b & c)
    })
}
