//! Values exchanged between the lanes of a warp. Which lanes take part has been settled before these run.

use super::LANES;
use super::float::{canonical, min_max_bits};
use crate::emulator::check::{Fault, ViolationKind, fault};
use crate::emulator::warp::{Lanes, Registers};
use crate::ptx::op::{Condition, Pred, ReduxOp, Reg, ShuffleMode, VoteMode, Word};

/// Operands of a shuffle.
#[derive(Clone, Copy, Debug)]
pub(in crate::emulator) struct Shuffle {
    pub(in crate::emulator) mode: ShuffleMode,
    pub(in crate::emulator) d: Word,
    pub(in crate::emulator) p: Option<Pred>,
    pub(in crate::emulator) a: Word,
    pub(in crate::emulator) b: Word,
    pub(in crate::emulator) c: Word,
    pub(in crate::emulator) mask: Word,
}

/// PTX ISA, `shfl.sync`. A source lane that isn't among `lanes`, or not in the reader's mask, is a fault.
#[inline(always)]
pub(in crate::emulator) fn shuffle(registers: &mut Registers, lanes: Lanes, s: Shuffle) -> Result<(), Box<Fault>> {
    let (a, b, c) = (registers.word(s.a), registers.word(s.b), registers.word(s.c));
    let masks = registers.word(s.mask);
    let is = |values: &[u32; LANES], value: u32| values.iter().fold(0, |bits, v| bits | (v ^ value)) == 0;
    // The usual butterfly: all lanes, one distance, no segments.
    if s.mode == ShuffleMode::Bfly && lanes.mask == u32::MAX && is(b, b[0]) && is(c, 31) && is(masks, u32::MAX) {
        let by = (b[0] & 31) as usize;
        let out = std::array::from_fn(|lane| a[lane ^ by]);
        registers.set_word(s.d, lanes, out);
        if let Some(p) = s.p {
            registers.set_pred(p, lanes, u32::MAX);
        }
        return Ok(());
    }
    let mut out = [0; LANES];
    let mut preds = 0u32;
    let mut absent = 0u32;
    for lane in 0..LANES as u32 {
        let i = lane as usize;
        let (source, inside) = source_lane(s.mode, lane, b[i], c[i]);
        out[i] = a[source as usize];
        preds |= u32::from(inside) << lane;
        absent |= u32::from((masks[i] & lanes.mask) >> source & 1 == 0) << lane;
    }
    if absent & lanes.mask != 0 {
        let lane = (absent & lanes.mask).trailing_zeros() as usize;
        let detail = format!(
            "lane {lane} shuffles by {} with mask {:#010x} from a lane that doesn't take part; lanes {:#010x} do",
            b[lane] & 31,
            masks[lane],
            lanes.mask
        );
        return Err(fault(ViolationKind::AbsentLane, lane, detail));
    }
    registers.set_word(s.d, lanes, out);
    if let Some(p) = s.p {
        registers.set_pred(p, lanes, preds);
    }
    Ok(())
}

/// The lane a lane reads, and whether that is the one asked for; out of range it is its own.
#[inline(always)]
pub(in crate::emulator) fn source_lane(mode: ShuffleMode, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let segment = c >> 8 & 31;
    let max = (lane & segment) | (c & 31 & !segment);
    let by = b & 31;
    let (source, inside) = match mode {
        // The bound is a signed comparison: going below lane 0 is out of range.
        ShuffleMode::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= max as i32),
        ShuffleMode::Down => (lane + by, lane + by <= max),
        ShuffleMode::Bfly => (lane ^ by, lane ^ by <= max),
        ShuffleMode::Idx => {
            let source = (lane & segment) | (by & !segment);
            (source, source <= max)
        }
    };
    (if inside { source & 31 } else { lane }, inside)
}

pub(in crate::emulator) fn vote(
    registers: &mut Registers,
    lanes: Lanes,
    mode: VoteMode,
    (d, p): (Word, Option<Pred>),
    a: Condition,
    mask: Word,
) {
    let votes = registers.condition(a) & lanes.mask;
    let masks = *registers.word(mask);
    let mut ballot = [0; LANES];
    let mut preds = 0;
    for (lane, ballot) in ballot.iter_mut().enumerate() {
        let members = masks[lane] & lanes.mask;
        let ayes = votes & members;
        *ballot = ayes;
        let holds = match mode {
            VoteMode::All => ayes == members,
            VoteMode::Any | VoteMode::Ballot => ayes != 0,
            VoteMode::Uni => ayes == 0 || ayes == members,
        };
        preds |= u32::from(holds) << lane;
    }
    registers.set_word(d, lanes, ballot);
    if let Some(p) = p {
        registers.set_pred(p, lanes, preds);
    }
}

pub(in crate::emulator) fn matching(
    registers: &mut Registers,
    lanes: Lanes,
    all: bool,
    (d, p): (Word, Option<Pred>),
    a: Reg,
    mask: Word,
) {
    let values = registers.values(a);
    let masks = *registers.word(mask);
    let mut out = [0; LANES];
    let mut preds = 0;
    for lane in lanes.iter() {
        let members = Lanes { mask: masks[lane] & lanes.mask, all: false };
        let equal = members.iter().filter(|m| values[*m] == values[lane]).fold(0u32, |bits, m| bits | 1 << m);
        let agreed = equal == members.mask;
        out[lane] = if all && !agreed { 0 } else { equal };
        preds |= u32::from(agreed) << lane;
    }
    registers.set_word(d, lanes, out);
    if let Some(p) = p {
        registers.set_pred(p, lanes, preds);
    }
}

pub(in crate::emulator) fn redux(registers: &mut Registers, lanes: Lanes, op: ReduxOp, d: Word, a: Word, mask: Word) {
    let values = *registers.word(a);
    let masks = *registers.word(mask);
    let mut out = [0; LANES];
    for lane in lanes.iter() {
        let members = Lanes { mask: masks[lane] & lanes.mask, all: false };
        let value = |m: usize| match op {
            ReduxOp::MinF32 { abs, .. } | ReduxOp::MaxF32 { abs, .. } => {
                canonical(f32::from_bits(if abs { values[m] & !(1 << 31) } else { values[m] }))
            }
            _ => values[m],
        };
        let folded = members.iter().map(value).reduce(|x, y| match op {
            ReduxOp::Add => x.wrapping_add(y),
            ReduxOp::MinU => x.min(y),
            ReduxOp::MinS => (x as i32).min(y as i32) as u32,
            ReduxOp::MaxU => x.max(y),
            ReduxOp::MaxS => (x as i32).max(y as i32) as u32,
            ReduxOp::And => x & y,
            ReduxOp::Or => x | y,
            ReduxOp::Xor => x ^ y,
            ReduxOp::MinF32 { nan, .. } => min_max_bits(x, y, true, nan),
            ReduxOp::MaxF32 { nan, .. } => min_max_bits(x, y, false, nan),
        });
        out[lane] = folded.unwrap_or(0);
    }
    registers.set_word(d, lanes, out);
}
