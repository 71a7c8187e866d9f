//! Comparisons: one bit a lane.

use super::float::flush_if;
use super::half::{decode_half, flush_half, holds};
use super::{LANES, bits};
use crate::ptx::Type;
use crate::ptx::op::{Compare, Relation};

#[inline(always)]
pub(in crate::emulator) fn compare32(compare: Compare, a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
    match compare.ty {
        Type::F32 if compare.ftz => {
            let f = |v: u32| f32::from_bits(flush_if(true, v));
            bits(|i| holds(compare.relation, f64::from(f(a[i])), f64::from(f(b[i]))))
        }
        Type::F32 => float32(compare.relation, a, b),
        Type::F16 => {
            let f = |v: u32| decode_half(false, flush_half(compare.ftz, v as u16));
            bits(|i| holds(compare.relation, f(a[i]), f(b[i])))
        }
        Type::Bf16 => bits(|i| holds(compare.relation, decode_half(true, a[i] as u16), decode_half(true, b[i] as u16))),
        Type::S32 => ordered(compare.relation, |i| a[i] as i32, |i| b[i] as i32),
        Type::S16 => ordered(compare.relation, |i| a[i] as i16, |i| b[i] as i16),
        _ => ordered(compare.relation, |i| a[i], |i| b[i]),
    }
}

#[inline(always)]
pub(in crate::emulator) fn compare64(compare: Compare, a: &[u64; LANES], b: &[u64; LANES]) -> u32 {
    match compare.ty {
        Type::F64 => bits(|i| holds(compare.relation, f64::from_bits(a[i]), f64::from_bits(b[i]))),
        Type::S64 => ordered(compare.relation, |i| a[i] as i64, |i| b[i] as i64),
        _ => ordered(compare.relation, |i| a[i], |i| b[i]),
    }
}

/// Lower and upper halves compared on their own.
pub(in crate::emulator) fn compare_halves(
    compare: Compare,
    bf16: bool,
    a: &[u32; LANES],
    b: &[u32; LANES],
) -> (u32, u32) {
    let at = |shift: u32| {
        bits(|i| {
            let half = |v: u32| decode_half(bf16, flush_half(compare.ftz, (v >> shift) as u16));
            holds(compare.relation, half(a[i]), half(b[i]))
        })
    };
    (at(0), at(16))
}

#[inline(always)]
fn float32(relation: Relation, a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
    let x = |i: usize| f32::from_bits(a[i]);
    let y = |i: usize| f32::from_bits(b[i]);
    match relation {
        Relation::Eq => bits(|i| x(i) == y(i)),
        Relation::Lt => bits(|i| x(i) < y(i)),
        Relation::Le => bits(|i| x(i) <= y(i)),
        Relation::Gt => bits(|i| x(i) > y(i)),
        Relation::Ge => bits(|i| x(i) >= y(i)),
        Relation::Neu => bits(|i| x(i) != y(i)),
        Relation::Leu => !bits(|i| x(i) > y(i)),
        Relation::Ltu => !bits(|i| x(i) >= y(i)),
        Relation::Geu => !bits(|i| x(i) < y(i)),
        Relation::Gtu => !bits(|i| x(i) <= y(i)),
        _ => bits(|i| holds(relation, f64::from(x(i)), f64::from(y(i)))),
    }
}

#[inline(always)]
fn ordered<T: Ord>(relation: Relation, a: impl Fn(usize) -> T, b: impl Fn(usize) -> T) -> u32 {
    match relation {
        Relation::Eq | Relation::Equ => bits(|i| a(i) == b(i)),
        Relation::Ne | Relation::Neu => bits(|i| a(i) != b(i)),
        Relation::Lt | Relation::Ltu => bits(|i| a(i) < b(i)),
        Relation::Le | Relation::Leu => bits(|i| a(i) <= b(i)),
        Relation::Gt | Relation::Gtu => bits(|i| a(i) > b(i)),
        Relation::Ge | Relation::Geu => bits(|i| a(i) >= b(i)),
        Relation::Num => u32::MAX,
        Relation::Nan => 0,
    }
}
