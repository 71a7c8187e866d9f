//! Several narrow values in a word: 16-bit integers and 8-bit floats.

use super::half::{decode_half, encode_half};
use super::{LANES, map1, map2, map3};
use crate::float::eight::Eight;
use crate::ptx::op::{Packed, Rounding};

pub(super) fn halves(op: Packed, a: &[u32; LANES], b: &[u32; LANES]) -> [u32; LANES] {
    match op {
        Packed::Add => each(a, b, u16::wrapping_add),
        Packed::MinU => each(a, b, u16::min),
        Packed::MaxU => each(a, b, u16::max),
        Packed::MinS { relu } => each(a, b, |a, b| clamp(relu, (a as i16).min(b as i16))),
        Packed::MaxS { relu } => each(a, b, |a, b| clamp(relu, (a as i16).max(b as i16))),
    }
}

fn clamp(relu: bool, value: i16) -> u16 {
    if relu { value.max(0) as u16 } else { value as u16 }
}

fn each(a: &[u32; LANES], b: &[u32; LANES], f: impl Fn(u16, u16) -> u16) -> [u32; LANES] {
    map2(a, b, |a, b| u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16 | u32::from(f(a as u16, b as u16)))
}

/// `cvt.pack`: `b` lowest, `a` above it, then as much of `c` as fits.
pub(super) fn saturated(bits: u8, signed: bool, a: &[u32; LANES], b: &[u32; LANES], c: &[u32; LANES]) -> [u32; LANES] {
    let (low, high) = if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    let one = |v: u32| (v as i32).clamp(low, high) as u32 & ((1 << bits) - 1);
    map3(a, b, c, |a, b, c| one(b) | one(a) << bits | c.checked_shl(2 * u32::from(bits)).unwrap_or(0))
}

/// Two f32 to 8-bit floats.
pub(super) fn pack_eight(format: Eight, relu: bool, a: &[u32; LANES], b: &[u32; LANES]) -> [u32; LANES] {
    let one = |bits: u32| u32::from(to_eight(format, relu, f64::from(f32::from_bits(bits))));
    map2(a, b, |a, b| one(a) << 8 | one(b))
}

/// Two f16 to 8-bit floats.
pub(super) fn half_to_eight(format: Eight, relu: bool, a: &[u32; LANES]) -> [u32; LANES] {
    let one = |bits: u16| u32::from(to_eight(format, relu, decode_half(false, bits)));
    map1(a, |a| one((a >> 16) as u16) << 8 | one(a as u16))
}

/// Two 8-bit floats to f16, which holds them exactly.
pub(super) fn eight_to_half(format: Eight, relu: bool, a: &[u32; LANES]) -> [u32; LANES] {
    let one = |bits: u8| {
        let value = clamp_negative(relu, format.decode(bits));
        u32::from(encode_half(false, Rounding::Nearest, value))
    };
    map1(a, |a| one((a >> 8) as u8) << 16 | one(a as u8))
}

fn to_eight(format: Eight, relu: bool, value: f64) -> u8 {
    format.encode(clamp_negative(relu, value))
}

/// -0 becomes +0 too; NaN stays.
fn clamp_negative(relu: bool, value: f64) -> f64 {
    if relu && value <= 0.0 { 0.0 } else { value }
}
