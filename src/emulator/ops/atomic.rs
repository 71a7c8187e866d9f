//! Atomic read-modify-write, lane after lane.

use super::float::{canonical, flush_if};
use super::half::{decode_half, encode_half, pick};
use super::memory::{effective, read, write};
use super::wide::{INVALID, QUIET, is_nan};
use super::{LANES, map1};
use crate::emulator::check::Fault;
use crate::emulator::spaces::{Request, Spaces};
use crate::emulator::warp::{Lanes, Registers};
use crate::ptx::Type;
use crate::ptx::op::{AccessSpace, Address, AtomicOp, HalfMode, MinMaxMode, Reg, Rounding};

/// Operands of one atomic instruction.
#[derive(Clone, Copy, Debug)]
pub(in crate::emulator) struct Atomic {
    pub(in crate::emulator) op: AtomicOp,
    pub(in crate::emulator) ty: Type,
    pub(in crate::emulator) space: AccessSpace,
    pub(in crate::emulator) d: Option<Reg>,
    pub(in crate::emulator) address: Address,
    pub(in crate::emulator) b: Reg,
    pub(in crate::emulator) c: Option<Reg>,
}

pub(in crate::emulator) fn atomic(
    spaces: &mut Spaces<'_>,
    registers: &mut Registers,
    lanes: Lanes,
    atomic: Atomic,
) -> Result<(), Box<Fault>> {
    let size = atomic.ty.size_bytes();
    let addresses = effective(registers, atomic.address);
    let mut request = Request { space: atomic.space, addresses, size, verb: "updated" };
    let span = spaces.resolve(lanes, &mut request)?;
    spaces.check_initialised(lanes, &span, size)?;
    spaces.check_read_races(lanes, &span, size, true, false)?;
    spaces.mark_written(lanes, &span, size)?;
    let b = registers.values(atomic.b);
    let c = atomic.c.map_or([0; LANES], |c| registers.values(c));
    let mut old = [0; LANES];
    for lane in lanes.iter() {
        let place = span.place(lane, size);
        spaces.check_write_race(place, lane, &[0; 8][..size], true)?;
        let global = !place.is_shared();
        let bytes = &mut spaces.segment_mut(place).bytes[place.offset..place.offset + size];
        old[lane] = read(bytes);
        write(bytes, combine((atomic.op, global), atomic.ty, old[lane], b[lane], c[lane]));
    }
    if let Some(d) = atomic.d {
        registers.set_values(d, lanes, map1(&old, |v| v));
    }
    Ok(())
}

fn combine((op, global): (AtomicOp, bool), ty: Type, old: u64, b: u64, c: u64) -> u64 {
    let signed = |v: u64| {
        if ty.size_bytes() == 8 { v as i64 } else { i64::from(v as i32) }
    };
    match op {
        AtomicOp::Add => add(ty, global, old, b),
        AtomicOp::Min | AtomicOp::Max if matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) => {
            half_min_max(op == AtomicOp::Min, ty, old, b)
        }
        AtomicOp::Min | AtomicOp::Max => {
            let b_wins = if ty.is_signed() { signed(b) < signed(old) } else { b < old };
            if b_wins == (op == AtomicOp::Min) { b } else { old }
        }
        AtomicOp::And => old & b,
        AtomicOp::Or => old | b,
        AtomicOp::Xor => old ^ b,
        AtomicOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomicOp::Exch => b,
        AtomicOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
    }
}

fn half_min_max(min: bool, ty: Type, old: u64, b: u64) -> u64 {
    let mode = HalfMode {
        bf16: matches!(ty, Type::Bf16 | Type::Bf16x2),
        packed: matches!(ty, Type::F16x2 | Type::Bf16x2),
        ftz: false,
        sat: false,
        relu: false,
    };
    let plain = MinMaxMode { nan: false, ftz: false, xorsign_abs: false };
    let one = |shift: u32| u64::from(pick(mode, plain, (old >> shift) as u16, (b >> shift) as u16, min)) << shift;
    one(0) | if mode.packed { one(16) } else { 0 }
}

/// Sums of f32 are flushed in global memory, not in shared (PTX ISA, `atom`).
fn add(ty: Type, global: bool, old: u64, b: u64) -> u64 {
    let half = |bf16: bool, a: u64, b: u64| {
        let sum = super::float::sum(decode_half(bf16, a as u16), decode_half(bf16, b as u16));
        u64::from(encode_half(bf16, Rounding::Nearest, sum))
    };
    let packed = |bf16: bool| half(bf16, old >> 16, b >> 16) << 16 | half(bf16, old & 0xffff, b & 0xffff);
    match ty {
        Type::F32 => {
            let [old, b] = [old, b].map(|v| f32::from_bits(flush_if(global, v as u32)));
            u64::from(flush_if(global, canonical(old + b)))
        }
        Type::F64 => match f64::from_bits(old) + f64::from_bits(b) {
            // Which NaN it is, and whether it is made quiet, is as measured.
            sum if !sum.is_nan() => sum.to_bits(),
            _ if global => [b, old].into_iter().find(|v| is_nan(*v)).unwrap_or(INVALID),
            _ => [old, b].into_iter().find(|v| is_nan(*v)).unwrap_or(INVALID) | QUIET,
        },
        Type::F16 => half(false, old, b),
        Type::Bf16 => half(true, old, b),
        Type::F16x2 => packed(false),
        Type::Bf16x2 => packed(true),
        _ => old.wrapping_add(b),
    }
}
